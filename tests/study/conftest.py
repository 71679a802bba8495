"""What the tests of the study share: a command line run as a user runs it, and one real study."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from study.backends import ray_tune
from study.control.controller import Controller
from study.plan import estimate_time
from study.plan.resources import Resources
from study.schedulers.scheduler import Decision
from study.trial.events import Event
from tests.made_once import made_once
from tests.patience import patient
from tests.study.inline_study import COSTS, call, inline_main, run_here
from tests.study.prepared import TEACHER, make_prepared

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]

SCRIPT = Path(__file__).parents[2] / "study" / "run.py"
SMALL = [
    "--space",
    "dkd_grid",
    "--trials",
    "2",
    "--epochs",
    "2",
    "--bits",
    "2,4",
    "--name",
    "small",
    *TEACHER,
]
"""A whole study of seconds: two students, six points."""

TINY = {
    "teacher": "train:resnet8",
    "teacher_train.epochs": 10,
    "teacher_train.batch_size": 8,
    "train_images": 40,
    "val_images": 20,
    "train.epochs": 2,
    "calibration_images": 8,
    "quantizer.method": "rtn",
}


def _run(folder: Path, *arguments: str) -> Result:
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=patient(60))


@pytest.fixture(scope="session")
def run() -> Run:
    """Function of (folder, arguments…): `python study/run.py ARGUMENTS` in that folder."""
    return _run


@pytest.fixture(scope="session")
def run_inline() -> Run:
    """As `run`, without Ray and in this process: for what is not about Ray or the process."""

    return partial(call, inline_main)


@pytest.fixture(scope="session")
def prepare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Function of a folder: puts digits, the teacher of TEACHER and an empty database there, and returns it."""
    prepared = made_once(tmp_path_factory, "prepared", make_prepared)
    return lambda folder: Path(shutil.copytree(prepared, folder, dirs_exist_ok=True))


@pytest.fixture
def prepared(prepare: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A test's own folder, prepared."""
    return prepare(tmp_path)


@pytest.fixture(scope="session")
def small_study() -> list[str]:
    """The arguments of a whole study that takes seconds: two students, six points."""
    return SMALL


@pytest.fixture(scope="session")
def tiny() -> dict[str, str | int]:
    """Settings of a workload, of which a student is trained and quantized in a second."""
    return TINY


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The folder of that study, run from nothing to its end, and what its command printed; only to be read."""

    def make(folder: Path) -> None:
        result = call(inline_main, folder, *SMALL)
        assert result.returncode == 0, result.stdout + result.stderr
        (folder / "result.json").write_text(json.dumps([result.args, 0, result.stdout, result.stderr]))

    folder = made_once(tmp_path_factory, "finished", make)
    return folder, Result(*json.loads((folder / "result.json").read_text()))


@pytest.fixture(autouse=True)
def quick_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of work is measured once, not for a second."""
    measure = estimate_time.measure
    monkeypatch.setattr(estimate_time, "measure", lambda plan, *_, **__: measure(plan, 0.0))


@pytest.fixture
def serially(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that has studies run their trials as Ray does, but one at a time and here.

    look: called at every event of every `often`-th trial, before the study hears of it.
    """

    def install(look: Callable[[], None] = lambda: None, often: int = 1) -> None:
        def run(queue: Controller, resources: Resources, slots: int, folder: Path) -> None:
            numbers: dict[str, int] = {}
            start, report = queue.started, queue.report

            def started(trial_id: str) -> None:
                numbers[trial_id] = len(numbers) + 1
                start(trial_id)

            def looked_at(trial_id: str, event: Event) -> Decision:
                if trial_id in numbers and numbers[trial_id] % often == 0:
                    look()
                return report(trial_id, event)

            monkeypatch.setattr(queue, "started", started)
            monkeypatch.setattr(queue, "report", looked_at)
            run_here(queue, resources, slots, folder)

        monkeypatch.setattr(estimate_time, "measure", lambda *_, **__: COSTS)
        monkeypatch.setattr(ray_tune, "run_on_ray", run)

    return install
