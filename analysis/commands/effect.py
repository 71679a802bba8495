"""`effect`: accuracies by the values of one parameter."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "effect", "print the validation accuracy at each width by the values of one parameter"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("bits", "value", "val_top1", "deviation", "low", "high", "best", "n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parameter", metavar="PARAMETER", help="such as alpha, method or student")
    add_studies(parser)


def run(options: argparse.Namespace) -> "Report":
    from dataclasses import asdict

    from analysis.effect import effects
    from analysis.formats import Report

    studies = read_studies(options)
    several = ("study",) if len(studies) > 1 else ()
    rows = [asdict(each) for each in effects(studies, options.parameter)]
    notes = [
        "val_top1, deviation, low, high: mean, standard deviation and 95 % interval over the points of all "
        "configurations with the value; best: of the best configuration"
    ]
    return Report((*several, *COLUMNS), rows, notes if rows else (), empty="no points")
