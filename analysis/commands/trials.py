"""`trials`: how every trial ended, and why; what it trained, and its accuracy at each width."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "trials", "print how every trial ended, and why; its epochs, seconds and accuracies"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("trial_id", "trial", "status", "epochs", "seconds")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)


def run(options: argparse.Namespace) -> "Report":
    from analysis.formats import Report
    from kdq.bits import display_order

    studies = read_studies(options)
    several = ["study"] if len(studies) > 1 else []
    widths = sorted({bits for each in studies for trial in each.trials for bits in trial.accuracies}, key=display_order)
    accuracies = {bits: f"val_top1_{bits}bit" for bits in widths}
    rows = []
    for each in studies:
        for trial in each.trials:
            epochs, seconds = each.trainings[trial.id]
            ends = (trial.id, trial.name, str(trial.status), epochs, seconds)
            row = {**dict.fromkeys(several, each.name), **dict(zip(COLUMNS, ends, strict=True))}
            row |= {name: trial.accuracies.get(bits) for bits, name in accuracies.items()}
            rows.append({**row, "reason": trial.reason})
    shown = {"seconds": ".1f"}
    return Report((*several, *COLUMNS, *accuracies.values(), "reason"), rows, empty="no trials yet", formats=shown)
