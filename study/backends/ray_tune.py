"""Runs the trials of a study on Ray Tune and hands on what they report."""

import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import psutil
import ray
import torch
from ray import tune
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_exists, _internal_kv_put
from ray.train._internal import storage
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from kdq.errors import UserError
from study.console import failures
from study.plan.resources import Resources, cores
from study.schedulers.scheduler import Decision
from study.trial.events import Event, TrialEnded, WorkerLost
from study.trial.trial import Trial
from study.trial.worker import Inputs, Probing, run_trial

# Ray reads these when it is imported: no progress reports, loggers, snapshots, statistics or Ctrl-C of its own, and
# every report at once, since a buffered one would be late in the live table, and too late for a decision. And it need
# not ask for the cluster's resources every ten seconds, which nothing uses and which blocks when the head is dead.
os.environ.update(
    RAY_AIR_NEW_OUTPUT="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_DISABLE_SIGINT_HANDLER="1",
    TUNE_RESULT_BUFFER_LENGTH="1",
    TUNE_STATE_REFRESH_PERIOD="86400",
    TUNE_GLOBAL_CHECKPOINT_S="86400",
    TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
)
T = TypeVar("T")
ROOT = Path(__file__).parents[2]
WORKER_ENVIRONMENT = ("OMP_WAIT_POLICY", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO")
"""What the workers of a cluster, which do not inherit ours, must have as we do."""

SECONDS_BETWEEN_KNOCKS = 5.0  # at the head of a cluster
WORKER_RETRIES = 2  # a trial whose worker died goes on from its stages this many times


class Queue(Protocol):
    """Where the trials come from, one at a time, as workers get free, and where their events go.

    inputs: what the trials start from; probing: when students are measured quantized; logs: the folder of their logs.
    """

    @property
    def inputs(self) -> Inputs: ...

    @property
    def probing(self) -> Probing: ...

    @property
    def logs(self) -> Path: ...

    def next(self) -> Trial | None: ...

    @property
    def is_done(self) -> bool: ...

    @property
    def is_interrupted(self) -> bool: ...

    def is_alone(self, trial_id: str) -> bool:
        """Whether a trial has its GPU for itself, even if trials share GPUs."""

    def started(self, trial_id: str) -> None:
        """Take the id of a trial that starts, or resumes."""

    def report(self, trial_id: str, event: Event) -> Decision:
        """Take an event of a trial. Returns whether the trial goes on."""


def run_on_ray(queue: Queue, resources: Resources, slots: int, folder: Path) -> None:
    """Run trials until the queue is done or the study is interrupted.

    Ray is that of this machine unless we are connected to a cluster. slots: so many trials fit at a time; folder: where
    Ray keeps its own files while the study runs, seen by all nodes; removed afterwards, since the stages hold all that
    is worth keeping. An exception in `queue` ends the study, and is raised when its trials have stopped. Raises
    UserError if Ray itself dies.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # `Relay` says which worker died, and in one line
    ray._private.worker._worker_logs_enabled = False  # which else tell of every death in the midst of the table
    if not ray.is_initialized():
        _start_ray()
    if ray.util.client.ray.is_connected():
        # Tune stages its files in the session's folder of the node that it runs on, and a client runs on none.
        storage._get_ray_train_session_dir = lambda: str(folder)
    guard, verdicts = Guard(), Verdicts(uuid4().hex)
    config = {
        "threads": resources.threads,
        "device": resources.device,
        "verdicts": verdicts.study,
        "inputs": queue.inputs,
        "probing": queue.probing,
        "logs": str(queue.logs),
    }
    try:
        # Not `Tuner.fit`, which for a client of a distant cluster runs elsewhere, away from the queue and the report.
        tune.run(
            tune.with_resources(trainable, partial(_bundle, resources)),
            config=config,
            search_alg=Feed(queue, guard),
            scheduler=Decisions(queue, guard, verdicts),
            callbacks=[Relay(queue, guard), Watch()],
            stop=Interruption(queue, guard),
            num_samples=-1,
            # All workers start at once, and one trial is ready for the slot that gets free next. Left to itself, Ray
            # starts a worker only when the one before it has started, which takes seconds each.
            max_concurrent_trials=slots + 1,
            reuse_actors=True,
            max_failures=WORKER_RETRIES,
            raise_on_failed_trial=False,
            trial_name_creator=trial_id,
            trial_dirname_creator=_folder_name,
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
            _remote=False,
        )
        verdicts.forget()
        if guard.error:
            raise guard.error
    except RayDied as died:
        raise UserError(
            f"the study stopped, since Ray's {died} died, perhaps for want of memory; nothing that was "
            f"finished is lost: the same command goes on"
        ) from None
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start_ray() -> None:
    """Ray on this machine alone, with the cores that this process may use."""
    # Workers must run this program, not another copy of it that may be installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ray.init(
        address="local", num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )


def _bundle(resources: Resources, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial takes: a whole GPU if it has to be alone there."""
    return tune.PlacementGroupFactory([{"CPU": resources.cpus, "GPU": 1.0 if config["alone"] else resources.gpus}])


def trainable(config: Mapping[str, Any]) -> None:
    """One trial, as Ray Tune calls it in a worker."""
    torch.set_num_threads(config["threads"])
    trial: Trial = config["trial"]
    log = Path(config["logs"]) / f"{trial.id}.log"
    with closing(run_trial(trial, config["inputs"], config["device"], log, config["probing"])) as events:
        for event in events:
            if not report_to_ray(config, event):
                break


def report_to_ray(config: Mapping[str, Any], event: Event) -> bool:
    """Report an event; returns when the driver has decided, whether the trial goes on.

    Ray's own way to stop leaves the function of a worker that may be used again where it is, in here, holding the
    lock of its student for ever. So for Ray the trial goes on, and finds that it has ended.
    """
    tune.report({"event": event})
    return not Verdicts(config["verdicts"]).has(tune.get_context().get_trial_id())


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The trials, by Ray's ids, that do not go on: noted with Ray itself, where every node sees it at once.

    (A file may be seen a minute late on a network's folder.) study: a name for this run of the study.
    """

    study: str

    def note(self, trial: str) -> None:
        _internal_kv_put(f"{self.study}/{trial}", b"")

    def has(self, trial: str) -> bool:
        return bool(_internal_kv_exists(f"{self.study}/{trial}"))

    def forget(self) -> None:
        _internal_kv_del(f"{self.study}/", del_by_prefix=True)


class Guard:
    """Keeps the first exception of the driver's own code, which Ray would take for a failure of the trial."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(self, work: Callable[[], T], otherwise: T) -> T:
        """What `work` returns; `otherwise` if it fails, now or before."""
        if self.error:
            return otherwise
        try:
            return work()
        except Exception as error:
            self.error = error
            return otherwise


class Ours:
    """Tune pickles what it is given for a restore of its own. Ours is by journal and stages: there is no state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Feed(Ours, Searcher):  # type: ignore[misc]
    """Gives Ray the trials of a queue."""

    def __init__(self, queue: Queue, guard: Guard) -> None:
        super().__init__()
        self.queue, self.guard = queue, guard

    def suggest(self, trial_id: str) -> Any:
        return self.guard(self._next, Searcher.FINISHED)

    def _next(self) -> Any:
        if trial := self.queue.next():
            return {"trial": trial, "alone": self.queue.is_alone(trial.id)}
        return Searcher.FINISHED if self.queue.is_done else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The queue knows already."""

    def save(self, checkpoint_path: str) -> None:
        """There is no state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class Interruption(Ours, tune.Stopper):  # type: ignore[misc]
    """Ends all trials, wherever they are, when the queue is interrupted or the driver's own code has failed."""

    def __init__(self, queue: Queue, guard: Guard) -> None:
        self.queue, self.guard = queue, guard

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.queue.is_interrupted or self.guard.error is not None


class Decisions(Ours, FIFOScheduler):  # type: ignore[misc]
    """Passes on every event of every trial, and its decision back.

    A trial that does not go on finds itself among the verdicts, and ends by itself. One that pauses ends, too: when it
    goes on, the queue gives it again, and its stages are there.
    """

    def __init__(self, queue: Queue, guard: Guard, verdicts: Verdicts) -> None:
        super().__init__()
        self.queue, self.guard, self.verdicts = queue, guard, verdicts

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        self.guard(lambda: self._pass_on(trial, result["event"]), None)
        return str(self.STOP if self.guard.error else self.CONTINUE)  # after an error all of Ray is shut down

    def _pass_on(self, trial: Any, event: Event) -> None:
        if self.queue.report(trial_id(trial), event) is not Decision.CONTINUE:
            self.verdicts.note(trial.trial_id)


class Relay(Ours, tune.Callback):  # type: ignore[misc]
    """Reports when a trial starts, and when its worker has died; one that died too often ends its trial."""

    def __init__(self, queue: Queue, guard: Guard) -> None:
        self.queue, self.guard = queue, guard

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.guard(lambda: self.queue.started(trial_id(trial)), None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        event = WorkerLost(_telling_line(_last_failure(trial)))
        self.guard(lambda: self.queue.report(trial_id(trial), event), Decision.STOP)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.guard(lambda: self.queue.report(trial_id(trial), self._end(trial)), Decision.STOP)

    def _end(self, trial: Any) -> TrialEnded:
        said, log = _last_failure(trial), self.queue.logs / f"{trial_id(trial)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trial.error_file, log)
        reason = f"its worker died {WORKER_RETRIES + 1} times: {_telling_line(said)}"
        return TrialEnded(failures.end_status(said), reason, str(log), said)


def _last_failure(trial: Any) -> str:
    """What Ray says of the last death of a trial's worker."""
    return Path(trial.error_file).read_text(errors="replace").split("Failure # ")[-1].partition("\n")[2].strip()


def _telling_line(said: str) -> str:
    """Ray begins with what happened; a traceback, which it heads with the name of the task, ends with it."""
    lines = said.splitlines()
    return lines[-1 if said.startswith("ray::") else 0].strip()


class Watch(Ours, tune.Callback):  # type: ignore[misc]
    """Ends the study when what Ray cannot do without is gone: its processes here, or the head of a cluster.

    Ray itself would wait for its own for ever, and after a minute without its head end this process in mid-sentence.
    """

    def __init__(self) -> None:
        children = psutil.Process().children()
        self.needed = {name: child for child in children if (name := child.name()) in ("gcs_server", "raylet")}
        is_client = ray.util.client.ray.is_connected()
        self.head = "" if self.needed or is_client else str(ray.get_runtime_context().gcs_address)
        self.next_knock = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for name, process in self.needed.items():
            if not _is_alive(process):
                raise RayDied(f"process {name}")
        if self.head and time.monotonic() > self.next_knock:
            self.next_knock = time.monotonic() + SECONDS_BETWEEN_KNOCKS
            if not _listens(self.head):
                raise RayDied(f"head at {self.head}")


class RayDied(BaseException):
    """It is no Exception, after which Ray would tidy up, and for that wait for what is dead."""


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_BETWEEN_KNOCKS).close()
    except OSError:
        return False
    return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def trial_id(trial: Any) -> str:
    """Our id of a trial of Ray's."""
    return str(trial.config["trial"].id)


def _folder_name(trial: Any) -> str:
    """A trial that goes on after a pause is another one for Ray."""
    return f"{trial_id(trial)}-{trial.trial_id}"
