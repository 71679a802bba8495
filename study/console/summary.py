"""The summary at the end of a study's command: how the study ended, its front, and the next commands."""

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.console.program import CONSOLE_SCRIPT, program_name
from study.results.front import missing_seeds, seed_groups, with_front
from study.results.point import Point
from study.results.status import StudyStatus, TrialStatus
from study.results.tables import as_text, front_table
from study.tracking.uri import is_sqlite, repeatable, shown
from study.tracking.views import link
from study.units import duration

SHOWN_STOPS = 10  # stopped trials that the summary lists
UI = "http://127.0.0.1:5000"  # where `mlflow ui` serves a local store
VIEW = "kdq-trials"
SCRIPT = Path(__file__).parents[1] / "run.py"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a study's command ended. experiment: the id of its experiment in MLflow; figure: the
    path of the front's figure; failure: the error that stopped the study,
    if any; leaves_rest: only failed trials were retried, and other trials are unfinished; shortage: why the search
    ended before its number of trials, if it did; stopped: the names of stopped trials, each with the reason; seeds:
    how many the study has."""

    study: str
    status: StudyStatus
    seconds: float
    statuses: Mapping[str, TrialStatus]
    points: Sequence[Point]
    experiment: str
    figure: str
    failure: str
    signal: int
    leaves_rest: bool
    shortage: str
    stopped: Mapping[str, str]
    seeds: int = 1

    @property
    def exit_status(self) -> int:
        """0: completed; 1: trials failed; 128 and the signal's number: interrupted."""
        if self.signal:
            return 128 + self.signal
        is_retried = self.leaves_rest and not any(status.is_failure for status in self.statuses.values())
        is_done = self.status is StudyStatus.COMPLETED or is_retried
        return 0 if is_done and not self.failure else 1


def close(outcome: Outcome, uri: str, arguments: Sequence[str], log: Callable[[str], None]) -> None:
    """Print the outcome. uri: of the tracking store; arguments: the command's arguments; log: prints a line without
    wrapping it at the terminal's width."""
    ends = Counter(TrialStatus.INTERRUPTED if word.is_open else word for word in outcome.statuses.values())
    counts = ", ".join(f"{count} {word}" for word, count in ends.items())
    log(
        f"\nstudy {outcome.study}: {outcome.status} after {duration(outcome.seconds)}; trials: {counts or 'none ended'}"
    )
    if outcome.shortage:
        log(outcome.shortage)
    for name, reason in list(outcome.stopped.items())[:SHOWN_STOPS]:
        log(f"stopped: {name}: {reason}")
    if len(outcome.stopped) > SHOWN_STOPS:
        more = len(outcome.stopped) - SHOWN_STOPS
        log(f"stopped: {more} more; python -m analysis trials --study {outcome.study} lists all with their reasons")
    if outcome.points:
        log("\nPareto front (chosen on validation; test beside it):")
        lacking = missing_seeds(outcome.points, outcome.seeds)
        print("\n".join(filter(None, [as_text(front_table(outcome.points)), lacking])))
        print(f"\nfigure: {_here(outcome.figure)}")
        _print_commands(outcome, uri, arguments)
    if outcome.signal:
        print(interrupted(arguments))
    elif outcome.leaves_rest:
        print("\nother trials of the study are unfinished: run the same command without --retry-failed")
    if outcome.failure:
        print(outcome.failure, file=sys.stderr)


def interrupted(arguments: Sequence[str]) -> str:
    """Return the message after Ctrl-C. arguments: the arguments of the command."""
    is_installed = program_name() == CONSOLE_SCRIPT
    program = [_here(sys.argv[0])] if is_installed else [_program("python"), _here(str(SCRIPT))]
    command = shlex.join([*program, *arguments])
    return f"\ninterrupted: no finished result is lost; to resume:\n  {command}"


def _print_commands(outcome: Outcome, uri: str, arguments: Sequence[str]) -> None:
    ui = [_program("mlflow"), "ui", "--backend-store-uri", shown(uri)]
    print(f"MLflow: {shlex.join(ui) if is_sqlite(uri) else shown(uri)}")
    print(f"trials, points, front there: {link(UI if is_sqlite(uri) else shown(uri), outcome.experiment, VIEW)}")
    best = [_program("python"), "-m", "analysis", "best", "--study", outcome.study]
    budget = ["--max-bits", f"{_budget(outcome.points):.2g}"]
    is_default = not any(argument.startswith(("--tracking-uri", "--storage-path")) for argument in arguments)
    store = [] if is_default else ["--tracking-uri", repeatable(uri)]
    print(f"best under a budget: {shlex.join([*best, *budget, *store])}")


def _budget(points: Sequence[Point]) -> float:
    """Return a budget of bits that half of the front fits, as an example."""
    front = sorted(group.mean("total_bits") for group in seed_groups(with_front(points)) if group.on_front)
    return 1.1 * front[len(front) // 2]


def _program(name: str) -> str:
    return str(Path(_here(sys.prefix)) / "bin" / name)


def _here(path: str) -> str:
    """Return a path relative to the current folder if it is inside it."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
