"""The overhead of the platform, beside the work of the trials.

    python -m benchmarks.platform

Every part runs studies of the embedded digits in a temporary folder through the users' command line; the work of a
trial is replaced only where this says so:

- start: from the command to the start of the first epoch, with data and teacher in the store;
- student: the time of a slot for a trial whose student exists, without its evaluation;
- busy: the share of the slots' time in which a trial works and does not wait for the driver, from the first trial of
  the last slot until one slot has no further trial; `on a core` is the share in which it computes (the
  driver and Ray need cores, too); and the time between the first trials of the first and the last slot. For two kinds
  of trials of 30 s: ResNet-56 with epochs of about 1 s, and ResNet-8 with epochs of 0.1 s, each of which is reported;
- trivial: trials that only report an epoch and a point, through Ray, the queue and MLflow: time per trial and memory
  of the driver in the first and in the last quarter;
- tuner: the same through Ray's own Tuner and MLflowLoggerCallback, once with reused workers, as ours are, and once
  with the default, new workers. They log the same metrics, but no point, file or front.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from statistics import fmean, median
from threading import Event as Signal
from typing import Any
from unittest.mock import patch

import psutil
import ray
from mlflow import MlflowClient
from mlflow.entities import Run
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback

from benchmarks.report import ROOT, circumstances, publish
from kdq.bits import FLOAT_BITS
from study.backends import ray_tune
from study.plan.resources import cores
from study.results.point import Point
from study.results.status import TrialStatus
from study.run import main as run_study
from study.trial.events import EpochEnded, Event, PointMeasured, TrialEnded
from study.trial.trial import Trial

Row = dict[str, Any]
STORE = "sqlite:///mlruns/mlflow.db"
SPACE = f"""
description: any number of different students
params: {{method: METHOD, label_smoothing: {{uniform: [0, 0.2]}}}}
searcher: random
trials: 1
bits: [{FLOAT_BITS}]
"""


def arguments(name: str, trials: int, *more: str, method: str = "ce") -> list[str]:
    """Return the arguments of a study with this number of trials, each with its own student."""
    file = Path(f"{method}.yaml")
    file.write_text(SPACE.replace("METHOD", method))
    return ["--space", str(file), "--name", name, "--trials", str(trials), *more]


def run(name: str, trials: int, *more: str) -> list[Run]:
    """Run a study here. Returns the MLflow runs of its trials, in the order in which they ended."""
    with Path("out.txt").open("a") as file, redirect_stdout(file):
        status = run_study(arguments(name, trials, *more))
    assert status == 0, Path("out.txt").read_text()
    return ended(name, "tags.`kdq.kind` = 'trial'")


def ended(experiment: str, only: str = "") -> list[Run]:
    """Return the runs of an experiment, in the order in which they ended."""
    client = MlflowClient(STORE)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs: list[Run] = []
    token: str | None = None
    while token or not runs:
        page = client.search_runs([found.experiment_id], only, page_token=token)
        runs, token = runs + page, page.token
        if not token:
            break
    return sorted(runs, key=lambda each: each.info.end_time)


def start_up(rounds: int) -> list[float]:
    """Return the seconds from the command to the start of the first epoch, for each round."""
    recipe = ("--epochs", "1", "--set", "teacher_train.epochs=2")
    _start_up(arguments("teacher", 1, *recipe, method="vkd"))
    return [
        _start_up(arguments(f"start{n}", 1, *recipe, "--seeds", f"{n}", method="vkd")) for n in range(1, rounds + 1)
    ]


def _start_up(study: Sequence[str]) -> float:
    started = time.time()
    script = [sys.executable, str(ROOT / "study" / "run.py")]
    subprocess.run([*script, *study], check=True, stdout=subprocess.DEVNULL)
    name = study[study.index("--name") + 1]
    (trial,) = ended(name, "tags.`kdq.kind` = 'trial'")
    (first,) = MlflowClient(STORE).get_metric_history(trial.info.run_id, "seconds")
    return float(first.timestamp / 1000 - first.value - started)


def reused_student(trials: int) -> float:
    """Return the seconds of a slot for a trial with the student of another study, without its evaluation.

    The other study has different calibration images, so these trials evaluate their own points. The first trial of
    each slot is not counted, since it waits for its worker.
    """
    run("students", trials, "--epochs", "1", "--set", "calibration_images=64")
    before = set(Path("mlruns/stages/point").glob("*/measurement.json"))
    ends = [trial.info.end_time / 1000 for trial in run("reusing", trials, "--epochs", "1")]
    points = set(Path("mlruns/stages/point").glob("*/measurement.json")) - before
    evaluation = fmean(json.loads(point.read_text())["evaluate_seconds"] for point in points)
    slots = cores()
    return float(slots * (ends[-1] - ends[slots - 1]) / (trials - slots) - evaluation)


def busy(arch: str, trials: int, seconds: float) -> Row:
    """Return the shares of the slots' time in which trials of about `seconds` work, and compute."""
    student = ("--set", f"student={arch}")
    (trial,) = run(f"epoch-{arch}", 1, "--epochs", "4", *student)
    epoch = median(m.value for m in MlflowClient(STORE).get_metric_history(trial.info.run_id, "seconds"))
    epochs = max(1, round(seconds / epoch))
    folder = Path(f"times-{arch}").absolute()
    folder.mkdir()
    with patch.object(ray_tune, "trainable", partial(timed, folder)):
        run(f"busy-{arch}", trials, "--epochs", f"{epochs}", *student)
    times: list[dict[str, float]] = [json.loads(file.read_text()) for file in folder.iterdir()]
    assert len(times) == trials
    starts, ends = (sorted(each[key] for each in times) for key in ("start", "end"))
    begin, end = starts[cores() - 1], ends[-cores()]

    def inside(each: Mapping[str, float], seconds: float) -> float:
        """Return the seconds in the window, of seconds that are spread evenly over a trial."""
        return seconds * (min(each["end"], end) - max(each["start"], begin)) / (each["end"] - each["start"])

    whole = cores() * (end - begin)
    return {
        "epochs": epochs,
        "seconds": fmean(each["end"] - each["start"] for each in times),
        "share": sum(inside(each, each["end"] - each["start"] - each["waited"]) for each in times) / whole,
        "processor": sum(inside(each, each["processor"]) for each in times) / whole,
        "waited": fmean(each["waited"] for each in times) / epochs,
        "apart": starts[cores() - 1] - starts[0],
    }


def timed(folder: Path, config: Mapping[str, Any]) -> None:
    """A trial that also writes when it ran, how long it waited for the driver, and its processor time."""
    waited = 0.0
    report_to_ray = ray_tune.report_to_ray

    def report(config: Mapping[str, Any], event: Event) -> bool:
        nonlocal waited
        began = time.time()
        is_continued = report_to_ray(config, event)
        waited += time.time() - began
        return is_continued

    start, processor = time.time(), time.thread_time()
    with patch.object(ray_tune, "report_to_ray", report):
        ray_tune.trainable(config)
    times = {"start": start, "end": time.time(), "waited": waited, "processor": time.thread_time() - processor}
    (folder / config["trial"].id).write_text(json.dumps(times))


def trivial(config: Mapping[str, Any]) -> None:
    """A trial that only reports, as a real one does."""
    trial: Trial = config["trial"]
    ray_tune.report_to_ray(config, EpochEnded(1, EPOCH))
    file = Path(config["logs"]) / "packed"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    own = (trial.id, trial.method, None, None, None, None, 0, config["inputs"].arch(trial))
    point = Point(*own, FLOAT_BITS, 32, 8, 1, random.uniform(10, 90), 50.0)
    ray_tune.report_to_ray(config, PointMeasured(point, (str(file),), {}))
    ray_tune.report_to_ray(config, TrialEnded(TrialStatus.COMPLETED))


EPOCH = {"train_loss": 1.0, "val_loss": 1.0, "val_top1": 50.0, "lr": 0.1, "seconds": 1.0, "images_per_s": 1.0}


def trivial_trials(trials: int) -> list[Row]:
    """Return time per trial and memory in the first and the last quarter of a study."""
    with patch.object(ray_tune, "trainable", trivial), memory() as samples:
        runs = run("trivial", trials, "--epochs", "1")
    return quarters("study/run.py", runs, samples)


def tuner_trials(trials: int, reuse_actors: bool) -> list[Row]:
    """Return the same for Ray's own Tuner and callback."""
    name = f"tuner, {'' if reuse_actors else 'no '}reuse of workers"
    ray.init(address="local", num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tuner = tune.Tuner(
        tune.with_resources(tuner_trial, {"cpu": 1}),
        param_space={"method": "ce", "label_smoothing": tune.uniform(0, 0.2)},
        tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=reuse_actors),
        run_config=tune.RunConfig(
            storage_path=str(Path("ray").absolute()),
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=STORE, experiment_name=name)],
        ),
    )
    with memory() as samples:
        tuner.fit()
    ray.shutdown()
    return quarters(name, ended(name), samples)


def tuner_trial(config: Mapping[str, Any]) -> None:
    """`trivial`, as a user of Ray Tune would write it."""
    tune.report(EPOCH)
    tune.report(
        {
            **EPOCH,
            "val_top1": random.uniform(10, 90),
            "test_top1": 50.0,
            "total_bits": 8,
            "packed_bytes": 1,
            "avg_bits": 32,
        }
    )


Samples = list[tuple[float, float]]
"""(time in seconds, memory of this process in MB)."""


@contextmanager
def memory() -> Iterator[Samples]:
    """Sample the memory of this process twice a second."""
    samples: Samples = []
    done = Signal()

    def watch() -> None:
        process = psutil.Process(os.getpid())
        while not done.wait(0.5):
            samples.append((time.time(), process.memory_info().rss / 1e6))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(watch)
        try:
            yield samples
        finally:
            done.set()


def quarters(name: str, runs: Sequence[Run], samples: Samples) -> list[Row]:
    """Return ms per trial and memory in the first quarter, without each worker's first trial, and in the last."""
    ends = [run.info.end_time / 1000 for run in runs]
    quarter = len(ends) // 4
    first, last = ends[cores() : quarter], ends[-quarter:]
    taken = [median(mb for when, mb in samples if part[0] <= when <= part[-1]) for part in (first, last)]
    return [
        row(f"{name}: ms per trial, {which} quarter of {len(ends)}", 1000 * (part[-1] - part[0]) / (len(part) - 1))
        for which, part in (("first", first), ("last", last))
    ] + [row(f"{name}: driver MB, {which} quarter", mb) for which, mb in zip(("first", "last"), taken, strict=True)]


def row(what: str, value: float, aim: str = "", n: int = 1) -> Row:
    return {"what": what, "value": value, "aim": aim, "n": n}


def measure(options: argparse.Namespace) -> Iterator[Row]:
    if "start" in options.parts:
        seconds = start_up(options.rounds)
        yield row("start-up to the first epoch: s", median(seconds), "< 12", len(seconds))
    if "student" in options.parts:
        yield row(
            "reused student, without its evaluation: s", reused_student(options.students), "< 0.5", options.students
        )
    if "busy" in options.parts:
        for arch in ("resnet56", "resnet8"):
            found = busy(arch, options.trials, options.seconds)
            what = f"{cores()} slots, trials of {found['seconds']:.0f} s in {found['epochs']} epochs"
            yield row(f"{what}: share working", found["share"], ">= 0.95", options.trials)
            yield row(f"{what}: share on a core", found["processor"], n=options.trials)
            yield row(f"{what}: s per epoch waiting for the driver", found["waited"], n=options.trials)
            yield row(f"{what}: s between the first trials of the first and the last slot", found["apart"])
    if "trivial" in options.parts:
        yield from trivial_trials(options.trivial)
    if "tuner" in options.parts:
        yield from tuner_trials(options.trivial, reuse_actors=True)
        yield from tuner_trials(options.plain, reuse_actors=False)


PARTS = ("start", "student", "busy", "trivial", "tuner")


def main() -> None:
    options = _options()
    rows = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for each in measure(options):
            print(each, flush=True)
            rows.append(each)
    publish("platform", circumstances(1), rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.platform",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        metavar="PART",
        help=f"any of {', '.join(PARTS)} (default: all)",
    )
    add("--rounds", type=int, default=3, help="number of starts (default: 3)")
    add("--students", type=int, default=20, help="trials that reuse a student (default: 20)")
    add("--trials", type=int, default=6, help="trials that keep the slots busy (default: 6)")
    add("--seconds", type=float, default=30.0, help="approximate duration of each (default: 30)")
    add("--trivial", type=int, default=2000, help="trivial trials (default: 2000)")
    add("--plain", type=int, default=100, help="trivial trials in new workers (default: 100)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
