"""`rungs`: what a scheduler stopped at which rung, and whether the rungs ranked trials as the end did."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, draw, figure, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "rungs", "print what was stopped at which rung, and the rank correlation of each rung with the end"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("study", "rung", "trials", "stopped", "completed", "kendall", "spearman")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)
    parser.add_argument("--trials", action="store_true", help="print every trial at every rung instead")
    parser.add_argument("--figure", type=figure, metavar="FILE", help="draw it in this .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> "Report":
    from analysis.figures.progress import draw_rungs
    from analysis.formats import Report
    from analysis.progress import rung_summary, rungs

    table = rungs(read_studies(options))
    drawn = [f"figure {options.figure}"] if options.figure else []
    if options.figure:
        title = f"{', '.join(options.studies)}: what was stopped at which rung"
        draw(lambda: draw_rungs(table, options.figure, title), options.figure)
    if options.trials:
        rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
        return Report(list(table.columns), rows, drawn, empty="no trial has reached a rung")
    notes = [
        "kendall, spearman: rank correlation of the accuracies at the rung and at the end, of the completed trials"
    ]
    rows = rung_summary(table)
    return Report(COLUMNS, rows, [*(notes if rows else ()), *drawn], empty="no trial has reached a rung")
