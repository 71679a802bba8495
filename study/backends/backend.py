"""What a backend is given, and what it does: it runs the trials of a queue."""

from pathlib import Path
from typing import Protocol

from study.plan.resources import Resources
from study.schedulers.scheduler import Decision
from study.trial.events import Event
from study.trial.trial import Trial
from study.trial.worker import Inputs, Probing


class Queue(Protocol):
    """Where trials come from, one at a time as workers become free, and where their events go.

    inputs: what all trials start from; probing: when students are measured quantized; logs: the folder of the logs of
    failed trials.
    """

    @property
    def inputs(self) -> Inputs: ...

    @property
    def probing(self) -> Probing: ...

    @property
    def logs(self) -> Path: ...

    def next(self) -> Trial | None:
        """Return a trial that may run now; None if there is none, now or ever."""

    @property
    def is_done(self) -> bool:
        """Whether no trial will come any more."""

    @property
    def is_interrupted(self) -> bool:
        """Whether all trials are to end, wherever they are."""

    def is_alone(self, trial_id: str) -> bool:
        """Whether a trial has its GPU for itself, even if trials share GPUs."""

    def started(self, trial_id: str) -> None:
        """Take note that a trial starts, or resumes."""

    def report(self, trial_id: str, event: Event) -> Decision:
        """Take an event of a trial. Returns whether the trial continues."""


class Backend(Protocol):
    """A way to run trials: `study.backends.ray_tune.run_on_ray`, `study.backends.inline.run_inline`."""

    def __call__(self, queue: Queue, resources: Resources, slots: int, folder: Path) -> None:
        """Run trials until the queue is done or interrupted.

        resources: what a trial takes; slots: how many trials fit at a time; folder: for the backend's own files while
        it runs, seen by all machines and removed afterwards. A trial is reported to have started before any event of
        it, and its last event is its end, unless `report` stops or pauses it: then it has no further event. An
        exception in `queue` ends the study, and is raised when its trials have stopped.
        """
