"""Errors that a user can cause, each reported in one message."""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can fix: the message gives the value, the rule and the remedy.

    Command lines print the message alone and exit with status 2.
    """


USER_CODE = (Exception, SystemExit)
"""What a user's code may raise, such as a script that ends itself or reads its own options; not Ctrl-C."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
quoted = _REPR.repr
"""Function that returns a value as a message quotes it: as Python writes it, shortened if it is long."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Return text from a file without line breaks and control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not among the known ones; it suggests the closest of them first."""
    names = sorted(known)
    near = get_close_matches(name[:80], names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {quoted(name)}: {hint}known: {', '.join(names)}")
