"""What a backend is given, and what it does: it runs the trials of a queue."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from study.plan.resources import Resources
from study.schedulers.scheduler import Decision
from study.trial.trial import Trial

Started = Callable[[str], None]
"""Takes the id of a trial that begins, or goes on."""

Report = Callable[[str, Mapping[str, Any]], Decision]
"""Takes a trial's id and one event of it; says whether the trial goes on."""


class Queue(Protocol):
    """Where the trials come from, one at a time, as workers get free."""

    def next(self) -> Trial | None:
        """A trial that may run now; None if there is none, for now or for ever."""

    @property
    def is_done(self) -> bool:
        """Whether no trial will come any more."""

    @property
    def is_interrupted(self) -> bool:
        """Whether all trials are to end, wherever they are."""

    def is_alone(self, trial_id: str) -> bool:
        """Whether a trial has its GPU for itself, even if trials share GPUs."""


class Backend(Protocol):
    """A way to run trials. `study.backends.ray_tune.run_on_ray` is one, `study.backends.inline.run_inline` another."""

    def __call__(
        self,
        queue: Queue,
        resources: Resources,
        slots: int,
        folder: Path,
        settings: Mapping[str, Any],
        started: Started,
        report: Report,
    ) -> None:
        """Run trials until the queue is done or interrupted.

        resources: what a trial takes; slots: so many trials fit at a time; folder: for the backend's own files while it
        runs, seen by all machines and removed afterwards; settings: `logs`, the folder for what ended trials that
        failed, and `probing`, the fields of a `Probing`. A trial is reported to have started before any event of it,
        and its last event is its end, unless a report has stopped or paused it: then it has no event any more. An
        exception in `queue`, `started` or `report` ends the study, and is raised when its trials have stopped.
        """
