"""Runs the trials of a queue in this process, one after the other: for tests and benchmarks."""

from contextlib import closing
from pathlib import Path

from study.backends.backend import Queue
from study.plan.resources import Resources
from study.schedulers.scheduler import Decision
from study.trial.worker import run_trial


def run_inline(queue: Queue, resources: Resources, slots: int, folder: Path) -> None:
    """The backend without workers, which are all that `slots` and `folder` are for."""
    while not queue.is_interrupted and (trial := queue.next()):
        queue.started(trial.id)
        log = queue.logs / f"{trial.id}.log"
        with closing(run_trial(trial, queue.inputs, resources.device, log, queue.probing)) as events:
            for event in events:
                if queue.report(trial.id, event) is not Decision.CONTINUE or queue.is_interrupted:
                    break
    assert queue.is_done or queue.is_interrupted, "no trial runs, and the queue waits for one"
