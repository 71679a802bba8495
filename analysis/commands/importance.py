"""`importance`: which parameters matter, at each width."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = (
    "importance",
    "print how much each parameter matters at each width, and over all widths",
)
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("bits", "parameter", "importance", "within", "n")
SHOWN = {"importance": ".3f"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)
    help_ = "of Optuna's evaluators (default: fanova)"
    parser.add_argument("--evaluator", choices=("fanova", "mdi", "pedanova"), default="fanova", help=help_)


def run(options: argparse.Namespace) -> "Report":
    from dataclasses import asdict

    from analysis.formats import Report
    from analysis.importance import LEAST, importances

    studies = read_studies(options)
    several = ("study",) if len(studies) > 1 else ()
    rows = [asdict(each) for each in importances(studies, options.evaluator)]
    notes = [
        f"share of what varies that a parameter explains ({options.evaluator}, Optuna); within: among the trials of "
        f"these methods, which alone have the parameter"
    ]
    empty = f"nothing to compare: no width has {LEAST} points that differ in a parameter and in accuracy"
    return Report((*several, *COLUMNS), rows, notes if rows else (), empty=empty, formats=SHOWN)
