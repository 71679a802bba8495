"""`best`: the best configuration of a study within a budget, and why; the smallest that cannot be told from it."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_budget, add_study, read_budget, read_study

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "best", "print the best configuration within a budget, and why"
FORMATS: tuple[str, ...] = ("text", "table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    add_budget(parser)


def run(options: argparse.Namespace) -> "Report":
    from analysis.answer import answer
    from analysis.answer_report import report

    budget, results = read_budget(options), read_study(options)
    return report(results, budget, answer(results, budget))
