"""Studies and trials as their runs in a tracking store have them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from kdq.bits import BIT_WIDTHS
from kdq.distill.methods import parameters
from kdq.errors import UserError
from study.results.objective import OBJECTIVES, TOP1
from study.results.status import StudyStatus, TrialStatus
from study.tracking import schema
from study.tracking.runs import Names, StoredRun

Status = TypeVar("Status", TrialStatus, StudyStatus)
TEACHER = "teacher_val_top1"
OF_STUDY = Names((schema.STATUS, schema.COMMAND, schema.DOCUMENT), ("dataset",), (TEACHER,))
ACCURACIES = {bits: schema.point_metric("val_top1", bits) for bits in BIT_WIDTHS}


def of_trials() -> Names:
    """Return what is read of a trial's run."""
    tags = (schema.TRIAL, schema.NAME, schema.STATUS, schema.REASON)
    return Names(tags, {*parameters(), "method", "seed", "student"}, ACCURACIES.values())


@dataclass(frozen=True)
class StoredStudy:
    """A study by its run.

    command: the command that ran it; teacher: the teacher's validation accuracy, in percent; document: the settings and
    inputs that determine it, empty if it was not logged.
    """

    name: str
    experiment_id: str
    status: StudyStatus
    command: str | None
    teacher: float | None = None
    document_text: str = "{}"

    @cached_property
    def document(self) -> dict[str, Any]:
        """Raises UserError if it is no JSON object."""
        try:
            document = json.loads(self.document_text)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise UserError(f"the run of study {self.name!r} has a wrong tag {schema.DOCUMENT}: must be a JSON object")
        return document

    @property
    def workload(self) -> dict[str, Any]:
        workload: dict[str, Any] = self.document.get("settings", {}).get("workload", {})
        return workload

    @property
    def objective(self) -> str:
        """The name of the metric that decides. Raises UserError for one that is unknown."""
        name = self.document.get("settings", {}).get("space", {}).get("objective", TOP1)
        if not isinstance(name, str) or name not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise UserError(f"study {self.name!r} has the objective {name!r}, and this version knows {known}")
        return name

    @property
    def seeds(self) -> int:
        """How many seeds each configuration should have; 0 if they were not logged."""
        seeds = self.document.get("settings", {}).get("seeds")
        return len(seeds) if isinstance(seeds, list) else 0

    def has_images_of(self, other: "StoredStudy") -> bool:
        """Return whether both measure their points on the same validation images, in the same order."""
        return self.name == other.name or (None not in self._images and self._images == other._images)

    @property
    def _images(self) -> tuple[object, object, object]:
        split = self.document.get("settings", {}).get("versions", {}).get("split")
        return self.document.get("inputs", {}).get("data"), self.workload.get("val_images"), split


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial by its run.

    parameters: the active ones, and the student's architecture, as text; seed: as text, empty if it was not logged;
    ended: in milliseconds since 1970, None while it runs; accuracies: on validation images in percent, by width.
    """

    id: str
    name: str
    status: TrialStatus
    reason: str
    parameters: Mapping[str, str]
    seed: str
    ended: int | None
    accuracies: Mapping[int, float]


class Training(NamedTuple):
    """What a trial trained. epochs: those that it reported; seconds: they took, 0 where a student was reused."""

    epochs: int
    seconds: float


def stored_study(name: str, run: StoredRun) -> StoredStudy:
    status = _parse_status(StudyStatus, run, StudyStatus.RUNNING)
    document = run.tags.get(schema.DOCUMENT, "{}")
    return StoredStudy(
        name, run.experiment_id, status, run.tags.get(schema.COMMAND), run.metrics.get(TEACHER), document
    )


def stored_trial(run: StoredRun) -> Trial:
    parameters = {name: value for name, value in sorted(run.params.items()) if name != "seed"}
    accuracies = {bits: run.metrics[name] for bits, name in ACCURACIES.items() if name in run.metrics}
    return Trial(
        trial_id_of(run),
        run.tags.get(schema.NAME, ""),
        status_of(run),
        run.tags.get(schema.REASON, ""),
        parameters,
        run.params.get("seed", ""),
        run.end_time,
        accuracies,
    )


def trial_id_of(run: StoredRun) -> str:
    return str(run.tags[schema.TRIAL])


def status_of(run: StoredRun) -> TrialStatus:
    return _parse_status(TrialStatus, run, TrialStatus.RUNNING)


def _parse_status(kind: type[Status], run: StoredRun, default: Status) -> Status:
    """Return the status in a run's tag. Raises UserError if it is unknown."""
    status = run.tags.get(schema.STATUS, default)
    try:
        return kind(status)
    except ValueError:
        raise UserError(f"run {run.id} has {schema.STATUS} = {status!r}: must be {', '.join(kind)}") from None
