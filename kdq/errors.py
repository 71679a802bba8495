"""What a user can do wrong, said in one message."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can mend: the message gives the value, the rule and the remedy.

    Command lines print the message alone and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line: some of them say pages, others nothing but their name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among the known ones; the nearest known name comes first."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")
