"""Runs the trials of a study on Ray Tune and hands on what they report."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

# Ray reads these when it is imported: no progress reports, loggers, snapshots or usage statistics of its own, and
# every report at once, since a buffered one would be late in the live table, and too late for a decision.
os.environ.update(
    RAY_AIR_NEW_OUTPUT="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_RESULT_BUFFER_LENGTH="1",
    TUNE_GLOBAL_CHECKPOINT_S="86400",
    TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
)

import psutil
import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from kdq.errors import UserError
from kdq.rungs import Decision
from study.trial import Probing, Trial, run_trial

T = TypeVar("T")

Started = Callable[[str], None]
"""Takes the id of a trial that begins, or goes on."""

Report = Callable[[str, Mapping[str, Any]], Decision]
"""Takes a trial's id and one event of it; says whether the trial goes on."""

ROOT = Path(__file__).parents[1]
WORKER_RETRIES = 2  # a trial whose worker died goes on from its stages this many times


@dataclass(frozen=True, slots=True)
class Resources:
    """What one trial takes: processor cores (its threads) and a share of a GPU."""

    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


class Queue(Protocol):
    """Where the trials come from, one at a time, as workers get free."""

    def next(self) -> Trial | None: ...

    @property
    def is_done(self) -> bool: ...


def run_on_ray(
    queue: Queue,
    resources: Resources,
    folder: Path,
    settings: Mapping[str, Any],
    started: Started,
    report: Report,
) -> None:
    """Run trials until the queue is done or the study is interrupted.

    folder: where Ray keeps its own files while the study runs; removed afterwards, since the stages hold all
    that is worth keeping; settings: what `trainable` needs to know beside the trial. An exception in `queue` or
    `report` ends the study, and is raised when its trials have stopped. Raises UserError if Ray itself dies.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a worker's death is said by `Relay`
    # Workers must run this program, not another copy of it that may be installed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        guard, verdicts = Guard(), folder.with_name(f"{folder.name}.verdicts")
        shutil.rmtree(verdicts, ignore_errors=True)
        verdicts.mkdir(parents=True)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
            param_space={
                "threads": resources.threads,
                "device": resources.device,
                "verdicts": str(verdicts),
                **settings,
            },
            tune_config=tune.TuneConfig(
                search_alg=Feed(queue, guard),
                scheduler=Decisions(report, guard, verdicts),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=trial_id,
                trial_dirname_creator=_folder_name,
            ),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                verbose=0,
                callbacks=[Relay(started, report, guard), Watch()],
                failure_config=tune.FailureConfig(max_failures=WORKER_RETRIES),
            ),
        )
        tuner.fit()
        if guard.error:
            raise guard.error
    except RayDied as died:
        raise UserError(
            f"the study stopped, since Ray's process {died} died, perhaps for want of memory; nothing that was "
            f"finished is lost: the same command goes on"
        ) from None
    finally:
        ray.shutdown()
        for left in (folder, folder.with_name(f"{folder.name}.verdicts")):
            shutil.rmtree(left, ignore_errors=True)


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
    if (Path(config["verdicts"]) / tune.get_context().get_trial_id()).exists():
        raise Ended


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
            return {"trial": trial.document()}
        return Searcher.FINISHED if self.queue.is_done else None

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The queue knows already."""

    def save(self, checkpoint_path: str) -> None:
        """There is no state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


class Decisions(Ours, FIFOScheduler):  # type: ignore[misc]
    """Passes on every event of every trial, and its decision back.

    A trial that does not go on finds a file with Ray's name for it in the folder `verdicts`, and ends by itself. One
    that pauses ends, too: when it goes on, the queue gives it again, and its stages are there.
    """

    def __init__(self, report: Report, guard: Guard, verdicts: Path) -> None:
        super().__init__()
        self.report, self.guard, self.verdicts = report, guard, verdicts

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        self.guard(lambda: self._pass_on(trial, json.loads(result["event"])), None)
        return str(self.STOP if self.guard.error else self.CONTINUE)  # after an error all of Ray is shut down

    def _pass_on(self, trial: Any, event: Mapping[str, Any]) -> None:
        if self.report(trial_id(trial), event) is not Decision.CONTINUE:
            (self.verdicts / trial.trial_id).touch()


class Relay(Ours, tune.Callback):  # type: ignore[misc]
    """Says when a trial begins and when its worker died; one that did so too often is the end of its trial."""

    def __init__(self, started: Started, report: Report, guard: Guard) -> None:
        self.started, self.report, self.guard = started, report, guard

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.guard(lambda: self.started(trial_id(trial)), None)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.guard(lambda: self.report(trial_id(trial), {"event": "worker_died"}), Decision.STOP)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = f"its worker died {WORKER_RETRIES + 1} times ({_last_line(trial.error_file)})"
        event = {"event": "end", "status": "failed", "reason": reason, "log": trial.error_file}
        self.guard(lambda: self.report(trial_id(trial), event), Decision.STOP)


class Watch(Ours, tune.Callback):  # type: ignore[misc]
    """Ends the study when a process that Ray cannot do without is gone; Ray itself would wait for ever."""

    def __init__(self) -> None:
        children = psutil.Process().children()
        self.needed = {name: child for child in children if (name := child.name()) in ("gcs_server", "raylet")}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        for name, process in self.needed.items():
            if not _is_alive(process):
                raise RayDied(name)


class RayDied(BaseException):
    """It is no Exception, after which Ray would tidy up, and for that wait for what is dead."""


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _last_line(file: str | None) -> str:
    lines = Path(file).read_text(errors="replace").strip().splitlines() if file else []
    return lines[-1].strip() if lines else "killed, or out of memory"


def trial_id(trial: Any) -> str:
    """Our id of a trial of Ray's."""
    return Trial.of(trial.config["trial"]).id


def _folder_name(trial: Any) -> str:
    """A trial that goes on after a pause is another one for Ray."""
    return f"{trial_id(trial)}-{trial.trial_id}"
