"""The command line: `python -m analysis points|best|front|trials|list|record|replay`."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdq.errors import UserError, quoted

if TYPE_CHECKING:
    import pandas

    from study.results.point import Point


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, or 2 after a UserError, printed in one line."""
    options = _parser().parse_args(arguments)
    try:
        text = _run(options)
        if getattr(options, "output", None):
            _write(options.output, text)
        else:
            _print(text)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> str:
    from analysis import report
    from analysis.store import open_store

    if options.command == "replay":
        return _replay(options)
    store = open_store(options.tracking_uri)
    if options.command == "list":
        return report.studies_report(store, options.format)
    study = store.study(options.study)
    if options.command == "best":
        return report.best_report(store, study, options.max_bits, options.format)
    if options.command == "trials":
        return report.trials_report(store, study, options.format)
    if options.command == "record":
        from analysis.record import to_csv

        return to_csv(store.record(study))
    points = store.points(study)
    if options.command == "points":
        return report.points_report(points, options.format)
    if options.figure:
        _draw(list(points), options.figure, study.name)
    return report.front_report(study, points, options.format, options.figure)


def _replay(options: argparse.Namespace) -> str:
    from analysis import replay
    from analysis.record import from_csv, from_rows
    from analysis.report import replay_report
    from analysis.store import open_store

    setting = replay.Setting(options.orders, options.slots, options.grace_period, options.reduction_factor)
    if options.record:
        rows = from_csv(_read(options.record))
    else:
        store = open_store(options.tracking_uri)
        rows = store.record(store.study(options.study))
    record = from_rows(rows)
    outcomes = replay.play(record, setting)
    table = replay.summary(record, outcomes)
    if options.figure:
        title = f"{options.study or options.record.stem}: early stopping replayed over {options.orders} orders"
        _draw_replay(replay.mean_curves(record, outcomes), table, options.figure, title)
    return replay_report(record, table, options.format, options.figure)


def _draw_replay(curves: "pandas.DataFrame", table: "pandas.DataFrame", path: Path, title: str) -> None:
    from analysis.figures.replay import draw_replay

    try:
        draw_replay(curves, table, path, title)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a name that no file can have
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', error)}") from None


def _draw(points: list["Point"], path: Path, study: str) -> None:
    from study.results.figure import draw_front

    try:
        draw_front(points, path, f"{study}: accuracy against total bits")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _write(path: Path, text: str) -> None:
    from kdq.store.files import publish

    try:
        publish(path, (text.rstrip("\n") + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _print(text: str) -> None:
    try:
        print(text.rstrip("\n"), flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Analyse studies logged to MLflow.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    points = _command(commands, "points", "print every point", ("table", "csv", "json"))
    points.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of the terminal")
    best = _command(commands, "best", "print the best configuration within a budget", ("text", "json"))
    best.add_argument("--max-bits", type=_budget, required=True, metavar="BITS", help="total bits, such as 2e6")
    front = _command(commands, "front", "print the Pareto front and its hypervolume", ("table", "csv", "json"))
    front.add_argument("--figure", type=_figure, metavar="FILE", help="draw the front in this .png, .svg or .pdf file")
    trials = _command(commands, "trials", "print how every trial ended, and why", ("table", "csv", "json"))
    for command in (points, best, front, trials):
        command.add_argument("--study", required=True, metavar="NAME", help="name of the study (see the command list)")
    record = _command(commands, "record", "print every trial's accuracy at every width after every epoch", ("csv",))
    record.add_argument("--study", required=True, metavar="NAME", help="name of the study (see the command list)")
    record.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of the terminal")
    _add_replay(commands)
    _command(commands, "list", "print the studies in the store", ("table", "json"))
    return parser


def _add_replay(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    purpose = "replay early stopping on a study whose trials all ran to the last epoch: what would it have lost?"
    replay = _command(commands, "replay", purpose, ("table", "csv", "json"))
    source = replay.add_mutually_exclusive_group(required=True)
    source.add_argument("--study", metavar="NAME", help="name of the study (see the command list)")
    source.add_argument("--record", type=Path, metavar="FILE", help="file written by the command record")
    replay.add_argument(
        "--orders", type=_whole, default=100, metavar="N", help="random orders of trials (default: 100)"
    )
    replay.add_argument("--slots", type=_whole, default=2, metavar="N", help="concurrent trials (default: 2)")
    replay.add_argument(
        "--grace-period", type=_whole, default=1, metavar="N", help="epochs to the first rung (default: 1)"
    )
    help_ = "one in X trials survives a rung, and each rung is at X times the epochs of the last (default: 3)"
    replay.add_argument("--reduction-factor", type=_number, default=3, metavar="X", help=help_)
    replay.add_argument(
        "--figure", type=_figure, metavar="FILE", help="draw the result in this .png, .svg or .pdf file"
    )
    replay.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of the terminal")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    purpose: str,
    forms: Sequence[str],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=purpose, description=purpose)
    command.add_argument("--format", choices=forms, default=forms[0], help=f"default: {forms[0]}")
    where = "tracking store (default: $MLFLOW_TRACKING_URI, or sqlite:///mlruns/mlflow.db)"
    command.add_argument("--tracking-uri", metavar="URI", help=where)
    return command


def _figure(text: str) -> Path:
    from study.results.figure import FORMATS

    path = Path(text)
    if path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    return path


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # also for more than 4,300 digits
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must be a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must be a number") from None


def _budget(text: str) -> float:
    try:
        bits = float(text)
    except ValueError:
        bits = math.nan
    if not 0 < bits < math.inf:
        raise argparse.ArgumentTypeError(f"{quoted(text)} must be a positive number of bits, such as 2e6")
    return bits


if __name__ == "__main__":
    sys.exit(main())
