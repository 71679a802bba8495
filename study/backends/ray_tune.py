"""Runs the trials of a study on Ray Tune and hands on what they report."""

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
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
from study.backends import ray_internals
from study.backends.backend import Queue, Report, Started
from study.backends.ray_internals import StopFlags
from study.console import failures
from study.plan.resources import Resources, cores
from study.schedulers.scheduler import Decision
from study.trial.trial import Probing, Trial
from study.trial.worker import run_trial

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
SECONDS_BETWEEN_KNOCKS = 5.0  # at the head of a cluster
WORKER_RETRIES = 2  # a trial whose worker died goes on from its stages this many times


def run_on_ray(
    queue: Queue,
    resources: Resources,
    slots: int,
    folder: Path,
    settings: Mapping[str, Any],
    started: Started,
    report: Report,
) -> None:
    """The backend that is Ray Tune, on this machine unless we are connected to a cluster.

    What Ray keeps in `folder` is removed, since the stages hold all that is worth keeping. Raises UserError if Ray
    itself dies.
    """
    ray_internals.silence()  # `WorkerCallback` says which worker died
    needed = {} if ray.is_initialized() else _start_ray()
    if ray_internals.is_client():
        ray_internals.stage_in(folder)
    trap, stop_flags = ErrorTrap(), StopFlags(uuid4().hex)
    config = {"threads": resources.threads, "device": resources.device, "stop_flags": stop_flags.study, **settings}
    try:
        ray_internals.run_tune(
            tune.with_resources(trainable, partial(_bundle, resources)),
            config=config,
            search_alg=QueueSearcher(queue, trap),
            scheduler=ReportScheduler(report, trap, stop_flags),
            callbacks=[WorkerCallback(started, report, trap, Path(settings["logs"])), LivenessCallback(needed)],
            stop=InterruptionStopper(queue, trap),
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
        )
        stop_flags.clear()
        if trap.error:
            raise trap.error
    except RayDied as died:
        raise UserError(
            f"the study stopped, since Ray's {died} died, perhaps out of memory; nothing that was finished is lost: "
            f"the same command goes on"
        ) from None
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start_ray() -> Mapping[str, psutil.Process]:
    """Ray on this machine alone, with the cores that this process may use; its processes that must live, by name."""
    # Workers must run this program, not another copy of it that may be installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    ray.init(
        address="local", num_cpus=cores(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    return ray_internals.core_processes()


def _bundle(resources: Resources, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial takes: a whole GPU if it has to be alone there."""
    return tune.PlacementGroupFactory([{"CPU": resources.cpus, "GPU": 1.0 if config["alone"] else resources.gpus}])


def trainable(config: Mapping[str, Any]) -> None:
    """One trial, as Ray Tune calls it in a worker."""
    torch.set_num_threads(config["threads"])
    trial = Trial.of(config["trial"])
    log = Path(config["logs"]) / f"{trial.id}.log"
    with suppress(Ended):
        run_trial(trial, config["device"], log, partial(report_to_ray, config), Probing(**config["probing"]))


class Ended(BaseException):
    """A trial was told to stop or to pause. It is no Exception, which would be taken for a failure."""


def report_to_ray(config: Mapping[str, Any], event: Mapping[str, Any]) -> None:
    """Returns when the driver has let the trial go on; raises Ended if it has not.

    Ray's own way to stop leaves the function of a worker that may be used again where it is, in here, holding the
    lock of its student for ever. So for Ray the trial goes on, and finds that it has ended.
    """
    tune.report({"event": json.dumps(event)})  # as text, since Ray would take a mapping apart
    if StopFlags(config["stop_flags"]).is_set(tune.get_context().get_trial_id()):
        raise Ended


class ErrorTrap:
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


class Stateless:
    """Tune pickles what it is given, to restore it. A study resumes by journal and stages: there is no state."""

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
            return {"trial": trial.document(), "alone": self.queue.is_alone(trial.id)}
        return Searcher.FINISHED if self.queue.is_done else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The queue knows already."""

    def save(self, checkpoint_path: str) -> None:
        """There is no state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class InterruptionStopper(Stateless, tune.Stopper):  # type: ignore[misc]
    """Ends all trials, wherever they are, when the queue is interrupted or the driver's own code has failed."""

    def __init__(self, queue: Queue, trap: ErrorTrap) -> None:
        self.queue, self.trap = queue, trap

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.queue.is_interrupted or self.trap.error is not None


class ReportScheduler(Stateless, FIFOScheduler):  # type: ignore[misc]
    """Passes on every event of every trial, and its decision back.

    A trial that does not go on finds its stop flag set, and ends by itself. One that pauses ends, too: when it goes on,
    the queue gives it again, and its stages are there.
    """

    def __init__(self, report: Report, trap: ErrorTrap, stop_flags: StopFlags) -> None:
        super().__init__()
        self.report, self.trap, self.stop_flags = report, trap, stop_flags

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        self.trap(lambda: self._pass_on(trial, json.loads(result["event"])), None)
        return str(self.STOP if self.trap.error else self.CONTINUE)  # after an error all of Ray is shut down

    def _pass_on(self, trial: Any, event: Mapping[str, Any]) -> None:
        if self.report(trial_id(trial), event) is not Decision.CONTINUE:
            self.stop_flags.set(trial.trial_id)


class WorkerCallback(Stateless, tune.Callback):  # type: ignore[misc]
    """Reports when a trial begins, and when its worker has died; one that died too often is the end of its trial.

    logs: the folder for what Ray says of it.
    """

    def __init__(self, started: Started, report: Report, trap: ErrorTrap, logs: Path) -> None:
        self.started, self.report, self.trap, self.logs = started, report, trap, logs

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.trap(lambda: self.started(trial_id(trial)), None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        event = {"event": "lost", "reason": ray_internals.headline(ray_internals.last_failure(trial))}
        self.trap(lambda: self.report(trial_id(trial), event), Decision.STOP)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.trap(lambda: self.report(trial_id(trial), self._end(trial)), Decision.STOP)

    def _end(self, trial: Any) -> Mapping[str, Any]:
        said, log = ray_internals.last_failure(trial), self.logs / f"{trial_id(trial)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ray_internals.error_file(trial), log)
        reason = f"its worker died {WORKER_RETRIES + 1} times: {ray_internals.headline(said)}"
        return {"event": "end", "status": failures.ends_as(said), "reason": reason, "log": str(log), "error": said}


class LivenessCallback(Stateless, tune.Callback):  # type: ignore[misc]
    """Ends the study when what Ray cannot do without is gone: its processes here, or the head of a cluster.

    Ray itself would wait for its own for ever, and after a minute without its head end this process in mid-sentence.
    needed: its processes here, none on a cluster.
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
    return Trial.of(trial.config["trial"]).id


def _folder_name(trial: Any) -> str:
    """A trial that goes on after a pause is another one for Ray."""
    return f"{trial_id(trial)}-{trial.trial_id}"
