"""`report`: one HTML page about studies, which works offline."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, read_studies
from analysis.formats import FORMATS as FORMS

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "report", "write one HTML page, which works offline: the answer, linked pictures, a picker of budgets"
FORMATS: tuple[str, ...] = ("html", *FORMS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)


def run(options: argparse.Namespace) -> "Report":
    from analysis.formats import Report
    from analysis.page.render import render

    studies = read_studies(options)
    page = render(studies)
    rows = [{"study": each.name, "trials": len(each.trials), "points": len(each.points)} for each in studies]
    return Report(("study", "trials", "points"), rows, text=page)
