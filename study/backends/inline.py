"""Runs the trials of a queue in this process, one after the other: for tests and benchmarks."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from study.backends.backend import Queue, Report, Started
from study.plan.resources import Resources
from study.schedulers.scheduler import Decision
from study.trial.trial import Probing
from study.trial.worker import run_trial


class _Halt(BaseException):
    """Ends a trial: by decision, or since its report failed with an error.

    It is no Exception, which would be taken for the end of the trial itself.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


def run_inline(
    queue: Queue,
    resources: Resources,
    slots: int,
    folder: Path,
    settings: Mapping[str, Any],
    started: Started,
    report: Report,
) -> None:
    """The backend without workers, which are all that `slots` and `folder` are for."""
    logs, probing = Path(settings["logs"]), Probing(**settings["probing"])
    while not queue.is_interrupted and (trial := queue.next()):
        started(trial.id)
        try:
            run_trial(
                trial, resources.device, logs / f"{trial.id}.log", partial(_pass_on, queue, report, trial.id), probing
            )
        except _Halt as halt:
            if halt.error:
                raise halt.error from None
    assert queue.is_done or queue.is_interrupted, "no trial runs, and the queue waits for one"


def _pass_on(queue: Queue, report: Report, trial_id: str, event: Mapping[str, Any]) -> None:
    try:
        decision = report(trial_id, event)
    except Exception as error:
        raise _Halt(error) from error
    if decision is not Decision.CONTINUE or queue.is_interrupted:
        raise _Halt
