"""Runs the trials of a study on Ray Tune and hands on what they report."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray reads these when it is imported: no progress reports, loggers or usage statistics of its own, and every
# report at once, since a buffered one would be late in the live table.
os.environ.update(
    RAY_AIR_NEW_OUTPUT="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_RESULT_BUFFER_LENGTH="1",
    TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
)

import ray
import torch
from ray import tune

from study.trial import Trial, run_trial

Started = Callable[[str], None]
"""Takes the id of a trial that begins."""

Report = Callable[[str, Mapping[str, Any]], None]
"""Takes a trial's id and one event of it."""

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


def run_on_ray(
    trials: Mapping[str, Trial],
    resources: Resources,
    folder: Path,
    logs: Path,
    started: Started,
    report: Report,
) -> bool:
    """Run every trial (by its id); True if all of them ended, False if the study was interrupted.

    folder: where Ray keeps its own files while the study runs; removed afterwards, since the stages hold all
    that is worth keeping. logs: the folder for the logs of trials that fail.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        relay = Relay(started, report)
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
            param_space={
                "trial": tune.grid_search([trial.document() for trial in trials.values()]),
                "threads": resources.threads,
                "device": resources.device,
                "logs": str(logs),
            },
            tune_config=tune.TuneConfig(reuse_actors=True, trial_name_creator=trial_id, trial_dirname_creator=trial_id),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                verbose=0,
                callbacks=[relay],
                failure_config=tune.FailureConfig(max_failures=WORKER_RETRIES),
            ),
        )
        tuner.fit()
        return len(relay.ended) == len(trials)
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def trainable(config: Mapping[str, Any]) -> None:
    """One trial, as Ray Tune calls it in a worker."""
    torch.set_num_threads(config["threads"])
    trial = Trial.of(config["trial"])
    run_trial(trial, config["device"], Path(config["logs"]) / f"{trial.id}.log", report_to_ray)


def report_to_ray(event: Mapping[str, Any]) -> None:
    tune.report({"event": event})


class Relay(tune.Callback):  # type: ignore[misc]
    """Passes on every event of every trial; a worker that died too often is the end of its trial."""

    def __init__(self, started: Started, report: Report) -> None:
        self.started, self.report = started, report
        self.ended: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore of its own; ours are the stages

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.started(trial_id(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._pass_on(trial, result["event"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = f"its worker died {WORKER_RETRIES + 1} times (killed, or out of memory)"
        self._pass_on(trial, {"event": "end", "status": "failed", "reason": reason, "log": trial.error_file})

    def _pass_on(self, trial: Any, event: Mapping[str, Any]) -> None:
        if event["event"] == "end":
            self.ended.add(trial_id(trial))
        self.report(trial_id(trial), event)


def trial_id(trial: Any) -> str:
    """Our id of a trial of Ray's."""
    return Trial.of(trial.config["trial"]).id
