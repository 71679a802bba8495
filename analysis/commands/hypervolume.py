"""`hypervolume`: how the front of a study, or of several, grew over trials or epochs."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, draw, figure, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "hypervolume", "print the hypervolume over the finished trials, or over the epochs that they trained"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)
    help_ = "count finished trials, or the epochs that they trained (default: trials)"
    parser.add_argument("--over", choices=("trials", "epochs"), default="trials", help=help_)
    parser.add_argument("--figure", type=figure, metavar="FILE", help="draw it in this .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> "Report":
    from analysis.figures.progress import draw_hypervolume
    from analysis.formats import Report
    from analysis.progress import hypervolume_over_epochs, hypervolume_over_trials
    from analysis.volumes import scale

    studies = read_studies(options)
    table = (hypervolume_over_epochs if options.over == "epochs" else hypervolume_over_trials)(studies)
    if options.figure:
        title = f"{', '.join(options.studies)}: hypervolume over {options.over}"
        draw(lambda: draw_hypervolume(table, options.figure, title), options.figure)
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    # People read where it changes, and where it ends.
    last = {row["study"]: number for number, row in enumerate(rows)}
    previous = [{"study": None}, *rows]
    display = [
        row
        for number, (before, row) in enumerate(zip(previous, rows, strict=False))
        if number == last[row["study"]]
        or (before["study"], before.get("hypervolume", 0)) != (row["study"], row["hypervolume"])
    ]
    named = scale(studies)
    notes = [f"hypervolume: {named.definition}; rows where it is unchanged are left out"] if named and rows else []
    notes += [f"figure {options.figure}"] if options.figure else []
    return Report(list(table.columns), rows, notes, display=display, empty="no finished trials")
