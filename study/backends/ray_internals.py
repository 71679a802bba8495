"""Every use of Ray that is not its public API.

Each is looked for by `check_internals` before a study starts, so that another version of Ray is an error there and no
hang later. Importing this module sets the environment that Ray reads, so it comes before the first import of ray.
"""

import inspect
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from secrets import token_hex
from typing import Any

import psutil

from kdq.errors import UserError
from study.backends.ray_requirements import broken, ray_version, remedy
from study.paths import ROOT

ENVIRONMENT = {
    # no progress reports, loggers, snapshots, statistics or Ctrl-C of its own
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # every report at once: a buffered one would be late in the live table, and too late for a decision
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    # no look at the cluster's resources every ten seconds: nothing uses it, and it blocks when the head is dead
    "TUNE_STATE_REFRESH_PERIOD": "86400",
    # CUDA_VISIBLE_DEVICES stays as it is for a trial that takes no GPU
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
os.environ.update(ENVIRONMENT)

import ray  # noqa: E402
from ray.job_config import JobConfig  # noqa: E402

WORKER_ENVIRONMENT = ("OMP_WAIT_POLICY", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
"""What the workers of a cluster, which do not inherit ours, must have as we do."""


@dataclass(frozen=True, slots=True)
class Internal:
    """An attribute of one of Ray's modules. parameters: those that it must take."""

    module: str
    name: str
    parameters: tuple[str, ...] = ()

    def get(self) -> Any:
        """Raises UserError if this version of Ray has no such attribute, or if its module cannot be imported."""
        try:
            return attrgetter(self.name)(import_module(self.module))
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and f"{self.module}.".startswith(f"{error.name}."):
                raise _unsupported(f"has no {self.module}.{self.name}") from None
            raise broken(error) from error
        except Exception:  # no AttributeError where Ray's client lacks one
            raise _unsupported(f"has no {self.module}.{self.name}") from None

    def check(self) -> None:
        """Raise UserError if this version of Ray has no such attribute, or one that takes other parameters."""
        found = self.get()
        taken = inspect.signature(found).parameters if self.parameters else {}
        if missing := [name for name in self.parameters if name not in taken]:
            raise _unsupported(f"has no parameter {missing[0]} of {self.module}.{self.name}")

    def replace(self, value: object) -> None:
        """Raises UserError if there is nothing to replace."""
        self.get()
        setattr(import_module(self.module), self.name, value)


KV_PUT = Internal("ray.experimental.internal_kv", "_internal_kv_put", ("key", "value"))
KV_EXISTS = Internal("ray.experimental.internal_kv", "_internal_kv_exists", ("key",))
KV_DELETE = Internal("ray.experimental.internal_kv", "_internal_kv_del", ("key", "del_by_prefix"))
WORKER_LOGS = Internal("ray._private.worker", "_worker_logs_enabled")
RAYLET = Internal("ray._private.services", "RAYLET_EXECUTABLE")
GCS_SERVER = Internal("ray._private.services", "GCS_SERVER_EXECUTABLE")
SESSION_FOLDER = Internal("ray.train._internal.storage", "_get_ray_train_session_dir")
IS_CLIENT = Internal("ray.util.client", "ray.is_connected")
RUN = Internal("ray.tune", "run", ("_remote",))
ERROR_FILE = Internal("ray.tune.experiment", "Trial.error_file")
PROPAGATED = Internal("ray.tune.execution.class_cache", "ENV_VARS_TO_PROPAGATE")
IS_REACHABLE = Internal("ray._private.ray_constants", "ENABLE_RAY_CLUSTER")
JOB = Internal("ray.job_config", "JobConfig._serialize")
TOKENS = Internal("ray._raylet", "AuthenticationTokenLoader.instance")
READ_ENVIRONMENT = Internal("ray._raylet", "Config.initialize")
INTERNALS = (
    *(KV_PUT, KV_EXISTS, KV_DELETE, WORKER_LOGS, RAYLET, GCS_SERVER, SESSION_FOLDER, IS_CLIENT, RUN, ERROR_FILE),
    *(PROPAGATED, IS_REACHABLE, JOB, TOKENS, READ_ENVIRONMENT),
)


def check_internals() -> None:
    """Raise UserError for a Ray that lacks what is used of it."""
    for internal in INTERNALS:
        internal.check()


def _unsupported(what: str) -> UserError:
    return UserError(f"Ray {ray_version()} {what}, which trials are run with; {remedy()}")


def silence() -> None:
    """Keep out of the table what Ray itself prints of every worker that died: a callback reports it in one line."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    WORKER_LOGS.replace(False)


def start_local(cores: int, folder: Path) -> None:
    """Start a Ray for this process alone: its files in a new folder there, and no port open to other machines.

    (Ray makes its folder writable for everyone, so the folder around it must be private.)
    """
    is_reachable = IS_REACHABLE.get()
    IS_REACHABLE.replace(False)  # else it takes 127.0.0.1 for another name of the address that others see
    try:
        with kept_signal_handlers():
            ray.init(
                address="local",
                job_config=OwnCode(),
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(folder / "r"),
            )
    finally:
        IS_REACHABLE.replace(is_reachable)


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Give this process back its handler of SIGTERM, which `ray.init` replaces: Ray's ends it in a stack dump."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def own_token() -> Iterator[None]:
    """Have the processes of a Ray that starts meanwhile know each other by a token in their environment.

    By default Ray writes one to the home folder, which may not exist. The environment is as before at the end, so that
    a cluster that this process joins later gets the token meant for it.
    """
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")}
    if not before["RAY_AUTH_TOKEN"] and not before["RAY_AUTH_TOKEN_PATH"]:
        os.environ["RAY_AUTH_TOKEN"] = token_hex(16)
    forget = TOKENS.get()().reset_cache
    forget()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        forget()
        READ_ENVIRONMENT.get()("")


class OwnCode(JobConfig):  # type: ignore[misc]
    """Has workers import this program.

    Ray puts the driver's current folder first on their path, before PYTHONPATH: modules that happen to lie there, such
    as an older copy of this program or a `random.py`, would be imported instead of those that the driver imports. Not
    for a client, whose server does that, and could not unpickle this.
    """

    def _serialize(self) -> Any:
        self._py_driver_sys_path = [str(ROOT)]
        return super()._serialize()


def is_client() -> bool:
    """Whether this process is connected to a cluster by Ray's client (`ray://`), and so is on none of its nodes."""
    return bool(IS_CLIENT.get()())


def stage_in(folder: Path) -> None:
    """Have Tune stage its files in a folder, not in the session's folder of its node, which a client has not."""
    SESSION_FOLDER.replace(lambda: str(folder))


def run_tune(trainable: Any, **settings: Any) -> None:
    """`ray.tune.run` with its loop in this process, beside the queue.

    (`Tuner.fit` and `tune.run` themselves have a client run the loop on the cluster.) No credentials are sent to the
    workers, which need none: Tune would pass on those of AWS, and Ray write them to a log.
    """
    PROPAGATED.replace(frozenset())
    RUN.get()(trainable, **settings, _remote=False)


def core_processes() -> Mapping[str, psutil.Process]:
    """The processes, by their names, that a Ray started by this process needs. Raises UserError if one is missing."""
    children = {child.name(): child for child in psutil.Process().children()}
    names = [Path(internal.get()).name for internal in (RAYLET, GCS_SERVER)]
    if missing := [name for name in names if name not in children]:
        raise _unsupported(f"has started no process {missing[0]}")
    return {name: children[name] for name in names}


@dataclass(frozen=True, slots=True)
class StopFlags:
    """The trials, by Ray's ids, that do not continue; kept by Ray's own process, so every node sees them at once.

    A worker looks at each of its reports, in 0.4 ms. The public alternative, a named actor, takes 1 ms, 60 MB and one
    more process, which can be lost with the flags. (A file may be seen a minute late on a network's folder.)
    study: a name for this run of the study.
    """

    study: str

    def set(self, trial: str) -> None:
        KV_PUT.get()(f"{self.study}/{trial}", b"")

    def is_set(self, trial: str) -> bool:
        return bool(KV_EXISTS.get()(f"{self.study}/{trial}"))

    def clear(self) -> None:
        KV_DELETE.get()(f"{self.study}/", del_by_prefix=True)


_FAILURE = re.compile(r"^Failure # \d+ \(occurred at .*\)$", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[\d+m")


def error_file(trial: Any) -> Path:
    """Where Ray has written why the workers of a trial of its own died, one after the other."""
    return Path(trial.error_file)


def last_failure(trial: Any) -> str:
    """What Ray has written of the last death of a trial's worker."""
    return _COLOUR.sub("", _FAILURE.split(error_file(trial).read_text(errors="replace"))[-1]).strip()


def headline(failure: str) -> str:
    """The line that says what happened: the first, or in a traceback the first after the frames."""
    lines = failure.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith(("ray::", "Traceback "))]
    after = lines[heads[-1] + 1 :] if heads else lines
    return next((line for line in after if line and not line[0].isspace()), "Ray gives no reason")


def join_hint(failure: str) -> str:
    """What helps against a failure to join a cluster, by what Ray prints of it."""
    if "InvalidAuthToken" in failure or "Unauthenticated" in failure:
        return "; it wants a token: set RAY_AUTH_MODE (and RAY_AUTH_TOKEN) here as where it was started"
    if "ray[client]" in failure:
        return "; or run where a node of the cluster is, by HOST:PORT"
    return ""
