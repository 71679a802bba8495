"""The names of a study's runs in MLflow: every tag and metric once, for the tracker that writes and all that read."""

from enum import StrEnum

KIND = "kdq.kind"
STUDY = "kdq.study"  # on every run and on the experiment: the study's name
TRIAL = "kdq.trial_id"
POINT = "kdq.point_id"
STUDENT = "kdq.student_id"  # of a trial: the id of the stage whose weights it quantizes, shared by trials
STATUS = "kdq.status"  # a TrialStatus or a StudyStatus
REASON = "kdq.reason"
DOCUMENT = "kdq.document"  # of the study: all that determines it, as canonical JSON
COMMAND = "kdq.command"  # of the study: the command that runs it again

POINT_METRICS = ("val_top1", "test_top1", "total_bits", "packed_bytes", "avg_bits")


class RunKind(StrEnum):
    """What a run is. An extension makes a run `former` if the study's space no longer has its trial."""

    STUDY = "study"
    TRIAL = "trial"
    POINT = "point"
    FORMER_TRIAL = "former trial"
    FORMER_POINT = "former point"


def point_metric(name: str, bits: int) -> str:
    """The metric of a trial that holds a metric of its point at a width, so that MLflow can sort trials by it."""
    return f"{name}_{bits}bit"


def probe_metric(bits: int) -> str:
    """The metric of a trial that holds, by epoch, what its student would be worth quantized at a width."""
    return f"probe_top1_{bits}bit"
