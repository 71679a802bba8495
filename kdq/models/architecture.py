"""An architecture of a library or of a file, in its parts: SOURCE:NAME[?OPTION=VALUE&…]."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from kdq.errors import UserError
from kdq.models.stems import STEMS

STEM, WEIGHTS = "stem", "weights"
"""The options that are no keyword arguments."""

PYTHON = re.compile(r"True|False|None|[\[{(].*", re.DOTALL)
"""Values as Python writes them, and lists that are no JSON: as text, each would be true in a condition."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A parsed architecture.

    source: a name in SOURCES, "" for our own; options: as they are written, without `weights`; sha256: of the file of a
    pinned `python:` architecture.
    """

    source: str
    name: str
    options: tuple[tuple[str, str], ...] = ()
    weights: str | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        options = [*self.options, *([] if self.weights is None else [(WEIGHTS, self.weights)])]
        query = "&".join(f"{key}={value}" for key, value in options)
        pin = f"#{self.sha256}" if self.sha256 else ""
        return f"{self.source}{':' if self.source else ''}{self.name}{'?' if query else ''}{query}{pin}"

    @property
    def stem(self) -> str:
        return dict(self.options).get(STEM, STEMS[0])

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments of the function that builds the network."""
        return {key: value(unquote(text)) for key, text in self.options if key != STEM}

    @property
    def file(self) -> Path:
        """The file of a `python:` architecture."""
        return Path(self.name.rpartition(":")[0])

    @property
    def function(self) -> str:
        return self.name.rpartition(":")[2]

    def of_file(self, file: Path) -> "Architecture":
        """Return the same function of another file."""
        return replace(self, name=f"{file}:{self.function}")


def check_options(architecture: Architecture) -> None:
    """Raise UserError for an option that would become text, but is written as a value of Python, or a broken list."""
    for key, text in architecture.options:
        if isinstance(value(unquote(text)), str) and PYTHON.fullmatch(unquote(text)):
            raise UserError(
                f"architecture {str(architecture)!r}: option {key}={text}; write values as JSON, such as false, true, "
                "null or [1,2]"
            )


def value(text: str) -> Any:
    """Return an option's value: JSON, such as a number, true or a list, or else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def literal(value: Any) -> str:
    """Invert `value` and `unquote`."""
    return quote(json.dumps(value, separators=(",", ":")), safe='[]{}",:.')
