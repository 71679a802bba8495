"""`front`: the Pareto front of a study, or of several together, and its hypervolume."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, draw, figure, read_studies
from kdq.errors import UserError

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "front", "print the Pareto front and its hypervolume; of several studies, the front of all together"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)
    parser.add_argument("--figure", type=figure, metavar="FILE", help="draw the front in this .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> "Report":
    from analysis.front_report import report
    from study.results.figure import draw_front

    studies = read_studies(options)
    if options.figure:
        if len(studies) > 1:
            raise UserError(f"--figure {options.figure}: draws one study; give one --study")
        title = f"{studies[0].name}: accuracy against total bits"
        draw(lambda: draw_front(studies[0].points, options.figure, title), options.figure)
    return report(studies, options.figure)
