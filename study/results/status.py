"""The statuses of trials and studies: one word each, the same in the table, in MLflow and in the journal."""

from enum import StrEnum


class TrialStatus(StrEnum):
    """The status of a trial before, while and after it runs."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"  # at a rung, until the other trials reach it
    COMPLETED = "completed"
    STOPPED = "stopped"  # by the scheduler
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # with the study; only in MLflow, since the next command resumes the trial

    @property
    def is_open(self) -> bool:
        """Whether the trial is interrupted when the study's command ends."""
        return self in (TrialStatus.RUNNING, TrialStatus.PAUSED)

    @property
    def is_result(self) -> bool:
        """Whether the trial has ended for good: the same command does not run it again."""
        return self in (TrialStatus.COMPLETED, TrialStatus.STOPPED, TrialStatus.DIVERGED)

    @property
    def is_failure(self) -> bool:
        """Whether the trial failed for a cause to be fixed: the same command runs it again."""
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
        """Whether the trial leaves a checkpoint that no trial resumes from."""
        return self in (TrialStatus.STOPPED, TrialStatus.DIVERGED)


class StudyStatus(StrEnum):
    """The status of a study."""

    RUNNING = "running"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
