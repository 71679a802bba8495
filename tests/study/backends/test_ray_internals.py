"""What is used of Ray beside its public API: each use works on the Ray that is installed, or is an error at once."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
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
    check_internals,
    headline,
    last_failure,
    stage_in,
)
from study.backends.ray_requirements import NEWEST, OLDEST, check_version
from study.run import main
from tests.patience import patient

ROOT = Path(__file__).parents[3]
TESTED = "pip install 'ray[tune]==2.60.*'"


def test_the_installed_ray_is_tested() -> None:
    assert check_version() == ""
    check_internals()


def test_the_tested_versions_of_ray_are_those_of_the_requirements() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest, next_one = f"{OLDEST[0]}.{OLDEST[1]}", f"{NEWEST[0]}.{NEWEST[1] + 1}"
    assert f"ray[tune]>={oldest},<{next_one}" in requirements


@pytest.mark.parametrize("internal", INTERNALS, ids=lambda internal: internal.name)
def test_a_ray_that_lacks_what_is_used_is_refused(
    internal: ray_internals.Internal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(import_module(internal.module), internal.name.partition(".")[0])
    message = f"Ray {ray.__version__} has no {internal.module}.{internal.name}, which .*{re.escape(TESTED)}"
    with pytest.raises(UserError, match=message):
        check_internals()
    with pytest.raises(UserError, match=message):
        internal.replace(None)


def test_a_client_that_cannot_say_whether_it_is_connected_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its other attributes are looked up on the cluster, and the error for one that is missing is a bare Exception."""
    monkeypatch.delattr(type(ray.util.client.ray), "is_connected")
    with pytest.raises(UserError, match=r"has no ray\.util\.client\.ray\.is_connected"):
        check_internals()


@pytest.mark.parametrize("internal", [i for i in INTERNALS if i.parameters], ids=lambda internal: internal.name)
def test_a_ray_whose_functions_take_other_parameters_is_refused(
    internal: ray_internals.Internal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module(internal.module), internal.name, lambda **_: None)
    message = f"has no parameter {internal.parameters[0]} of {internal.module}.{internal.name}"
    with pytest.raises(UserError, match=message):
        check_internals()


def test_a_broken_import_is_not_taken_for_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_ray.py").write_text("import no_such_module")
    with pytest.raises(UserError, match=r"Ray .* cannot be imported \(No module named 'no_such_module'\); install"):
        ray_internals.Internal("broken_ray", "anything").get()
    with pytest.raises(UserError, match=r"has no no_such_ray\.inner\.anything"):
        ray_internals.Internal("no_such_ray.inner", "anything").get()


def test_a_study_says_so_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("ray.experimental.internal_kv._internal_kv_put")
    assert main(["--space", "dkd_grid"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: Ray {ray.__version__} has no ray.experimental.internal_kv._internal_kv_put")
    assert list(tmp_path.iterdir()) == []


def test_ray_reads_every_variable_that_is_set() -> None:
    """One that it does not know any more would have no effect, and no error."""
    unread = set(ENVIRONMENT)
    for folder in ("tune", "_private", "_common"):
        for file in (Path(ray.__file__).parent / folder).rglob("*.py"):
            text = file.read_text()
            unread = {name for name in unread if f'"{name}"' not in text}
    assert not unread


REAL = """
import ipaddress
import os
import random
import stat
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, sys.argv[1])
import study.run
from study.backends.ray_internals import StopFlags, core_processes, is_client, run_tune
from study.backends.ray_local import local_ray
import psutil
import ray
from ray import tune

exits = ExitStack()
assert exits.enter_context(local_ray()) == core_processes()
assert all(process.is_running() for process in core_processes().values())
assert core_processes().keys() == {"raylet", "gcs_server"}
assert not is_client()


def imported():
    import kdq.errors, random, study.run
    return [kdq.errors.__file__, random.__file__, study.run.__file__]


assert Path.cwd().joinpath("random.py").exists(), "it is there to be imported"
assert ray.get(ray.remote(imported).remote()) == imported()
flags = StopFlags("one")
flags.set("a")
look = ray.remote(lambda: [StopFlags(study).is_set(trial) for study in ("one", "two") for trial in ("a", "b")])
assert ray.get(look.remote()) == [True, False, False, False]
StopFlags("two").set("b")
flags.clear()
assert ray.get(look.remote()) == [False, False, False, True]

(folder,) = Path(os.environ["TMPDIR"]).glob("kdq-*")
assert stat.S_IMODE(folder.stat().st_mode) == 0o700
assert list(folder.glob("*/session_*/sockets/plasma_store"))
processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = [one.laddr.ip for process in processes for one in process.net_connections() if one.status == "LISTEN"]
assert listening
assert {ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in listening} == {True}


def work(config):
    tune.report({"done": True})


run_tune(work, name="one", storage_path=str(Path.cwd()), verbose=0)
logs = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
assert any(b"PL_DISABLE_FORK" in log for log in logs), "Ray does not log its workers' variables: nothing was tested"
assert not any(b"s3cret" in log for log in logs)
exits.close()
assert not folder.exists()
"""


def test_a_real_ray(tmp_path: Path) -> None:
    """Flags are seen by workers and cleared for their study alone.

    Workers import what the driver imports, whatever lies in the current folder, here an older clone and more. Ray's
    files are private and gone at the end, no log has credentials, and nothing listens to other machines.
    """
    for name in ("kdq", "study"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "random.py").write_text("raise ImportError('of the current folder')")
    command = [sys.executable, "-P", "-c", REAL, str(ROOT)]
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": "s3cret", "RAY_TMPDIR": ""}
    with TemporaryDirectory(prefix="kdq-", dir="/tmp") as short:
        environment["TMPDIR"] = short
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=patient(60)
        )
        assert list(Path(short).iterdir()) == []
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
