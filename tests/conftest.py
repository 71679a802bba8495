"""What tests of several packages share."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from hypothesis import HealthCheck, settings

from tests.patience import patient

SHARED_DATA = "KDQ_SHARED_DATA"
SERVER_SECONDS = patient(30)
"""So long a server may take to answer for the first time."""

# A test that is slow, on a loaded machine, has not failed.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Ray gives its workers the lowest priority but four, so that beside other tests they would all but stand still.
os.environ.update(RAY_worker_niceness="0")

# No test cuts the power, and what is not flushed to the disk survives every kill; to wait for the disk takes minutes.
os.fsync = lambda _: None

WHOLE_STUDIES = ("faults", "packaging", "study")
"""Folders of tests that mostly wait for processes: they begin first, so that short tests fill the last minutes."""
LONG = ("analysis/test_page.py", "benchmarks/test_gpu.py", "device/test_device.py", "docs/test_own_data_page.py")
LONG += ("kdq/export/test_export.py", "kdq/models/test_zoo.py", "kdq/quantize/test_model.py")
"""Files of tests that take most of a minute: they begin next, so that none is alone at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs ends, long after the slowest would have; whole studies begin first."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: _turn(item.path.relative_to(tests)))
    for item in items:
        item.add_marker(pytest.mark.timeout(patient(240)))


def _turn(file: Path) -> int:
    return 0 if file.parts[0] in WHOLE_STUDIES else 1 if file.as_posix() in LONG else 2


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with CIFAR and published checkpoints; its tests are skipped where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get(SHARED_DATA, beside))
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"no real data in {folder}; set {SHARED_DATA} to a folder with cifar10/ and checkpoints/")
    return folder


@pytest.fixture(scope="session")
def mlflow_server() -> Callable[..., AbstractContextManager[str]]:
    """Function of (folder, store[, port]): an MLflow server on the store, as `mlflow ui` starts it in the folder.

    Gives its address once it answers; it is killed with -9 at the end. What it says is in `server.log`.
    """
    return _server


@contextmanager
def _server(folder: Path, store: str, port: int = 0) -> Iterator[str]:
    port = port or _free_port()
    options = ["--backend-store-uri", store, "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "ui", *options],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            until = time.monotonic() + SERVER_SECONDS
            while not _answers(port):
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < until, "the server does not answer"
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int) -> bool:
    with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
        return bool(answer.status == 200)
    return False
