"""A study under random kills until it completes: are its points the same, and how much time is lost?

    python -m benchmarks.kills

Repeatedly, the driver, a worker or one of Ray's two processes (raylet, gcs_server) gets SIGKILL: the process and
the delay after its start are random. When the driver has died, the same command is run again. If the study
completes before all kills, another with the next seed follows. Each is compared with an undisturbed study in a
separate folder: its points bit by bit, and its number of runs in MLflow. The seed decides the delays and the
victims; what they interrupt depends on the machine, too.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from mlflow import MlflowClient

from benchmarks.report import ROOT, circumstances, publish

NAME = "kills"
SPACE = """
description: eight students, of which two survive both rungs
params:
  method: {grid: [ce, dkd]}
  beta: {grid: [1, 2, 3, 4, 6, 8, 12], when: {method: dkd}}
bits: [2, 4]
scheduler: {name: halving, grace_period: 3, reduction_factor: 2}
"""
VICTIMS = {"driver": "", "worker": "ray::ImplicitFunc", "raylet": "raylet", "gcs_server": "gcs_server"}
"""What is killed -> the name of its process."""
DELAY = 15.0
"""The longest delay from the start of a victim to its kill, in seconds; the mean is half of it."""
PATIENCE = 3
"""The attempts to complete a study after its last kill."""


@dataclass
class Study:
    """A study in a separate folder."""

    folder: Path
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    seconds: float = 0.0

    def start(self) -> "subprocess.Popen[bytes]":
        self.folder.mkdir(exist_ok=True)
        (self.folder / "space.yaml").write_text(SPACE)
        options = f"--space space.yaml --name {NAME} --seeds {self.seed} --epochs 12 --set teacher_train.epochs=3"
        self.starts += 1
        with (self.folder / "output.txt").open("ab") as output:
            command = [sys.executable, str(ROOT / "study" / "run.py"), *options.split()]
            return subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=output)

    def run(self, chance: random.Random, kills: int) -> None:
        """Run the study to its end, with at most `kills` kills."""
        began = time.monotonic()
        driver = self.start()
        while self.kills.total() < kills and driver.poll() != 0:
            if driver.poll() is not None:
                driver = self.start()
            if victim := strike(driver, chance):
                self.kills[victim] += 1
                print(f"{time.monotonic() - began:6.0f} s  killed: {victim}", flush=True)
        for _ in range(PATIENCE):
            if driver.wait() == 0:
                break
            driver = self.start()
        else:
            raise RuntimeError((self.folder / "output.txt").read_text())
        self.seconds = time.monotonic() - began

    def points(self) -> list[dict[str, str]]:
        """Return the points as `analysis` lists them."""
        command = [sys.executable, "-m", "analysis", "points", "--study", NAME, "--format", "csv"]
        listed = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True)
        return list(csv.DictReader(listed.stdout.splitlines()))

    def runs(self) -> int:
        """Return the number of runs in MLflow."""
        client = MlflowClient(f"sqlite:///{self.folder}/mlruns/mlflow.db")
        experiment = client.get_experiment_by_name(NAME)
        assert experiment is not None
        return len(client.search_runs([experiment.experiment_id]))


def strike(driver: "subprocess.Popen[bytes]", chance: random.Random) -> str | None:
    """Kill a random process of a study after a random delay. Returns what it was; None if the study ended before."""
    what, delay = chance.choice(list(VICTIMS)), chance.uniform(0, DELAY)
    while driver.poll() is None and not _find(driver, what):
        time.sleep(0.1)
    with suppress(subprocess.TimeoutExpired):
        driver.wait(delay)
    for victim in _find(driver, what):
        victim.kill()
        if victim.pid == driver.pid:
            driver.wait()
        return what
    return None


def _find(driver: "subprocess.Popen[bytes]", what: str) -> list[psutil.Process]:
    """Return the current processes of this kind of a study."""
    if driver.poll() is not None:
        return []
    process = psutil.Process(driver.pid)
    return [process] if what == "driver" else [p for p in process.children(recursive=True) if _is(p, what)]


def _is(process: psutil.Process, what: str) -> bool:
    with suppress(psutil.NoSuchProcess, IndexError):
        first = process.cmdline()[0]
        return first.startswith(VICTIMS[what]) or Path(first).name == VICTIMS[what]
    return False


def row(study: Study, undisturbed: Study) -> Mapping[str, object]:
    points = study.points()
    same = points == undisturbed.points() and study.runs() == undisturbed.runs()
    return {
        "study": study.seed,
        "kills": study.kills.total(),
        **{what: study.kills[what] for what in VICTIMS},
        "restarts": study.starts - 1,
        "points": len(points),
        "same": same,
        "seconds": study.seconds,
        "undisturbed_seconds": undisturbed.seconds,
        "lost_seconds": study.seconds - undisturbed.seconds,
    }


def main() -> int:
    options = _options()
    chance, left = random.Random(options.seed), options.kills
    rows: list[Mapping[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        while left > 0:
            folder, seed = Path(temporary), len(rows)
            undisturbed, study = Study(folder / f"undisturbed{seed}", seed), Study(folder / f"disturbed{seed}", seed)
            undisturbed.run(chance, 0)
            study.run(chance, left)
            rows.append(row(study, undisturbed))
            left -= study.kills.total()
    publish("kills", circumstances(1), rows)
    return 0 if all(each["same"] for each in rows) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the delays and the victims (default: 0)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
