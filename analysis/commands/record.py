"""`record`: the accuracy of every trial at every width after every epoch, which `replay` needs."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_study, open_options

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "record", "print every trial's accuracy at every width after every epoch"
FORMATS: tuple[str, ...] = ("csv", "table", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)


def run(options: argparse.Namespace) -> "Report":
    from dataclasses import asdict

    from analysis.formats import Report
    from analysis.record import COLUMNS

    store = open_options(options)
    rows = [asdict(row) for row in store.record(store.study(options.study))]
    return Report(COLUMNS, rows, empty="no trials yet")
