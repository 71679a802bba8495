"""`points`: every point of a study, or of several."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "points", "print every point"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)


def run(options: argparse.Namespace) -> "Report":
    from analysis.formats import Report
    from analysis.results import no_points
    from study.results.point import COLUMNS

    studies = read_studies(options)
    several = {"study": ""} if len(studies) > 1 else {}
    rows = [
        {**dict.fromkeys(several, each.name), **point.row(), "options": point.options or None}
        for each in studies
        for point in each.points
    ]
    return Report((*several, *COLUMNS), rows, empty=no_points(studies))
