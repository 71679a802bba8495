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
    help_ = "what the figure's colours show: method, student, seed, bits, study, or a parameter such as alpha"
    parser.add_argument("--by", metavar="COLUMN", help=f"{help_} (default: method; of several studies: study)")


def run(options: argparse.Namespace) -> "Report":
    from analysis.front_report import report
    from analysis.results import no_points
    from study.results.figure import draw_fronts
    from study.results.marks import Drawn
    from study.results.objective import TOP1

    if options.by and not options.figure:
        raise UserError(f"--by {options.by}: colours the figure; give --figure FILE too")
    studies = read_studies(options)
    found = report(studies, options.figure)
    if options.figure:
        decides = studies[0].decides
        title = f"{', '.join(options.studies)}: {decides.title} against total bits"
        teachers = [each.study.teacher if decides.name == TOP1 else None for each in studies]
        drawn = [Drawn(e.name, e.points, teacher, e.interval) for e, teacher in zip(studies, teachers, strict=True)]
        draw(lambda: draw_fronts(drawn, options.figure, title, options.by, no_points(studies)), options.figure)
    return found
