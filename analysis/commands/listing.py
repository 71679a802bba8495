"""`list`: the studies of a tracking store."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import open_options

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "list", "print the studies in the store"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("study", "state", "trials", "completed", "points", "best_val_top1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> "Report":
    from analysis.formats import Report
    from study.results.front import comparable, most_valuable
    from study.results.status import TrialStatus

    store, rows = open_options(options), []
    for study in store.studies():
        states, points = store.trial_states(study), list(store.points(study))
        groups = comparable(points)
        best = most_valuable(groups).mean("val_top1") if groups else None
        counts = (states.total(), states[TrialStatus.COMPLETED], len(points))
        rows.append(dict(zip(COLUMNS, (study.name, str(study.status), *counts, best), strict=True)))
    return Report(COLUMNS, rows, document=rows, empty="no studies yet")
