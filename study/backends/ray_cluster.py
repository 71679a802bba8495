"""A Ray cluster: how a study joins it, and what is checked on every node before trials start there."""

from study.backends.ray_internals import WORKER_ENVIRONMENT, OwnCode, join_hint  # before ray: it sets what Ray reads

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
from secrets import token_hex
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

import ray
from filelock import Timeout
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kdq import plugins
from kdq.distill.precision import Choice, choose
from kdq.errors import UserError
from kdq.plugins import Plugin
from kdq.store.files import system_lock
from kdq.store.stage import digest
from study.plan.resources import Machine, Resources

PATIENCE = float(os.environ.get("KDQ_PATIENCE", "1"))  # a larger one for a cluster whose nodes are slow to respond
SECONDS_TO_JOIN = 30.0 * PATIENCE  # Ray itself tries for two minutes, and then ends the process
SECONDS_TO_CHECK = 30.0 * PATIENCE
PACKAGES = ("kdq", "study")
"""The packages that workers get from the driver."""

NAMESPACE = f"kdq-{token_hex(8)}"
"""The name, in a cluster, of what this process runs there; it tells a cluster that we joined from another one."""

ADDRESSES = "must be auto, HOST:PORT (as `ray start` prints it) or ray://HOST:PORT"


def connect(address: str) -> Sequence[Machine]:
    """Join the cluster at an address, and return its nodes. Workers get the code of this process.

    Raises UserError, within half a minute, if the address is invalid, if nothing responds there, or if it is not a
    cluster of the same versions of Ray and Python.
    """
    _check_address(address)
    _try_to_join(address)
    ray.init(
        address,
        namespace=NAMESPACE,
        job_config=None if _is_client(address) else OwnCode(),
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


def _is_client(address: str) -> bool:
    """Whether Ray takes an address for that of a server of clients; `auto` is RAY_ADDRESS, if that is set."""
    given = os.environ.get("RAY_ADDRESS") if address == "auto" else address
    return bool(given and given.startswith("ray://"))


def leave() -> None:
    """Leave a cluster that a former command of this process has joined.

    Raises UserError if the program around us has started Ray, or joined a cluster, itself: its workers may import other
    code, and our end would be its end.
    """
    if not ray.is_initialized():
        return
    if ray.get_runtime_context().namespace != NAMESPACE:
        raise UserError(
            "this program has called ray.init already, and a study starts a Ray of its own: call ray.shutdown() "
            "before it, or run the study as a command of its own (--address HOST:PORT runs it on that Ray)"
        )
    ray.shutdown()


def _check_address(address: str) -> None:
    """Raise UserError if an address is invalid, or if no program listens there."""
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
            f"--address {address}: nothing responds there ({error}); start a cluster by `ray start --head` on that "
            f"machine, or omit --address to run on this one"
        ) from None


def _try_to_join(address: str) -> None:
    """Join in a separate process, since Ray may hang or end it. Raises UserError if that fails."""
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    command = [sys.executable, "-P", "-c", code, address]  # -P: nothing that lies in this folder is imported
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_JOIN)
    except subprocess.TimeoutExpired as error:
        output = error.stderr.decode(errors="replace") if error.stderr else ""
        reason = f"no response in {SECONDS_TO_JOIN:.0f} s{join_hint(output)}"
    else:
        if done.returncode == 0:
            return
        reason = _last_line(done.stderr) + join_hint(done.stderr)
    raise UserError(f"--address {address}: cannot join this cluster: {reason}")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["unknown reason"])[-1].strip()


@dataclass(frozen=True, slots=True)
class Task:
    """What a node checks. folder: a temporary folder in the storage path, with the file `driver` that contains `token`,
    and a `lock` that the driver holds; code: digest of the program's source."""

    node: str
    folder: Path
    token: str
    data: Path
    code: str
    device: str
    plugins: tuple[Plugin, ...] = ()


class Answer(NamedTuple):
    """The problems of a node, and the precision that it would choose; None if it has not run the check."""

    problems: list[str]
    choice: Choice | None = None


def preflight(machines: Sequence[Machine], trial: Resources, root: Path, data: Path) -> dict[str, Choice]:
    """Check every node that a trial fits on; return, by its name, the precision that each would choose.

    Raises UserError with a line for each problem, and its remedy. root: the storage path, which all nodes must see;
    data: the folder of the data's stage in it.
    """
    token, code = uuid4().hex, code_version()
    with _temporary_folder(root, token) as folder:
        nodes = {m.id: m.name for m in machines if m.slots(trial)}
        tasks = [Task(node, folder, token, data, code, trial.device, plugins.loaded()) for node in nodes]
        for task in tasks:
            _read(folder / task.node)  # missing: NFS may cache that, and then miss the file for a minute
        found = {task.node: answer for task, answer in zip(tasks, _run(tasks), strict=True)}
        for task in tasks:
            if not found[task.node].problems and _read(folder / task.node) != token:
                found[task.node] = Answer(
                    [f"what it writes to {root} is not visible here immediately; {_MOUNT} (NFS: with {_NFS})"]
                )
    lines = [f"{nodes[node]}: {problem}" for node, answer in found.items() for problem in answer.problems]
    if lines:
        raise UserError("\n  ".join(["the cluster is not ready, and nothing was started:", *lines]))
    return {nodes[node]: answer.choice for node, answer in found.items() if answer.choice}


@contextmanager
def _temporary_folder(root: Path, token: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".preflight-", dir=root))
    try:
        (folder / "driver").write_text(token)
        with system_lock(folder / "lock"):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a slow node may still write there


def _run(tasks: Sequence[Task]) -> list[Answer]:
    """Return the answer of each node."""
    remote = ray.remote(num_cpus=0, max_retries=0)(answer)
    strategies = [NodeAffinitySchedulingStrategy(task.node, soft=False) for task in tasks]
    pending = [remote.options(scheduling_strategy=s).remote(task) for s, task in zip(strategies, tasks, strict=True)]
    ready, _ = ray.wait(pending, num_returns=len(pending), timeout=SECONDS_TO_CHECK)
    return [_get(one) if one in ready else Answer([_NO_RESPONSE]) for one in pending]


def _get(ready: Any) -> Answer:
    try:
        found: Answer = ray.get(ready)
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        missing = [line for line in lines if line.startswith(("ModuleNotFoundError", "ImportError"))]
        return Answer([f"cannot import this program ({(missing or lines)[-1]}); install its requirements there"])
    return found


def answer(task: Task) -> Answer:
    """Return what a node finds, on that node."""
    return Answer(check(task), choose(task.device))


def check(task: Task) -> list[str]:
    """Return the problems of the node that runs this; that it runs shows that the program can be imported."""
    found = (_storage(task), _code(task), _plugins(task), _accelerator(task))
    return [problem for problem in found if problem]


def _storage(task: Task) -> str | None:
    root = task.folder.parent
    try:
        if _read(task.folder / "driver") != task.token:
            return f"cannot see what the driver writes to {root}; {_MOUNT}"
        (task.folder / task.node).write_text(task.token)
        if _is_free(task.folder / "lock"):
            return f"cannot see the driver's locks in {root}; mount it with locks (NFS: with {_NFS})"
        if not (task.data / "data.json").is_file():
            return f"cannot see the data in {task.data}; {_MOUNT}"
    except OSError as error:
        return f"cannot use {root} ({error.strerror}); run Ray there as a user who may write to it"
    return None


def _code(task: Task) -> str | None:
    if code_version() == task.code:
        return None
    return f"imports different code from the driver's, in {_package('study')}; remove that copy from its PYTHONPATH"


def _plugins(task: Task) -> str | None:
    try:
        plugins.ensure(task.plugins)
    except UserError as error:
        return str(error)
    return None


def _accelerator(task: Task) -> str | None:
    import torch

    if task.device == "cpu" or torch.cuda.is_available():
        return None
    return "offers a GPU to Ray, but PyTorch finds none; install PyTorch with CUDA, or fix the driver (nvidia-smi)"


_NFS = "lookupcache=positive,local_lock=none"
_MOUNT = "give --storage-path a folder that all nodes mount at the same place"
_NO_RESPONSE = f"has not responded in {SECONDS_TO_CHECK:.0f} s; check `ray status`, or remove it from the cluster"


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
    """Return the SHA-256 of the program's source as it is imported here."""
    files = [(name, file) for name in PACKAGES for file in sorted(_package(name).rglob("*.py"))]
    return digest([[name, str(file.relative_to(_package(name))), file.read_text()] for name, file in files])


def _package(name: str) -> Path:
    spec = find_spec(name)
    assert spec
    assert spec.origin
    return Path(spec.origin).parent
