"""`best`: the best configuration of a study within a budget, and why; the smallest that cannot be told from it."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_study, positive, read_study

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "best", "print the best configuration within a budget, and why"
FORMATS: tuple[str, ...] = ("text", "table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    budget = parser.add_mutually_exclusive_group(required=True)
    add = budget.add_argument
    add("--max-bits", type=positive("bits, such as 2e6"), metavar="BITS", help="the most total bits, such as 2e6")
    add("--max-bytes", type=positive("bytes, such as 250e3"), metavar="BYTES", help="the most bytes of the packed file")
    help_ = "mean validation accuracy in percent: the smallest configuration that reaches it"
    add("--target-accuracy", type=positive("percent, at most 100", 100), metavar="PERCENT", help=help_)


def run(options: argparse.Namespace) -> "Report":
    from analysis.answer import Budget, answer
    from analysis.answer_report import report

    budget = Budget(options.max_bits, options.max_bytes, options.target_accuracy)
    results = read_study(options)
    return report(results, budget, answer(results, budget))
