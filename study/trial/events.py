"""The events that a trial reports while it runs, and its end."""

from collections.abc import Mapping
from dataclasses import dataclass

from kdq.pipeline.probe import Probe
from study.results.point import Point
from study.results.status import TrialStatus
from study.schedulers.priorities import Values


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """The student was trained for one more epoch, now or by an earlier trial that shares it.

    metrics: the epoch's entry in the student's history, with `val_top1`; probe: the student's accuracy and total bits
    at each probed width, None where trials are not compared, or if another study trained the student without a probe;
    is_reused: it was trained earlier, by this or another trial.
    """

    epoch: int
    metrics: Mapping[str, float]
    probe: Probe | None = None
    is_reused: bool = False

    @property
    def val_top1(self) -> float:
        return self.metrics["val_top1"]

    def values(self, *, quantized: bool) -> Values | None:
        """Return what a scheduler compares: (accuracy, total bits) at each probed width if `quantized`, else of the
        float student only. None if the probe is required but missing."""
        if not quantized:
            return [(self.val_top1, 1.0)]
        return None if self.probe is None else [(accuracy, float(bits)) for _, accuracy, bits in self.probe]


@dataclass(frozen=True, slots=True)
class PointMeasured:
    """A point was quantized and measured, or reused from the store.

    files: its packed model and its layers; correct: which images of "val" and "test" it classifies correctly, as
    texts of `kdq.correctness`.
    """

    point: Point
    files: tuple[str, ...]
    correct: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StudentReused:
    """The student was reused from the store, without training here."""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """The trial's worker died and another resumes the trial."""

    reason: str


@dataclass(frozen=True, slots=True)
class TrialEnded:
    """The trial's last event. reason: one line, empty for a completed trial; log: the path of the file with the
    traceback, None for a completed trial or if it could not be written; error: the error with its causes."""

    status: TrialStatus
    reason: str = ""
    log: str | None = None
    error: str = ""


Event = EpochEnded | PointMeasured | StudentReused | WorkerLost | TrialEnded
