"""`report`: one HTML page about studies, which works offline."""

import argparse
import sys
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, read_studies
from analysis.formats import FORMATS as FORMS
from kdq.errors import UserError

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "report", "write one HTML page, which works offline: the answer, linked pictures, a picker of budgets"
ARTIFACT = "report.html"
FORMATS: tuple[str, ...] = ("html", *FORMS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)
    help_ = f"log the page to MLflow, as the file {ARTIFACT} of each study's run"
    parser.add_argument("--log", action="store_true", help=help_)


def run(options: argparse.Namespace) -> "Report":
    from analysis.formats import Report
    from analysis.page.render import render

    is_shown = options.format == "html" and options.output is None
    if is_shown and not options.log and sys.stdout.isatty():
        raise UserError("a report is a page of 5 MB, not for a terminal: give --output report.html, or --log")
    studies = read_studies(options)
    page = render(studies)
    for each in studies if options.log else ():
        each.store.log_text(each.study, ARTIFACT, page)
    logged = [f"logged {ARTIFACT} to the run of {each.name}" for each in studies]
    rows = [{"study": each.name, "trials": len(each.trials), "points": len(each.points)} for each in studies]
    return Report(("study", "trials", "points"), rows, text="\n".join(logged) if is_shown and options.log else page)
