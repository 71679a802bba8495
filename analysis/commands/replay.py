"""`replay`: early stopping replayed on a complete record."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands.command import Once, draw, figure, number, open_options, whole
from kdq.errors import UserError

if TYPE_CHECKING:
    import pandas
    from rich.progress import Progress

    from analysis.formats import Report
    from analysis.record import StudyRecord

NAME = "replay"
PURPOSE = "replay early stopping on a study whose trials all ran to the last epoch: what would it have lost?"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--study", action=Once, metavar="NAME", help="name of the study (see the command list)")
    source.add_argument("--record", type=Path, metavar="FILE", help="file written by the command record")
    add = parser.add_argument
    add("--orders", type=whole, default=100, metavar="N", help="random orders of trials (default: 100)")
    add("--slots", type=whole, default=2, metavar="N", help="concurrent trials (default: 2)")
    add("--grace-period", type=whole, default=1, metavar="N", help="epochs to the first rung (default: 1)")
    help_ = "one in X trials survives a rung, and each rung is at X times the epochs of the last (default: 3)"
    add("--reduction-factor", type=number, default=3, metavar="X", help=help_)
    add("--figure", type=figure, metavar="FILE", help="draw the result in this .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> "Report":
    from analysis import replay
    from analysis.figures.replay import draw_replay
    from analysis.record import from_csv, from_rows

    setting = replay.Setting(options.orders, options.slots, options.grace_period, options.reduction_factor)
    if options.record:
        rows = from_csv(_read(options.record))
    else:
        store = open_options(options)
        rows = store.record(store.study(options.study))
    record = from_rows(rows)
    with _progress() as progress:
        outcomes = replay.play(record, setting, lambda orders, name: progress.track(orders, description=name))
    table = replay.summary(record, outcomes)
    if options.figure:
        title = f"{options.study or options.record.stem}: early stopping replayed over {options.orders} orders"
        draw(lambda: draw_replay(replay.mean_curves(record, outcomes), table, options.figure, title), options.figure)
    return _report(record, table, options.figure)


def _progress() -> "Progress":
    """Return a display of progress on stderr, which shows nothing if that is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _report(record: "StudyRecord", table: "pandas.DataFrame", figure: Path | None) -> "Report":
    """Return what every strategy spent, found and lost on a record."""
    from analysis.formats import Report
    from analysis.replay import EQUAL_BUDGET, on_front

    named = {"epochs": "epochs", "saved": "saved", "front_lost": "front lost", "hypervolume": "hypervolume"}
    named["equal_budget"] = f"hypervolume at {EQUAL_BUDGET:.0%}"
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    shown = [
        {"strategy": row["strategy"], **{new: _spread(row[old], row[f"{old}_std"]) for old, new in named.items()}}
        for row in rows
    ]
    head = (
        f"{len(record.curves)} trials of {record.epochs} epochs, {len(on_front(record))} of them on the true front: "
        f"{_ranked(record)}; means ± deviations over {table['n'].iloc[0]} orders"
    )
    notes = [
        "saved: % of the grid's epochs. front lost: % of the true front's trials that were not completed.",
        f"hypervolume: % × octaves (reference 0 %, 2^30 bits; validation), at the end and with {EQUAL_BUDGET:.0%} "
        f"of the grid's epochs.",
        *([f"figure {figure}"] if figure else []),
    ]
    return Report(list(rows[0]), rows, notes, display=shown, head=head)


def _ranked(record: "StudyRecord") -> str:
    """Return what the true front is made of."""
    if not record.configurations:
        return "of single trials as probed after the last epoch, since the record has no points"
    seeds = max(len(target.trials) for target in record.configurations)
    return "the study's own, of its points" + (f" averaged over {seeds} seeds" if seeds > 1 else "")


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.1f}" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name that no file can have
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None
