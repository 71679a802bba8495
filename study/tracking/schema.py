"""The schema of a study's runs in MLflow: every tag and metric name, for the tracker and its readers."""

from enum import StrEnum

from study.results.point import METRICS

KIND = "kdq.kind"
NAME = "mlflow.runName"  # MLflow's own
STUDY = "kdq.study"  # on every run and on the experiment: the name of the study
TRIAL = "kdq.trial_id"
POINT = "kdq.point_id"
STUDENT = "kdq.student_id"  # of a trial: the id of the stage whose weights it quantizes, shared by trials
STATUS = "kdq.status"  # a TrialStatus or a StudyStatus
REASON = "kdq.reason"
DOCUMENT = "kdq.document"  # of the study: all that determines it, as canonical JSON
COMMAND = "kdq.command"  # of the study: the command that runs it again

ON_FRONT = "kdq.on_front"  # of a point: "true" or "false"
CORRECT = {"val": "kdq.val_correct", "test": "kdq.test_correct"}
"""Tags of a point: which images it classifies correctly, as texts of `kdq.correctness`; without one, too many images
for a tag."""
LONGEST_TAG = 8000  # characters, MLflow's limit

HYPERVOLUME, FRONT_SIZE = "hypervolume", "front_size"  # of the study, over finished trials
VERSION = "kdq.version."  # of the study, followed by the name of a package, or python
MACHINE = "kdq.machine"
PROVENANCE = {
    "mlflow.source.git.commit": "commit",
    "mlflow.user": "user",
    MACHINE: "machine",
    **{f"{VERSION}{name}": name for name in ("kdq", "python", "torch", "ray", "mlflow", "optuna")},
}
"""Tags of the study -> what they are: who and what computed it."""

POINT_METRICS = ("val_top1", "test_top1", "total_bits", "packed_bytes", "avg_bits", *METRICS)
"""Metrics of a point; those of METRICS only where they were measured."""


class RunKind(StrEnum):
    """The kind of a run. An extension marks runs as `former` if the new space lacks their trial."""

    STUDY = "study"
    TRIAL = "trial"
    POINT = "point"
    FORMER_TRIAL = "former trial"
    FORMER_POINT = "former point"


def point_metric(name: str, bits: int) -> str:
    """Return a trial's metric that repeats a metric of its point at a width, so that MLflow can sort trials by it."""
    return f"{name}_{bits}bit"


def probe_metric(bits: int) -> str:
    """Return a trial's metric of the accuracy that its student, quantized at a width, has after each epoch."""
    return f"probe_top1_{bits}bit"
