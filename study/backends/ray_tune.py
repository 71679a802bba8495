"""The backend that is Ray Tune: runs the trials of a queue on this machine or on a cluster."""

from study.backends import ray_internals  # before ray: it sets what Ray reads when it is imported

# isort: split
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psutil
import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from kdq.errors import UserError
from study.backends.backend import Queue
from study.backends.ray_internals import StopFlags
from study.backends.ray_local import RayFailedError, local_ray
from study.console import failures
from study.plan.resources import Resources
from study.schedulers.scheduler import Decision
from study.trial.events import Event, TrialEnded, WorkerLost
from study.trial.trial import Trial
from study.trial.worker import run_trial

T = TypeVar("T")
SECONDS_BETWEEN_KNOCKS = 5.0  # at the head of a cluster
WORKER_RETRIES = 2  # a trial whose worker died resumes from its stages this many times


def run_on_ray(queue: Queue, resources: Resources, slots: int, folder: Path) -> None:
    """Run trials on Ray: that of this machine, unless we are connected to a cluster. See `Backend`.

    What Ray keeps in `folder` is removed, since the stages hold all that is worth keeping. Raises UserError if Ray
    does not start, or dies.
    """
    ray_internals.silence()  # `TrialCallback` reports which worker died
    joined = nullcontext[Mapping[str, psutil.Process]]({}) if ray.is_initialized() else local_ray()
    try:
        with joined as needed:
            _run(queue, resources, slots, folder, needed)
    except RayFailedError as error:
        raise UserError(f"{error}; no finished result is lost: run the same command again to resume") from error
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _run(queue: Queue, resources: Resources, slots: int, folder: Path, needed: Mapping[str, psutil.Process]) -> None:
    """Run trials on a started Ray. needed: its processes on this machine that must live."""
    if ray_internals.is_client():
        ray_internals.stage_in(folder)
    trap, flags = ErrorTrap(), StopFlags(uuid4().hex)
    try:
        ray_internals.run_tune(
            tune.with_resources(trainable, partial(_bundle, resources)),
            config=_config(queue, resources, flags),
            search_alg=QueueSearcher(queue, trap),
            scheduler=QueueScheduler(queue, trap, flags),
            callbacks=[TrialCallback(queue, trap), LivenessCallback(needed)],
            stop=InterruptStopper(queue, trap, owns_ray=bool(needed)),
            num_samples=-1,
            # All workers start together, and one trial is ready for the slot that becomes free next. By default Ray
            # starts a worker only when the previous one has started, which takes seconds each.
            max_concurrent_trials=slots + 1,
            reuse_actors=True,
            max_failures=WORKER_RETRIES,
            raise_on_failed_trial=False,
            trial_name_creator=trial_id,
            trial_dirname_creator=_folder_name,
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=0,
        )
        flags.clear()
        if trap.error:
            raise trap.error
    except Abandoned:
        pass
    except RayDied as died:
        raise RayFailedError(f"the study stopped, since Ray's {died} died, perhaps out of memory") from None


def _config(queue: Queue, resources: Resources, flags: StopFlags) -> dict[str, Any]:
    """What Ray passes to every trial."""
    return {
        "threads": resources.threads,
        "device": resources.device,
        "stop_flags": flags.study,
        "inputs": queue.inputs,
        "probing": queue.probing,
        "logs": str(queue.logs),
    }


def _bundle(resources: Resources, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial takes: a whole GPU if it has to be alone there."""
    return tune.PlacementGroupFactory([{"CPU": resources.cpus, "GPU": 1.0 if config["alone"] else resources.gpus}])


def trainable(config: Mapping[str, Any]) -> None:
    """Run one trial; Ray Tune calls this in a worker."""
    torch.set_num_threads(config["threads"])
    trial: Trial = config["trial"]
    log = Path(config["logs"]) / f"{trial.id}.log"
    with closing(run_trial(trial, config["inputs"], config["device"], log, config["probing"])) as events:
        for event in events:
            if not report_to_ray(config, event):
                break


def report_to_ray(config: Mapping[str, Any], event: Event) -> bool:
    """Report an event, and return, when the driver has decided, whether the trial continues.

    Ray's own way to stop a trial leaves the function of a reused worker suspended in here, where it would hold the
    lock of its student for ever. So for Ray the trial continues, and ends by itself.
    """
    tune.report({"event": event})
    return not StopFlags(config["stop_flags"]).is_set(tune.get_context().get_trial_id())


class ErrorTrap:
    """Keeps the first exception of the driver's own code, which Ray would count as a failure of the trial."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(self, work: Callable[[], T], otherwise: T) -> T:
        """Return what `work` returns; `otherwise` if it fails, or has failed before."""
        if self.error:
            return otherwise
        try:
            return work()
        except Exception as error:
            self.error = error
            return otherwise


class Stateless:
    """Tune pickles its plug-ins to restore them. A study resumes by journal and stages instead: there is no state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class QueueSearcher(Stateless, Searcher):  # type: ignore[misc]
    """Gives Ray the trials of a queue."""

    def __init__(self, queue: Queue, trap: ErrorTrap) -> None:
        super().__init__()
        self.queue, self.trap = queue, trap

    def suggest(self, trial_id: str) -> Any:
        return self.trap(self._next, Searcher.FINISHED)

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


class InterruptStopper(Stateless, tune.Stopper):  # type: ignore[misc]
    """Ends all trials, wherever they are, when the queue is interrupted or the driver's own code has failed."""

    def __init__(self, queue: Queue, trap: ErrorTrap, *, owns_ray: bool) -> None:
        self.queue, self.trap, self.owns_ray = queue, trap, owns_ray

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if self.queue.is_interrupted and self.owns_ray:
            raise Abandoned
        return self.queue.is_interrupted or self.trap.error is not None


class QueueScheduler(Stateless, FIFOScheduler):  # type: ignore[misc]
    """Passes every event of every trial to the queue, and the decision back.

    A trial that does not continue finds its stop flag, and ends by itself. A trial that pauses ends, too: when it may
    resume, the queue gives it again, and its stages are there.
    """

    def __init__(self, queue: Queue, trap: ErrorTrap, flags: StopFlags) -> None:
        super().__init__()
        self.queue, self.trap, self.flags = queue, trap, flags

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        self.trap(lambda: self._report(trial, result["event"]), None)
        return str(self.STOP if self.trap.error else self.CONTINUE)  # after an error all of Ray is shut down

    def _report(self, trial: Any, event: Event) -> None:
        if self.queue.report(trial_id(trial), event) is not Decision.CONTINUE:
            self.flags.set(trial.trial_id)


class TrialCallback(Stateless, tune.Callback):  # type: ignore[misc]
    """Reports when a trial starts, and when its worker has died; a trial whose workers died too often ends."""

    def __init__(self, queue: Queue, trap: ErrorTrap) -> None:
        self.queue, self.trap = queue, trap

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.trap(lambda: self.queue.started(trial_id(trial)), None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        event = WorkerLost(ray_internals.headline(ray_internals.last_failure(trial)))
        self.trap(lambda: self.queue.report(trial_id(trial), event), Decision.STOP)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.trap(lambda: self.queue.report(trial_id(trial), self._end(trial)), Decision.STOP)

    def _end(self, trial: Any) -> TrialEnded:
        failure, log = ray_internals.last_failure(trial), self.queue.logs / f"{trial_id(trial)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ray_internals.error_file(trial), log)
        reason = f"its worker died {WORKER_RETRIES + 1} times: {ray_internals.headline(failure)}"
        return TrialEnded(failures.end_status(failure), reason, str(log), failure)


class LivenessCallback(Stateless, tune.Callback):  # type: ignore[misc]
    """Ends the study when Ray's own processes on this machine, or the head of a cluster, have died.

    Ray itself would wait for its processes for ever, and exits this process a minute after its head has died.
    needed: Ray's processes on this machine, none on a cluster.
    """

    def __init__(self, needed: Mapping[str, psutil.Process]) -> None:
        self.needed = needed
        is_watched = not needed and not ray_internals.is_client()
        self.head = str(ray.get_runtime_context().gcs_address) if is_watched else ""
        self.next_knock = 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for name, process in self.needed.items():
            if not _is_alive(process):
                raise RayDied(f"process {name}")
        if self.head and time.monotonic() > self.next_knock:
            self.next_knock = time.monotonic() + SECONDS_BETWEEN_KNOCKS
            if not _listens(self.head):
                raise RayDied(f"head at {self.head}")


class Abandoned(BaseException):
    """Leaves Tune's loop without its cleanup: a Ray of our own is shut down with all its workers.

    The cleanup would wait for Ray, which has died as well if a signal was sent to all of the study's processes.
    """


class RayDied(BaseException):
    """Not an Exception: on one, Tune would clean up first, which waits for the dead process."""


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
    """Return our id of one of Ray's trials."""
    return str(trial.config["trial"].id)


def _folder_name(trial: Any) -> str:
    """For Ray, a trial that resumes after a pause is a new one."""
    return f"{trial_id(trial)}-{trial.trial_id}"
