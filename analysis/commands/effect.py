"""`effect`: the objective by the values of one parameter."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, draw, figure, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "effect", "print the objective, validation accuracy by default, by the values of one parameter"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("parameter", metavar="PARAMETER", help="such as alpha, method or student")
    add_studies(parser)
    parser.add_argument("--figure", type=figure, metavar="FILE", help="draw it in this .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> "Report":
    from dataclasses import asdict

    from analysis.effect import dots, effects
    from analysis.figures.effect import draw_effect
    from analysis.formats import Report
    from analysis.results import no_points
    from analysis.volumes import common_objective

    studies, name = read_studies(options), options.parameter
    several = ("study",) if len(studies) > 1 else ()
    decides = common_objective(studies)
    found, empty = effects(studies, name), no_points(studies)
    if options.figure:
        title = f"{', '.join(options.studies)}: validation {decides.title} by {name}"
        drawing = (found, dots(studies, name), name, decides, options.figure, title, empty)
        draw(lambda: draw_effect(*drawing), options.figure)
    notes = [
        f"{decides.column}, deviation, low, high: mean, standard deviation and 95 % interval over the points of all "
        "configurations with the value; best: of the best configuration, of those "
        "with all seeds"
    ]
    drawn = [f"figure {options.figure}"] if options.figure else []
    rows = [
        {decides.column if name == "mean" else name: value for name, value in asdict(each).items()} for each in found
    ]
    columns = (*several, "bits", "value", decides.column, "deviation", "low", "high", "best", "n")
    shown = dict.fromkeys(("deviation", "low", "high", "best"), f".{decides.decimals}f")
    return Report(columns, rows, [*(notes if rows else ()), *drawn], empty=empty, formats=shown)
