"""`importance`: which parameters matter, at each width."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, draw, figure, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = (
    "importance",
    "print how much each parameter matters at each width, and over all widths",
)
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("bits", "parameter", "importance", "within", "n")
SHOWN = {"importance": ".3f"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)
    help_ = "of Optuna's evaluators (default: fanova up to 300 trials, pedanova, which is far faster, above)"
    parser.add_argument("--evaluator", choices=("fanova", "mdi", "pedanova"), help=help_)
    parser.add_argument("--figure", type=figure, metavar="FILE", help="draw it in this .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> "Report":
    from dataclasses import asdict

    from analysis.figures.importance import draw_importance
    from analysis.formats import Report
    from analysis.importance import LEAST, evaluator_for, importances

    studies = read_studies(options)
    several = ("study",) if len(studies) > 1 else ()
    evaluator = options.evaluator or evaluator_for(studies)
    found = importances(studies, evaluator)
    notes = [
        f"share of what varies that a parameter explains ({evaluator}, Optuna); within: among the trials of these "
        f"methods, which alone have the parameter"
    ]
    if found and not options.evaluator and evaluator != "fanova":
        notes.append("pedanova, since there are more than 300 trials; --evaluator fanova takes minutes")
    empty = f"nothing to compare: no width has {LEAST} points that differ in a parameter and in the objective"
    if options.figure:
        title = f"{', '.join(options.studies)}: importance of parameters ({evaluator})"
        draw(lambda: draw_importance(found, options.figure, title, empty), options.figure)
    drawn = [f"figure {options.figure}"] if options.figure else []
    rows = [asdict(each) for each in found]
    return Report((*several, *COLUMNS), rows, [*(notes if rows else ()), *drawn], empty=empty, formats=SHOWN)
