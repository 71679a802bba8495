"""A Ray of our own that does not start, or dies: one message; its folder is kept if there is something to read."""

from pathlib import Path
from typing import Any

import pytest

from kdq.errors import UserError
from study.backends import ray_internals, ray_tune
from study.backends.ray_local import RayFailedError, local_ray
from study.backends.ray_tune import run_on_ray
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
