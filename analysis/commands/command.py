"""What a command is, and the options that commands share."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kdq.errors import UserError, quoted

if TYPE_CHECKING:
    from analysis.answer import Budget
    from analysis.formats import Report
    from analysis.results import Results
    from analysis.store import Store


class Command(Protocol):
    """A command: a module with these names. One of several studies reads `options.studies`, else `options.study`."""

    NAME: str
    PURPOSE: str
    FORMATS: tuple[str, ...]  # the first is the default

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own options."""

    def run(self, options: argparse.Namespace) -> "Report":
        """Return what the command prints."""


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add `--study NAME` for a command of one study."""
    help_ = "name of the study (see the command list)"
    parser.add_argument("--study", required=True, action=Once, metavar="NAME", help=help_)


class Once(argparse.Action):
    """An option that is refused if it is given twice, instead of ignoring the first value."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, _: str | None = None
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "given twice: the command takes one")
        setattr(namespace, self.dest, values)


def add_studies(parser: argparse.ArgumentParser) -> None:
    """Add `--study NAME`, once or several times."""
    help_ = "name of the study (see the command list); several times for several studies"
    parser.add_argument("--study", required=True, action="append", dest="studies", metavar="NAME", help=help_)


def add_budget(parser: argparse.ArgumentParser) -> None:
    """Add the budgets, of which exactly one must be given."""
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("--max-bits", type=positive("bits, such as 2e6"), metavar="BITS", help="the most total bits, such as 2e6")
    add("--max-bytes", type=positive("bytes, such as 250e3"), metavar="BYTES", help="the most bytes of the packed file")
    help_ = "mean validation accuracy in percent, or value of the study's objective: the smallest one that reaches it"
    add("--target-accuracy", type=positive("percent, at most 100", 100), metavar="PERCENT", help=help_)


def read_budget(options: argparse.Namespace) -> "Budget":
    """Return the budget that the options name."""
    from analysis.answer import Budget

    return Budget(options.max_bits, options.max_bytes, options.target_accuracy)


def open_options(options: argparse.Namespace) -> "Store":
    """Return the tracking store that the options name."""
    from analysis.store import open_store

    return open_store(options.tracking_uri)


def read_study(options: argparse.Namespace) -> "Results":
    """Return the results of `--study`."""
    from analysis.results import read

    return read(open_options(options), [options.study])[0]


def read_studies(options: argparse.Namespace) -> "list[Results]":
    """Return the results of every `--study`."""
    from analysis.results import read

    return read(open_options(options), options.studies)


def figure(text: str) -> Path:
    """Return the path of a figure, of a format that can be drawn."""
    from study.results.style import FORMATS

    path = Path(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    return path


def whole(text: str) -> int:
    """Return a whole number."""
    try:
        return int(text)
    except ValueError:  # also for more than 4,300 digits
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must be a whole number") from None


def number(text: str) -> float:
    """Return a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must be a number") from None


def positive(what: str, most: float = math.inf) -> Callable[[str], float]:
    """Return the parser of a positive, finite number, at most `most`. what: its unit and an example, for the error."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf or value > most:
            raise argparse.ArgumentTypeError(f"{quoted(text)} must be a positive number of {what}")
        return value

    return parse


def draw(function: Callable[[], None], path: Path) -> None:
    """Draw a figure. Raises UserError if it cannot be written."""
    try:
        function()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
