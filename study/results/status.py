"""Where a trial is, and how a study ended: one word each, the same in the table, in MLflow and in the journal."""

from enum import StrEnum


class TrialStatus(StrEnum):
    """Where a trial is: before its end, while it runs, and after it."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"  # at a rung, until the other trials of the rung are there
    COMPLETED = "completed"
    STOPPED = "stopped"  # by the scheduler
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # with the study; only MLflow keeps this, since the next command runs the trial again

    @property
    def is_open(self) -> bool:
        """Whether the end of the study's command interrupts the trial."""
        return self in (TrialStatus.RUNNING, TrialStatus.PAUSED)

    @property
    def is_result(self) -> bool:
        """Whether the trial has ended for good: the same command does not run it again."""
        return self in (TrialStatus.COMPLETED, TrialStatus.STOPPED, TrialStatus.DIVERGED)

    @property
    def is_failure(self) -> bool:
        """Whether the trial ended for a cause outside itself, which is to be fixed: the same command runs it again."""
        return self in (TrialStatus.OUT_OF_MEMORY, TrialStatus.FAILED)

    @property
    def has_ended(self) -> bool:
        return self.is_result or self.is_failure

    @property
    def has_no_score(self) -> bool:
        """Whether the trial ended without a value: searchers count it as failed, and --retry-failed runs it again."""
        return self is TrialStatus.DIVERGED or self.is_failure

    @property
    def leaves_checkpoint(self) -> bool:
        """Whether the trial leaves a checkpoint that nobody resumes from."""
        return self in (TrialStatus.STOPPED, TrialStatus.DIVERGED)


class StudyStatus(StrEnum):
    """How a study ended, or that it runs."""

    RUNNING = "running"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
