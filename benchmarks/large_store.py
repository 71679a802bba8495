"""What a large study costs its readers and its driver: processor time and memory of commands on 12,000 points.

    python -m benchmarks.large_store

The store is a SQLite file in a temporary folder. The tracker logs a study with one trial of 8 points to it; copies of
their rows, each with its own ids, alpha and accuracy, make the other trials. Every command runs in a process of its
own:

- analysis points, front, best, …: `python -m analysis` on that study, whose points know which of 5,000 validation and
  10,000 test images they classify correctly;
- tracker: a driver opens the tracker on that study, as its start does;
- finished: the command of a finished study of the embedded digits (2 trials) in a store of its own, which finds nothing
  to do.

Seconds are processor time of the process and its children, user and system, which other work on the machine hardly
changes.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.report import ROOT, circumstances, publish
from kdq.correctness import encode
from study.plan.plan import Plan
from study.results.point import Point
from study.results.status import StudyStatus, TrialStatus
from study.space.load import load_space
from study.space.workload import load_workload
from study.tracking import schema
from study.tracking.study_page import StudyPage
from study.tracking.tracker import Tracker, open_tracker

STUDY = "large"
WIDTHS = (2, 3, 4, 5, 6, 7, 8, 32)
IMAGES = {"val": 5_000, "test": 10_000}
TRIAL = f"{0:016x}"
FINISHED = "--space dkd_grid --trials 2 --epochs 2 --bits 2,4 --name small --set teacher_train.epochs=3"
OPEN = (
    "from pathlib import Path; from study.tracking.tracker import open_tracker; "
    f"open_tracker('sqlite:///mlflow.db', {STUDY!r}, Path(), print, bool)"
)
ANALYSES: Mapping[str, Sequence[str]] = {
    **{name: ["--study", STUDY] for name in ("points", "front", "trials", "table", "hypervolume", "rungs")},
    "best": ["--study", STUDY, "--max-bits", "1e9"],
    "compare": ["alpha=0.5", "beta=8", "--study", STUDY],
    "report": ["--study", STUDY, "--output", "report.html"],
    "front --figure": ["front.png", "--study", STUDY],
    "effect": ["alpha", "--study", STUDY, "--figure", "effect.png"],
    "heatmap": ["alpha", "temperature", "--study", STUDY, "--figure", "heatmap.png"],
    "importance": ["--study", STUDY, "--figure", "importance.png"],
}
COMMANDS: Mapping[str, Sequence[str]] = {
    **{
        f"analysis {name}": ["-m", "analysis", *name.split(), *options, "--tracking-uri", "sqlite:///mlflow.db"]
        for name, options in ANALYSES.items()
    },
    "tracker": ["-c", OPEN],
    "finished": [str(ROOT / "study" / "run.py"), *FINISHED.split()],
}
AIMS = {name: "<= 10" if name.startswith("analysis") else "<= 5" for name in COMMANDS} | {"finished": "<= 4"}


PAGE = StudyPage("", WIDTHS, ("alpha", "beta"), ("alpha", "beta"), "digits", "0" * 64, 1)


def fill(folder: Path, trials: int) -> None:
    """Write a store of a study with this many trials, each with a point at every width."""
    tracker = open_tracker(f"sqlite:///{folder}/mlflow.db", STUDY, folder, print, bool)
    _log(tracker)
    study = tracker.runs["study"].id
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            _copy(store, table, trials - 1, study)


def _log(tracker: Tracker) -> None:
    """Log a study with one trial."""
    plan = Plan("dkd_grid", "digits", load_space("dkd_grid", {"scheduler": "asha"}), load_workload("digits", {}), (0,))
    own = {"method": "dkd", "alpha": 0.0, "beta": 8.0, "temperature": 4.0, "seed": 0, "student": "resnet20"}
    params = {**plan.params(), **own, "widths": ",".join(map(str, WIDTHS)), "trial_id": TRIAL}
    tracker.start_study({"settings": plan.document()}, plan.params(), "python study/run.py --space dkd_grid", PAGE)
    tracker.start_trial(TRIAL, "0" * 64, "dkd", params)
    tracker.log_epoch(TRIAL, 1, {"train_loss": 1.0, "val_loss": 1.0, "val_top1": 50.0, "lr": 0.1, "seconds": 1.0})
    generator = np.random.default_rng(0)
    for bits in WIDTHS:
        size, top1 = 270_000 * bits, 9.0 * bits**0.5
        correct = {part: encode(100 * generator.random(count) < top1) for part, count in IMAGES.items()}
        point = Point(TRIAL, "dkd", 0.0, 8.0, 4.0, None, 0, "resnet20", bits, bits, size, size // 8, top1, 50.0)
        tracker.log_point(point, f"dkd, {bits} bits", {**params, "bits": bits}, (), correct)
    best = {schema.point_metric(name, bits): 50.0 for name in ("val_top1", "test_top1") for bits in WIDTHS}
    tracker.end_trial(TRIAL, TrialStatus.COMPLETED, "", best)
    tracker.end_study(StudyStatus.COMPLETED, {"points": len(WIDTHS)})


def _copy(store: sqlite3.Connection, table: str, copies: int, study: str) -> None:
    """Copy the rows of the trial's and its points' runs; the copies have ids of their own."""
    columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
    own = "substr(run_uuid, 1, 24) || printf('%08x', n)"
    trial = "replace(value, :trial, printf('%016x', n))"
    keys = f"'{schema.TRIAL}', '{schema.POINT}', 'trial_id'"
    values: dict[str, str] = {"run_uuid": own}
    if table == "tags":
        parent = "substr(value, 1, 24) || printf('%08x', n)"
        values["value"] = (
            f"CASE WHEN key IN ({keys}) THEN {trial} "
            f"WHEN key = 'mlflow.parentRunId' AND value != :study THEN {parent} ELSE value END"
        )
    elif table == "params":
        values["value"] = (
            f"CASE key WHEN 'trial_id' THEN {trial} WHEN 'alpha' THEN printf('%g', n / 1000.0) ELSE value END"
        )
    elif table.endswith("metrics"):
        values["value"] = "CASE key WHEN 'val_top1' THEN value + n * 0.37 % 7 ELSE value END"
    store.execute(
        f"WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < :copies) "
        f"INSERT INTO {table} ({', '.join(columns)}) "
        f"SELECT {', '.join(values.get(column, column) for column in columns)} FROM {table}, copies "
        f"WHERE run_uuid != :study",
        {"copies": copies, "study": study, "trial": TRIAL},
    )


def measure(name: str, folder: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the processor time and the memory of a command: medians over the rounds."""
    used = [_used(COMMANDS[name], folder) for _ in range(rounds)]
    yield {"what": f"{name}: s", "value": median(seconds for seconds, _ in used), "aim": AIMS[name], "n": rounds}
    yield {"what": f"{name}: MB", "value": median(memory for _, memory in used), "aim": "", "n": rounds}


def _used(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run Python with these arguments; return its processor time in seconds and its memory at most in MB."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = psutil.Popen([sys.executable, *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    memory = 0.0
    while True:
        with suppress(psutil.Error):
            memory = max(memory, process.memory_info().rss / 1e6)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    assert status == 0, command
    return usage.ru_utime + usage.ru_stime, memory


def main() -> None:
    options = _options()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill(folder, options.points // len(WIDTHS))
        if "finished" in options.parts:
            _used(COMMANDS["finished"], folder)
        for part in options.parts:
            rows += measure(part, folder, options.rounds)
            print(rows[-2], flush=True)
    publish("large_store", circumstances(1), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    parts = tuple(COMMANDS)
    add("--parts", nargs="+", choices=parts, default=parts, metavar="PART", help=f"any of {', '.join(parts)}")
    add("--points", type=int, default=12_000, help="points of the large study (default: 12,000)")
    add("--rounds", type=int, default=3, help="runs of each command (default: 3)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
