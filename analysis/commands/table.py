"""`table`: the objective by two parameters, by default methods × widths."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = (
    "table",
    "print the objective, accuracy by default, by two parameters, such as methods by widths; the best are marked",
)
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)
    add = parser.add_argument
    add("--rows", default="method", metavar="PARAMETER", help="parameter of the rows, bits or study (default: method)")
    add("--columns", default="bits", metavar="PARAMETER", help="parameter of the columns (default: bits)")
    help_ = "on the validation or the test images (default: val); val always chooses"
    add("--measure", choices=("val", "test"), default="val", help=help_)
    add("--paper", metavar="DATASET", help="put the study paper's test accuracies beside: cifar10 or cifar100")


def run(options: argparse.Namespace) -> "Report":
    from analysis.method_report import report

    return report(read_studies(options), options.rows, options.columns, options.measure, options.paper)
