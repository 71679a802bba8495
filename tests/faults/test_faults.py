"""What may be killed in a study is killed: the same command ends as the study that nobody disturbed, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from study.control.journal import Journal, Left, Reported, replay
from study.schedulers.registry import make_scheduler
from study.schedulers.scheduler import RungConfig, Scheduler
from tests.patience import patient

ROOT = Path(__file__).parents[2]
ON_RAY = ROOT / "study" / "run.py"
INLINE = ROOT / "tests" / "study" / "inline_study.py"
"""The same study in one process, for faults that are none of Ray's: it must end with the same points."""
SPACE = """
description: four students, two of which survive the rung after the second of three epochs
params:
  method: {grid: [ce, dkd]}
  beta: {grid: [2, 4, 8], when: {method: dkd}}
bits: [2, 4]
scheduler: {name: halving, grace_period: 2, reduction_factor: 2}
"""
RUNGS = RungConfig(epochs=3, trials=4, grace_period=2, reduction_factor=2)
PATIENCE = patient(50)
"""Seconds until a study that is to come to a certain point, or to its end, is taken for stuck."""
TIMES = ("seconds", "images_per_s")
"""Curves that differ from run to run."""

Results = dict[str, tuple[object, ...]]


@dataclass
class Study:
    """A study in a folder of its own, run as a user runs it, again and again; `script`: on Ray, or in one process."""

    folder: Path
    store: str
    name: str = "study"
    script: Path = ON_RAY
    driver: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "subprocess.Popen[bytes]":
        (self.folder / "space.yaml").write_text(SPACE)
        options = f"--space space.yaml --name {self.name} --epochs 3 --set teacher_train.epochs=3".split()
        command = [sys.executable, "-u", str(self.script), *options, "--tracking-uri", self.store]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.output.open("ab") as output:
            self.driver = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=output, stderr=output)
        return self.driver

    def finish(self) -> None:
        """Wait for the end."""
        assert self.driver is not None
        assert self.driver.wait(PATIENCE) == 0, self.output.read_text()

    def reach(self, moment: Callable[[], bool]) -> None:
        """Wait for a moment of the running study."""
        assert self.driver is not None
        until = time.monotonic() + PATIENCE
        while not moment():
            assert self.driver.poll() is None, self.output.read_text()
            assert time.monotonic() < until, self.output.read_text()
            time.sleep(0.005)

    def kill(self) -> None:
        """The driver, with -9; what Ray has started is left to itself."""
        assert self.driver is not None
        self.driver.kill()
        assert self.driver.wait() == -signal.SIGKILL, "it had ended before"

    @property
    def output(self) -> Path:
        return self.folder / "output.txt"

    @property
    def journal(self) -> Path:
        return self.folder / "mlruns" / "studies" / self.name / "journal.jsonl"

    def stages(self, pattern: str) -> list[Path]:
        """Files or folders of stages, such as `student/*/state.pt`; none half made or half removed."""
        found = (self.folder / "mlruns" / "stages").glob(pattern)
        return sorted(path for path in found if not any(part.startswith(".") for part in path.parts))

    def students(self) -> list[Path]:
        """The students whose training is finished."""
        return [path.parent for path in self.stages("student/*/model.safetensors") if path.parent.name != self.teacher]

    def has_reported(self) -> bool:
        """Whether a student has come to the rung."""
        return self.journal.exists() and b'"event":"epoch"' in self.journal.read_bytes()

    @property
    def teacher(self) -> str:
        note = json.loads((self.folder / "mlruns" / "studies" / self.name / "study.json").read_text())
        return str(note["inputs"]["teacher"])

    def runs(self) -> dict[str, Run]:
        """All that stands in MLflow, by its key; it fails if anything is there twice."""
        client = MlflowClient(self.store)
        experiment = client.get_experiment_by_name(self.name)
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id])
        keyed = {
            run.data.tags.get("kdq.point_id") or run.data.tags.get("kdq.trial_id") or "study": run for run in found
        }
        assert len(keyed) == len(found)
        return keyed

    def results(self) -> Results:
        """Of every run in MLflow all that the study determines: how it ended, parameters, whole curves, files.

        (The study's own metrics are what it has at the end of a command, so those of an earlier end stand before them.)
        """
        client, found = MlflowClient(self.store), {}
        for key, run in self.runs().items():
            assert (run.info.status, run.data.tags.get("kdq.status")) != ("RUNNING", "running")
            last = {name: value for name, value in run.data.metrics.items() if name not in TIMES}
            curves = {name: self._curve(client, run, name) for name in last if key != "study"}
            files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
            end = run.info.status, run.data.tags.get("kdq.status"), run.data.tags.get("kdq.reason")
            found[key] = (end, run.data.params, last, curves, files)
        return found

    @staticmethod
    def _curve(client: MlflowClient, run: Run, name: str) -> list[tuple[int, float]]:
        return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]

    def rule(self) -> Scheduler:
        """The rule after the reports in the journal; it fails if a decision there is another than the rule's."""
        rule = make_scheduler("halving", RUNGS)
        replay(rule, [record for record in Journal(self.journal).read() if isinstance(record, Reported | Left)])
        return rule


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("undisturbed")
    study = Study(folder, f"sqlite:///{folder}/mlflow.db", "undisturbed", INLINE)
    study.start()
    study.finish()
    return study


@pytest.fixture
def study(undisturbed: Study, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Study]:
    """A new study whose data and teacher are there; it shares the store, so that none is made anew."""
    for path in undisturbed.stages("data/*") + undisturbed.stages("accuracy/*"):
        shutil.copytree(path, tmp_path / "mlruns" / "stages" / path.parent.name / path.name)
    teacher = Path("mlruns", "stages", "student", undisturbed.teacher)
    shutil.copytree(undisturbed.folder / teacher, tmp_path / teacher)
    made = Study(tmp_path, undisturbed.store, request.node.name)
    yield made
    if made.driver:
        made.driver.kill()
        made.driver.wait()


def packed(study: Study) -> dict[str, bytes]:
    """The quantized models as they are stored, by their stages."""
    return {path.parent.name: path.read_bytes() for path in study.stages("point/*/model.safetensors")}


def check_same(study: Study, undisturbed: Study) -> None:
    """It has ended with the same runs, points and files, and after the same comparisons."""
    assert study.results() == undisturbed.results()
    models = packed(study)
    assert len(models) == 6
    assert models == packed(undisturbed)
    found, expected = study.rule(), undisturbed.rule()
    assert (found.rungs, found.stops, found.left) == (expected.rungs, expected.stops, expected.left)
    assert len(found.rungs[2]) == 4
    assert not list((study.folder / "mlruns" / "stages").glob("*/.[mr]*"))


def named(driver: "subprocess.Popen[bytes]", title: str) -> psutil.Process:
    """A process below the driver, by how its command line begins, or by the program's name."""
    for each in psutil.Process(driver.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, IndexError):
            command = each.cmdline()[0]
            if command.startswith(title) or Path(command).name == title:
                return each
    raise AssertionError(f"no {title}")


def test_a_worker_killed_in_mid_epoch(study: Study, undisturbed: Study) -> None:
    driver = study.start()
    study.reach(lambda: bool(study.stages("student/*/state.pt")))
    named(driver, "ray::ImplicitFunc").kill()
    study.finish()
    assert "its worker died and another resumes it" in study.output.read_text()
    assert "Traceback" not in study.output.read_text()
    check_same(study, undisturbed)


def test_ray_itself_killed(study: Study, undisturbed: Study) -> None:
    """The study does not wait for it, but says so and ends; nothing is lost."""
    driver = study.start()
    study.reach(lambda: bool(study.stages("student/*/state.pt")))
    named(driver, "raylet").kill()
    assert driver.wait(PATIENCE) == 2
    last = study.output.read_text().splitlines()[-1]
    assert last.startswith("error: the study stopped, since Ray's process raylet died")
    study.script = INLINE
    study.start()
    study.finish()
    check_same(study, undisturbed)


def test_the_driver_killed_in_mid_epoch_and_in_mid_rung(study: Study, undisturbed: Study) -> None:
    """One student has come to the rung, and another is in training."""
    students = study.folder / "mlruns" / "stages" / "student"
    study.start()
    study.reach(lambda: study.has_reported() and any(students.glob(".making-*")))
    study.kill()
    before = study.journal.read_bytes()
    assert 0 < len(study.rule().rungs[2]) < 4
    study.start()
    study.finish()
    assert study.journal.read_bytes().startswith(before)
    check_same(study, undisturbed)


def test_the_power_fails_between_the_student_and_its_points(study: Study, undisturbed: Study) -> None:
    """The driver is killed; the journal's last line is torn and a stage half written, as a crash leaves them."""
    study.script = INLINE
    study.start()
    study.reach(lambda: study.journal.exists() and bool(study.students()))
    study.kill()
    students = study.students()
    assert not [key for key in study.runs() if "/" in key]
    before = study.journal.read_bytes()
    study.journal.write_bytes(before + before.splitlines()[-1][:-9])
    for point in undisturbed.stages("point/*"):
        half = study.folder / "mlruns" / "stages" / "point" / f".making-{point.name}-crash"
        half.mkdir(parents=True)
        (half / "model.safetensors").write_bytes((point / "model.safetensors").read_bytes()[:1000])
    written = {each: (each / "model.safetensors").stat().st_mtime_ns for each in students}
    study.start()
    study.finish()
    assert study.journal.read_bytes().startswith(before)
    assert {each: (each / "model.safetensors").stat().st_mtime_ns for each in students} == written
    check_same(study, undisturbed)


def test_the_mlflow_server_gone_and_back(
    study: Study, undisturbed: Study, mlflow_server: Callable[..., AbstractContextManager[str]]
) -> None:
    store, study.script = study.store, INLINE
    with mlflow_server(study.folder, store) as address:
        study.store = address
        study.start()
        study.reach(study.has_reported)
    study.reach(lambda: "is unavailable; waiting for it" in study.output.read_text())
    with mlflow_server(study.folder, store, int(address.rpartition(":")[2])):
        study.finish()
        check_same(study, undisturbed)
