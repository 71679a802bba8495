"""A Ray cluster: how a study joins one, and what is looked at on every node before it starts there."""

from study.backends.ray_internals import WORKER_ENVIRONMENT, join_hint  # before ray: it sets what Ray reads

# isort: split
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import ray
from filelock import Timeout
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdq.errors import UserError
from kdq.store.files import system_lock
from kdq.store.stage import digest
from study.plan.resources import Machine, Resources

SECONDS_TO_JOIN = 30.0  # Ray itself tries for two minutes, and then ends the process
SECONDS_TO_LOOK = 30.0
PACKAGES = ("kdq", "study")
"""The code that workers get from us."""

ADDRESSES = "must be auto, HOST:PORT (as `ray start` prints it) or ray://HOST:PORT"


def connect(address: str) -> Sequence[Machine]:
    """Join the cluster at an address; its nodes. Workers get this program's own code from us.

    Raises UserError, within half a minute, for an address that is none, where nothing answers or what answers is no
    cluster of our version of Ray and Python.
    """
    _knock(address)
    _rehearse(address)
    ray.init(
        address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={
            "py_modules": [str(_package(name)) for name in PACKAGES],
            "excludes": ["__pycache__"],
            "env_vars": {name: os.environ[name] for name in WORKER_ENVIRONMENT},
        },
    )
    return [
        Machine(
            f"node {node['NodeName']} ({node['NodeID'][:8]})",
            node["Resources"].get("CPU", 0),
            int(node["Resources"].get("GPU", 0)),
            node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _knock(address: str) -> None:
    """Raise UserError for an address that is none, or where no program listens."""
    if address == "auto":
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise UserError(f"--address {address}: {ADDRESSES}")
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"--address {address}: nothing answers there ({error}); start a cluster by `ray start --head` on that "
            f"machine, or leave --address out to run on this one"
        ) from None


def _rehearse(address: str) -> None:
    """Join in a process of its own, which may hang or be ended by Ray. Raises UserError if that fails."""
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    command = [sys.executable, "-c", code, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_JOIN)
    except subprocess.TimeoutExpired as error:
        said = error.stderr.decode(errors="replace") if error.stderr else ""
        reason = f"no answer in {SECONDS_TO_JOIN:.0f} s{join_hint(said)}"
    else:
        if done.returncode == 0:
            return
        reason = _last_line(done.stderr) + join_hint(done.stderr)
    raise UserError(f"--address {address}: cannot join this cluster: {reason}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["unknown reason"])[-1].strip()


@dataclass(frozen=True, slots=True)
class Task:
    """What a node has to find. desk: a folder made for this under the storage path, with the file `driver` that
    holds `token`, and a `lock` that the driver holds; code: digest of the program's source."""

    node: str
    desk: Path
    token: str
    data: Path
    code: str
    device: str


def preflight(machines: Sequence[Machine], trial: Resources, root: Path, data: Path) -> None:
    """Raise UserError with a line for each thing that is wrong on a node that a trial fits on, and its remedy.

    root: the folder that all nodes must see; data: that of the data's stage in it.
    """
    token, code = uuid4().hex, code_version()
    with _desk(root, token) as desk:
        nodes = {m.id: m.name for m in machines if m.slots(trial)}
        tasks = [Task(node, desk, token, data, code, trial.device) for node in nodes]
        for task in tasks:
            _read(desk / task.node)  # is not there: NFS may remember that, and not see for a minute what comes
        found = {task.node: problems for task, problems in zip(tasks, _ask(tasks), strict=True)}
        for task in tasks:
            if not found[task.node] and _read(desk / task.node) != token:
                found[task.node] = [
                    f"what it writes to {root} does not arrive here at once; {_MOUNT} (NFS: with {_NFS})"
                ]
    lines = [f"{nodes[node]}: {problem}" for node, problems in found.items() for problem in problems]
    if lines:
        raise UserError("\n  ".join(["the cluster is not ready, and nothing was started:", *lines]))


@contextmanager
def _desk(root: Path, token: str) -> Iterator[Path]:
    desk = Path(tempfile.mkdtemp(prefix=".preflight-", dir=root))
    try:
        (desk / "driver").write_text(token)
        with system_lock(desk / "lock"):
            yield desk
    finally:
        shutil.rmtree(desk, ignore_errors=True)  # a node that answers late may still write there


def _ask(tasks: Sequence[Task]) -> list[list[str]]:
    """The problems that each node has."""
    remote = ray.remote(num_cpus=0, max_retries=0)(look)
    there = [NodeAffinitySchedulingStrategy(task.node, soft=False) for task in tasks]
    answers = [remote.options(scheduling_strategy=s).remote(task) for s, task in zip(there, tasks, strict=True)]
    ready, _ = ray.wait(answers, num_returns=len(answers), timeout=SECONDS_TO_LOOK)
    return [_answer(answer) if answer in ready else [_SILENT] for answer in answers]


def _answer(answer: Any) -> list[str]:
    try:
        found: list[str] = ray.get(answer)
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        missing = [line for line in lines if line.startswith(("ModuleNotFoundError", "ImportError"))]
        return [f"cannot import this program ({(missing or lines)[-1]}); install its requirements there"]
    return found


def look(task: Task) -> list[str]:
    """What is wrong on the node that runs this. That it could be called says that the program can be imported."""
    checks = (_storage, _code, _accelerator)
    return [problem for check in checks if (problem := check(task))]


def _storage(task: Task) -> str | None:
    root = task.desk.parent
    try:
        if _read(task.desk / "driver") != task.token:
            return f"does not see what the driver writes to {root}; {_MOUNT}"
        (task.desk / task.node).write_text(task.token)
        if _is_free(task.desk / "lock"):
            return f"does not see the driver's locks in {root}; mount it with locks (NFS: with {_NFS})"
        if not (task.data / "data.json").is_file():
            return f"does not see the data, {task.data}; {_MOUNT}"
    except OSError as error:
        return f"cannot use {root} ({error.strerror}); run Ray there as a user who may write to it"
    return None


def _code(task: Task) -> str | None:
    if code_version() == task.code:
        return None
    return f"imports other code than the driver's, from {_package('study')}; remove that copy from its PYTHONPATH"


def _accelerator(task: Task) -> str | None:
    import torch

    if task.device == "cpu" or torch.cuda.is_available():
        return None
    return "has a GPU for Ray, but PyTorch sees none; install PyTorch with CUDA, or fix the driver (nvidia-smi)"


_NFS = "lookupcache=positive,local_lock=none"
_MOUNT = "give --storage-path a folder that all nodes mount at the same place"
_SILENT = f"has not answered in {SECONDS_TO_LOOK:.0f} s; look at `ray status`, or remove it from the cluster"


def _read(file: Path) -> str | None:
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _is_free(lock: Path) -> bool:
    try:
        with system_lock(lock, timeout=0):
            return True
    except Timeout:
        return False


def code_version() -> str:
    """SHA-256 of the program's source as it is imported here."""
    files = [(name, file) for name in PACKAGES for file in sorted(_package(name).rglob("*.py"))]
    return digest([[name, str(file.relative_to(_package(name))), file.read_text()] for name, file in files])


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec
    assert spec.origin
    return Path(spec.origin).parent
