"""`effect`: accuracies by the values of one parameter."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, draw, figure, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "effect", "print the validation accuracy at each width by the values of one parameter"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("bits", "value", "val_top1", "deviation", "low", "high", "best", "n")


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

    studies, name = read_studies(options), options.parameter
    several = ("study",) if len(studies) > 1 else ()
    found, empty = effects(studies, name), no_points(studies)
    if options.figure:
        title = f"{', '.join(options.studies)}: validation accuracy by {name}"
        drawing = (found, dots(studies, name), name, options.figure, title, empty)
        draw(lambda: draw_effect(*drawing), options.figure)
    notes = [
        "val_top1, deviation, low, high: mean, standard deviation and 95 % interval over the points of all "
        "configurations with the value; best: of the best configuration, of those "
        "with all seeds"
    ]
    drawn = [f"figure {options.figure}"] if options.figure else []
    rows = [asdict(each) for each in found]
    return Report((*several, *COLUMNS), rows, [*(notes if rows else ()), *drawn], empty=empty)
