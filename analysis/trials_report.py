"""How every trial ended, and why, as a table; its epochs, seconds and accuracies."""

from collections.abc import Sequence

from analysis.formats import Report
from analysis.results import Results
from kdq.bits import display_order

COLUMNS = ("trial_id", "trial", "status", "epochs", "seconds")


def report(studies: Sequence[Results]) -> Report:
    """Return the trials of studies in the order in which they started, with the accuracy at each width."""
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
