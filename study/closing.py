"""The last words of a study's command: how the study ended, its front, and what one may do next."""

import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdq.points import Point, as_text, configurations, front_table, with_front
from kdq.tracking import shown
from study.progress import duration

if TYPE_CHECKING:
    from study.session import Session

OPEN = ("running", "paused")
"""Trials that the end of the command has interrupted."""

SCRIPT = Path(__file__).with_name("run.py")


def close(session: "Session", status: str, uri: str, given: Sequence[str]) -> None:
    """Print them. uri: of the tracking store; given: the arguments of the command."""
    print_ = session.progress.note  # which does not break a line where the terminal ends
    seconds = duration(time.monotonic() - session.progress.began)
    ends = Counter("interrupted" if word in OPEN else word for word in session.statuses.values())
    counts = ", ".join(f"{count} {word}" for word, count in ends.items())
    print_(f"\nstudy {session.name}: {status} after {seconds}; trials: {counts or 'none ended'}")
    if session.points:
        print_("\nPareto front (chosen on validation; test beside it):")
        print(as_text(front_table(session.points)))
        print(f"\nfigure: {_here(session.tracker.figure_path())}")
        _print_commands(session, uri, given)
    if session.is_interrupted:
        print(interrupted(given))
    elif session.agenda.retry and not session.is_complete:
        print("\nother trials of the study are unfinished: the same command without --retry-failed runs them")


def interrupted(given: Sequence[str]) -> str:
    """What to say after Ctrl-C; given: the arguments of the command."""
    command = shlex.join([_program("python"), _here(str(SCRIPT)), *given])
    return f"\ninterrupted: nothing that was finished is lost; to go on:\n  {command}"


def _print_commands(session: "Session", uri: str, given: Sequence[str]) -> None:
    ui = [_program("mlflow"), "ui", "--backend-store-uri", shown(uri)]
    print(f"MLflow: {shlex.join(ui) if uri.startswith('sqlite:') else shown(uri)}")
    best = [_program("python"), "-m", "analysis", "best", "--study", session.name]
    budget = ["--max-bits", f"{_budget(session.points):.2g}"]
    is_default = not any(argument.startswith(("--tracking-uri", "--storage-path")) for argument in given)
    store = [] if is_default else ["--tracking-uri", shown(uri)]
    print(f"best under a budget: {shlex.join([*best, *budget, *store])}")


def _budget(points: Sequence[Point]) -> float:
    """A budget of bits that half of the front fits, for an example."""
    front = sorted(group.mean("total_bits") for group in configurations(with_front(points)) if group.on_front)
    return 1.1 * front[len(front) // 2]


def _program(name: str) -> str:
    return str(Path(_here(sys.prefix)) / "bin" / name)


def _here(path: str) -> str:
    """A path as one would type it in this folder."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
