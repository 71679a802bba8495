"""A Ray of our own that does not start, or dies: one message; its folder is kept if there is something to read."""

import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdq.errors import UserError
from study.backends import ray_cluster, ray_internals, ray_tune
from study.backends.ray_local import RayFailedError, local_ray
from study.backends.ray_requirements import PREFIX
from study.backends.ray_tune import run_on_ray
from study.commands.site import machines_at
from study.plan.resources import Resources


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for Ray's own."""
    monkeypatch.setattr("study.backends.ray_local.temporary_folder", lambda: tmp_path)
    monkeypatch.setattr(ray_internals, "core_processes", lambda: {})
    monkeypatch.setattr(ray_internals, "silence", lambda: None)
    return tmp_path


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("something\nand more"), "Ray did not start: something (Ray's logs: {folder}); no finished"),
        (
            PermissionError(13, "Permission denied", "/x"),
            "Ray did not start: [Errno 13] Permission denied: '/x'; likely cause: this user has no write permission "
            "there; grant it, or run in another folder (Ray's logs: {folder}); no finished result is lost",
        ),
    ],
)
def test_a_ray_that_does_not_start(
    error: Exception, message: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(ray_internals, "start_local", fail)
    queue: Any = None
    with pytest.raises(UserError) as refused:
        run_on_ray(queue, Resources(1, 0), 1, temporary / "ray" / "s")
    (folder,) = temporary.iterdir()
    assert str(refused.value).startswith(message.format(folder=folder))


def test_a_ray_that_dies_leaves_its_logs_and_any_other_end_nothing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_internals, "start_local", lambda cores, folder: (folder / "r").mkdir())
    with local_ray():
        pass
    with pytest.raises(KeyboardInterrupt), local_ray():
        raise KeyboardInterrupt
    assert list(temporary.iterdir()) == []

    def die(*_: object) -> None:
        raise RayFailedError("Ray died")

    monkeypatch.setattr(ray_tune, "_run", die)
    queue: Any = None
    with pytest.raises(UserError, match="Ray died"):
        run_on_ray(queue, Resources(1, 0), 1, temporary / "ray" / "s")
    (folder,) = temporary.iterdir()
    assert [path.name for path in folder.iterdir()] == ["r"]


def test_the_folder_of_a_driver_that_was_killed_is_removed_by_the_next(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_internals, "start_local", lambda cores, folder: (folder / "r").mkdir())
    (temporary / f"{PREFIX}another").mkdir()  # of another program
    forks = multiprocessing.get_context("fork")

    def drive(started: Any) -> None:
        with local_ray():
            started.set()
            time.sleep(600)

    def driven() -> tuple[Any, Path]:
        before, started = set(temporary.iterdir()), forks.Event()
        driver = forks.Process(target=drive, args=(started,))
        driver.start()
        assert started.wait(60)
        (folder,) = set(temporary.iterdir()) - before
        return driver, folder

    (killed, first), (living, second) = driven(), driven()
    killed.kill()
    killed.join()
    assert first.exists()
    with local_ray():
        assert not first.exists()
        assert (second / "r").exists()
    living.kill()
    living.join()
    with local_ray():
        pass
    assert [path.name for path in temporary.iterdir()] == [f"{PREFIX}another"]


def test_the_token_of_a_ray_of_our_own_is_gone_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a cluster that the same process joins later would get it."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    tokens = []

    def start(cores: int, folder: Path) -> None:
        tokens.append(os.environ["RAY_AUTH_TOKEN"])
        os.environ["RAY_AUTH_MODE"] = "token"  # as Ray does

    monkeypatch.setattr(ray_internals, "start_local", start)
    for _ in range(2):
        with local_ray():
            pass
        assert os.environ["RAY_AUTH_TOKEN"] == os.environ["RAY_AUTH_TOKEN_PATH"] == ""
        assert "RAY_AUTH_MODE" not in os.environ
    assert len(set(tokens)) == 2
    assert all(tokens)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    with local_ray():
        pass
    assert tokens[-1] == os.environ["RAY_AUTH_TOKEN"] == "given"


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_ray_that_the_program_around_us_has_started_is_left_alone(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace, ended = ["its own"], []
    monkeypatch.setattr("ray.is_initialized", lambda: not ended)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(namespace=namespace[0]))
    monkeypatch.setattr("ray.shutdown", lambda: ended.append(True))
    monkeypatch.setattr(ray_cluster, "connect", lambda address: [])
    with pytest.raises(UserError, match=r"called ray\.init already, .*: call ray\.shutdown\(\) before it"):
        machines_at(address)
    assert not ended
    namespace[0] = ray_cluster.NAMESPACE  # joined by a former command of this process
    machines_at(address)
    assert ended


def test_a_server_of_clients_is_told_from_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [ray_cluster._is_client(address) for address in ("auto", "ray://h:1", "h:1")] == [False, True, False]
    monkeypatch.setenv("RAY_ADDRESS", "ray://h:1")
    assert [ray_cluster._is_client(address) for address in ("auto", "h:1")] == [True, False]
