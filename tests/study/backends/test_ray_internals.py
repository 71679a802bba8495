"""What is used of Ray beside its public API: each use works on the Ray that is installed, or is an error at once."""

import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from traceback import format_exc

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial

from kdq.errors import UserError
from study.backends import ray_internals
from study.backends.ray_internals import (
    ENVIRONMENT,
    INTERNALS,
    NEWEST,
    OLDEST,
    check_ray,
    headline,
    last_failure,
    stage_in,
)
from study.run import main
from tests.patience import patient

ROOT = Path(__file__).parents[3]
TESTED = "pip install 'ray[tune]==2.60.*'"


def test_the_installed_ray_is_tested() -> None:
    assert check_ray() == ""


def test_the_tested_versions_of_ray_are_those_of_the_requirements() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest, next_one = f"{OLDEST[0]}.{OLDEST[1]}", f"{NEWEST[0]}.{NEWEST[1] + 1}"
    assert f"ray[tune]>={oldest},<{next_one}" in requirements


@pytest.mark.parametrize("version", ["1.13.0", "2.9.3", "2.59.1"])
def test_an_older_ray_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", version)
    with pytest.raises(UserError, match=re.escape(f"Ray {version}: must be 2.60 or newer; install ")):
        check_ray()


@pytest.mark.parametrize("version", ["2.61.0", "2.100.0rc1", "3.0.0.dev0"])
def test_a_newer_ray_is_warned_of(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", version)
    assert check_ray().startswith(f"warning: Ray {version} is newer than 2.60, the newest tested; ")


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: internal.name)
def test_a_ray_that_lacks_what_is_used_is_refused(
    internal: ray_internals.Internal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(import_module(internal.module), internal.name.partition(".")[0])
    message = f"Ray {ray.__version__} has no {internal.module}.{internal.name}, which .*{re.escape(TESTED)}"
    with pytest.raises(UserError, match=message):
        check_ray()
    with pytest.raises(UserError, match=message):
        internal.replace(None)


def test_a_client_that_cannot_say_whether_it_is_connected_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other attributes are looked up on the cluster, and the error for one that is missing is a bare Exception."""
    monkeypatch.delattr(type(ray.util.client.ray), "is_connected")
    with pytest.raises(UserError, match=r"has no ray\.util\.client\.ray\.is_connected"):
        check_ray()


@pytest.mark.parametrize("internal", [i for i in INTERNALS if i.parameters], ids=lambda internal: internal.name)
def test_a_ray_whose_functions_take_other_parameters_is_refused(
    internal: ray_internals.Internal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module(internal.module), internal.name, lambda **_: None)
    message = f"has no parameter {internal.parameters[0]} of {internal.module}.{internal.name}"
    with pytest.raises(UserError, match=message):
        check_ray()


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_a_study_says_so_before_it_starts(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("ray.experimental.internal_kv._internal_kv_put")
    assert main(["--space", "dkd_grid", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: Ray {ray.__version__} has no ray.experimental.internal_kv._internal_kv_put")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_warns_of_a_newer_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "__version__", "2.61.0")
    assert main(["--space", "smoke", "--dry-run"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Ray 2.61.0 is newer")


def test_ray_reads_every_variable_that_is_set() -> None:
    """One that it does not know any more would have no effect, and no error."""
    unread = set(ENVIRONMENT)
    for folder in ("tune", "_private", "_common"):
        for file in (Path(ray.__file__).parent / folder).rglob("*.py"):
            text = file.read_text()
            unread = {name for name in unread if f'"{name}"' not in text}
    assert not unread


REAL = """
import random
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import ray
import study.run
from study.backends import ray_tune
from study.backends.ray_internals import StopFlags, core_processes, is_client

assert ray_tune._start_ray() == core_processes()
assert all(process.is_running() for process in core_processes().values())
assert core_processes().keys() == {"raylet", "gcs_server"}
assert not is_client()


def imported():
    import kdq.errors, random, study.run
    return [kdq.errors.__file__, random.__file__, study.run.__file__]


assert Path.cwd().joinpath("random.py").exists()
assert ray.get(ray.remote(imported).remote()) == imported()
flags = StopFlags("one")
flags.set("a")
look = ray.remote(lambda: [StopFlags(study).is_set(trial) for study in ("one", "two") for trial in ("a", "b")])
assert ray.get(look.remote()) == [True, False, False, False]
StopFlags("two").set("b")
flags.clear()
assert ray.get(look.remote()) == [False, False, False, True]
"""


def test_a_real_ray(tmp_path: Path) -> None:
    """Flags are seen by workers and cleared for their study alone.

    Workers import what the driver imports, whatever lies in the current folder, here an older clone and more.
    """
    for name in ("kdq", "study"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "random.py").write_text("raise ImportError('of the current folder')")
    command = [sys.executable, "-P", "-c", REAL, str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patient(40))
    assert done.returncode == 0, done.stderr


def test_processes_that_ray_has_not_started_are_missed() -> None:
    with pytest.raises(UserError, match=f"Ray {ray.__version__} has started no process raylet"):
        ray_internals.core_processes()


# what Ray writes of failures --------------------------------------------------------------------------------------


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A trial of Ray's, whose files are in a folder."""
    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", None)  # to be put back
    stage_in(tmp_path)
    storage = StorageContext(storage_path=str(tmp_path), experiment_dir_name="study", trial_dir_name="trial")
    made = Trial("trainable", stub=True, storage=storage)
    assert Path(made.local_path).is_relative_to(tmp_path)
    Path(made.local_path).mkdir(parents=True)
    return made


def task_error(error: Exception) -> RayTaskError:
    """As a worker sends it."""
    try:
        try:
            raise KeyError("before")
        except KeyError as before:
            raise error from before
    except Exception:
        return RayTaskError("train", format_exc(), error, proctitle="ray::ImplicitFunc.train", pid=1, ip="127.0.0.1")


def test_the_last_failure_of_a_trial(trial: Trial) -> None:
    trial.handle_error(task_error(ValueError("bad\nand worse")))
    failure = last_failure(trial)
    assert failure.startswith("ray::ImplicitFunc.train() (pid=1")
    assert failure.endswith("ValueError: bad\nand worse")
    assert headline(failure) == "ValueError: bad"
    trial.handle_error(ActorDiedError())
    assert headline(last_failure(trial)) == "The actor died unexpectedly before finishing this task."
    trial.handle_error(RuntimeError("Traceback (most recent call last):\n  File\n    line\nOSError: gone\n"))
    assert headline(last_failure(trial)) == "OSError: gone"
    assert ray_internals.error_file(trial).read_text().count("KeyError: 'before'") == 1


def test_a_failure_without_a_text() -> None:
    assert headline("") == "Ray gives no reason"
