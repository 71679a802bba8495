"""A tracking store as studies leave it, built once: making one takes MLflow seconds."""

import json
import math
from copy import deepcopy
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from analysis.record import Row
from kdq.correctness import encode
from kdq.store.stage import digest
from study.results.point import METRICS, Point
from tests.made_once import made_once

NOW = 1_790_000_000_000
SEEDS = (0, 1)
MEASURES = ("val_top1", "test_top1", "total_bits", "packed_bytes", "avg_bits")


@dataclass(frozen=True)
class Logged:
    """The store's address and the points that study `grid` finished."""

    uri: str
    points: list[Point]
    run_ids: dict[tuple[str, int], str]


def grid_points():
    """Two configurations, two seeds, three widths; alpha 1 is the better by its mean."""
    return [
        Point(
            trial_id=f"a{alpha:g}-s{seed}",
            method="dkd",
            alpha=alpha,
            beta=8.0,
            temperature=4.0,
            mixup_alpha=None,
            seed=seed,
            student="resnet20",
            bits=bits,
            avg_bits=bits + 0.25,
            total_bits=bits * 250_000,
            packed_bytes=bits * 31_250,
            val_top1=80.0 + bits - alpha + seed,
            test_top1=79.0 + bits - alpha,
            val_top5=97.0 + bits / 8,
            val_nll=0.5 + 1 / bits,
            test_agreement=90.0 + bits,
        )
        for alpha in (1.0, 2.0)
        for seed in SEEDS
        for bits in (2, 4, 8)
    ]


def log_mixed(writer):
    """A study of one trial with points at 2 bits and at a mixed allocation, which is better and larger."""
    study = writer.run("study", {"kdq.status": "completed", "kdq.command": "python study/run.py --space mixed"})
    trial = writer.run("trial", {"kdq.trial_id": "a1-s0", "kdq.status": "completed"}, study)
    uniform = grid_points()[0]
    mixed = replace(uniform, bits=MIXED, avg_bits=2.75, total_bits=600_000, packed_bytes=75_000, val_top1=85.0)
    for point in (mixed, uniform):
        writer.point(point, trial)


MIXED = "mixed-0123abcd"
BAD = {"kdq.status": "diverged", "kdq.reason": "loss is nan"}
SIZES = {2: 560_000, 32: 8_600_000}
STUDENTS = {trial: digest({"student": "resnet20", "seed": seed})[:16] for trial, seed in {"a": "0", "b": "1"}.items()}


def recorded_rows():
    """Trial `a` completes two epochs at float and 2 bits, `b` diverges in its second. The points of `a` have 81 %."""
    finals = {("a", 2): (81.0, "c1"), ("a", 32): (81.0, "c2")}

    def shown(trial, epoch, accuracies):
        shown = zip(SIZES, accuracies, strict=True)
        return [
            Row(trial, STUDENTS[trial], epoch, bits, SIZES[bits], top1, *finals.get((trial, bits), ()))
            for bits, top1 in shown
        ]

    a = [*shown("a", 1, (40.0, 50.0)), *shown("a", 2, (60.0, 70.0))]
    return [*a, *shown("b", 1, (30.0, 55.0)), *shown("b", 2, (math.nan, math.nan))]


def log_epochs(writer):
    """A study with `--scheduler record`: probes at every width after every epoch, points of what completed."""
    study = writer.run("study", {"kdq.status": "completed"})
    for trial, status in {"b": "diverged", "a": "completed"}.items():
        tags = {"kdq.trial_id": trial, "kdq.status": status, "kdq.student_id": STUDENTS[trial]}
        params = {"student": "resnet20", "seed": str(int(trial == "b")), "trial_id": trial, "widths": "32,2"}
        run = writer.run("trial", tags, study, status="RUNNING", params=params)
        for row in (row for row in recorded_rows() if row.trial_id == trial and not math.isnan(row.val_top1)):
            writer.client.log_metric(run, f"probe_top1_{row.bits}bit", row.val_top1, step=row.epoch)
        if status == "completed":
            for bits, size in SIZES.items():
                writer.client.log_metric(run, f"val_top1_{bits}bit", 61.0, step=0)
                point = replace(grid_points()[0], trial_id=trial, bits=bits, total_bits=size, packed_bytes=size // 8)
                writer.point(point, run)
        writer.client.set_terminated(run, "FINISHED" if status == "completed" else "FAILED")


IMAGES = {"val": 1000, "test": 2000}


def correct_texts(point):
    """Vectors with the point's accuracies: of the images in a fixed order of difficulty, the first ones are correct."""
    count = {part: round(getattr(point, f"{part}_top1") * IMAGES[part] / 100) for part in IMAGES}
    return {part: encode(np.arange(IMAGES[part]) < count[part]) for part in IMAGES}


class Writer:
    """Logs as a study does."""

    def __init__(self, client, study, artifacts):
        self.client, self.study = client, study
        self.experiment = client.create_experiment(study, artifact_location=artifacts.as_uri())

    def run(self, kind, tags, parent=None, status="FINISHED", params=(), metrics=()):
        """A run of this kind; returns its id."""
        tags = {"kdq.kind": kind, "kdq.study": self.study, **tags}
        if parent:
            tags["mlflow.parentRunId"] = parent
        run_id = self.client.create_run(self.experiment, tags=tags).info.run_id
        values = [Metric(name, value, NOW, 0) for name, value in dict(metrics).items()]
        self.client.log_batch(run_id, values, [Param(name, str(value)) for name, value in dict(params).items()])
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return run_id

    def point(self, point, parent, status="FINISHED", images=True):
        """A point's run, with its packed file. images: whether it has which images are classified correctly."""
        row = {name: value for name, value in point.row().items() if value is not None}
        del row["on_front"]
        metrics = {name: float(row.pop(name)) for name in (*MEASURES, *METRICS) if name in row}
        tags = {"kdq.trial_id": point.trial_id, "kdq.point_id": f"{point.trial_id}/{point.bits}"}
        tags |= {f"kdq.{part}_correct": text for part, text in correct_texts(point).items() if images}
        run_id = self.run("point", tags, parent, status, row, metrics)
        self.client.log_text(run_id, "codes", f"{point.bits}bit.kdq")
        return run_id


@pytest.fixture(scope="session")
def logged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    points = grid_points()
    grid = Writer(client, "grid", folder / "artifacts" / "grid")
    study = grid.run("study", {"kdq.status": "completed", "kdq.command": "python study/run.py --space dkd_grid"})
    trials = {}
    for trial_id in dict.fromkeys(point.trial_id for point in points):
        trials[trial_id] = grid.run("trial", {"kdq.trial_id": trial_id, "kdq.status": "completed"}, study)
    run_ids = {(p.trial_id, p.bits): grid.point(p, trials[p.trial_id]) for p in points}
    diverged = grid.run("trial", {**BAD, "kdq.trial_id": "bad"}, study, "FAILED")
    for status in ("RUNNING", "FAILED", "KILLED"):
        unfinished = Point(**{**asdict(points[0]), "trial_id": status, "val_top1": 100.0})
        grid.point(unfinished, diverged, status)
    fresh = Writer(client, "fresh", folder / "artifacts" / "fresh")
    fresh.run("study", {"kdq.status": "running"}, status="RUNNING")
    log_mixed(Writer(client, "mixed", folder / "artifacts" / "mixed"))
    log_epochs(Writer(client, "recorded", folder / "artifacts" / "recorded"))
    Writer(client, "not-a-study", folder / "artifacts" / "other").run("something", {})
    return Logged(uri, points, run_ids)


@pytest.fixture(scope="session")
def recorded():
    """The rows that study `recorded` logged."""
    return recorded_rows()


WIDTHS = (2, 8, 32)
DOCUMENT = {
    "inputs": {"data": "d" * 64},
    "settings": {
        "space": {"scheduler": {"name": "asha", "grace_period": 1, "reduction_factor": 2}},
        "versions": {"split": 1},
        "workload": {"val_images": 1000, "train": {"epochs": 3}},
    },
}
BY_NLL = deepcopy(DOCUMENT)
BY_NLL["settings"]["space"] = {"scheduler": {"name": "none"}, "objective": "nll"}
HOSTILE = "loss is nan | 50 % & <b>_{x}$"

COMMAND = "python study/run.py --space dkd_grid"


def log_trial(writer, study, alpha, seed, status, accuracy):
    """A trial of three epochs with probes at every width, and its points if it completed."""
    trial = f"a{alpha:g}-s{seed}"
    name = f"dkd alpha={alpha:g} seed={seed}"
    tags = {"kdq.trial_id": trial, "mlflow.runName": name, "kdq.status": status, "kdq.student_id": digest(trial)}
    params = {"method": "dkd", "alpha": alpha, "beta": 8.0, "temperature": 4.0, "seed": seed, "student": "resnet20"}
    params |= {"trial_id": trial, "widths": "2,8,32", "scheduler": "asha"}
    if status == "failed":
        tags["kdq.reason"] = HOSTILE
    finals = {f"val_top1_{bits}bit": accuracy + bits / 10 for bits in WIDTHS if status == "completed"}
    run = writer.run("trial", tags, study, status="RUNNING", params=params, metrics=finals)
    for epoch in (1, 2, 3) if status == "completed" else ():
        probes = {f"probe_top1_{bits}bit": accuracy + bits / 10 - 9 + 3 * epoch for bits in WIDTHS}
        curves = {**probes, "val_top1": probes["probe_top1_32bit"], "seconds": 2.0}
        writer.client.log_batch(run, [Metric(name, value, NOW, epoch) for name, value in curves.items()])
    for bits in WIDTHS if status == "completed" else ():
        sizes = {"avg_bits": float(bits), "total_bits": 250_000 * bits, "packed_bytes": 32_000 * bits}
        point = replace(grid_points()[0], trial_id=trial, alpha=alpha, seed=seed, bits=bits, **sizes)
        likelihoods = {"val_nll": alpha / bits, "test_nll": alpha / bits + 0.1}  # the better the lower alpha
        writer.point(replace(point, val_top1=finals[f"val_top1_{bits}bit"], test_top1=accuracy, **likelihoods), run)
    writer.client.set_terminated(run, "FINISHED" if status == "completed" else "FAILED")


@pytest.fixture(scope="session")
def html_named(tmp_path_factory):
    """The name of a study, its trial and its student, which is HTML, and the address of its store."""
    folder, name = tmp_path_factory.mktemp("html"), "</script><img src=x onerror=alert(1)><b>&amp; $x$"
    uri = f"sqlite:///{folder}/mlflow.db"
    writer = Writer(MlflowClient(tracking_uri=uri), name, folder / "artifacts")
    study = writer.run("study", {"kdq.status": "completed", "kdq.command": name}, metrics={"teacher_val_top1": 90.0})
    tags = {"kdq.trial_id": "t", "mlflow.runName": name, "kdq.status": "completed"}
    trial = writer.run("trial", tags, study, params={"method": "dkd", "seed": 0, "student": name})
    writer.point(replace(grid_points()[0], trial_id="t", student=name, seed=0), trial)
    return name, uri


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """The address of a store with studies of every kind: empty, one_trial, all_failed, normal, other, by_nll, …"""
    return f"sqlite:///{made_once(tmp_path_factory, 'shelf', make_shelf)}/mlflow.db"


def make_shelf(folder):
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    studies = {
        "empty": [],
        "one_trial": [(1.0, 0, "completed", 80.0)],
        "all_failed": [(1.0, 0, "failed", 0.0), (2.0, 0, "failed", 0.0)],
        "normal": [(alpha, seed, "completed", 84.0 - alpha + seed) for alpha in (0.5, 1.0, 9.0) for seed in (0, 1)],
        "other": [(alpha, seed, "completed", 60.0 - alpha + seed) for alpha in (0.5, 1.0) for seed in (0, 1)],
        "lacking": [(0.5, 0, "completed", 84.0), (0.5, 1, "failed", 0.0)]
        + [(1.0, seed, "completed", 80.0) for seed in (0, 1)],
        # Its least accurate configuration has the best likelihood.
        "by_nll": [(alpha, seed, "completed", 60.0 + alpha + seed) for alpha in (0.5, 1.0, 9.0) for seed in (0, 1)],
    }
    for name, trials in studies.items():
        writer = Writer(client, name, folder / "artifacts" / name)
        document = json.dumps(BY_NLL if name == "by_nll" else DOCUMENT)
        tags = {"kdq.status": "completed", "kdq.document": document, "kdq.command": COMMAND}
        study = writer.run("study", tags, metrics={"teacher_val_top1": 90.0} if name in ("normal", "lacking") else {})
        for alpha, seed, status, accuracy in trials:
            log_trial(writer, study, alpha, seed, status, accuracy)
