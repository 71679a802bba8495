"""The trials of a study: a searcher proposes them, a scheduler stops or promotes them, a journal records both.

The queue's state is a function of its journal, and a record is on disk before it takes effect. After its driver is
killed, a study replays the journal and keeps every decision made. (A kill delays trials, so where decisions depend on
the order of arrival, later ones may differ from those of an undisturbed study.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kdq.errors import UserError
from study.control.journal import Asked, Ended, Extended, Journal, Left, Record, Reported, Retried, replay
from study.results.status import TrialStatus
from study.schedulers.priorities import Values
from study.schedulers.scheduler import Decision, Scheduler
from study.searchers.searcher import Objectives, Searcher
from study.space.configuration import Configuration
from study.trial.trial import Trial


@dataclass
class Entry:
    """A trial in the queue; only the queue changes its status. ended: how it last ended, even if it runs again now."""

    trial: Trial
    configuration: Configuration
    status: TrialStatus = TrialStatus.WAITING
    reason: str = ""
    objectives: Objectives | None = None
    ended: TrialStatus | None = None


@dataclass
class TrialQueue:
    """The trials of a study, in the order in which they were proposed.

    make: returns the trial of a configuration and a seed; scheduler: None runs every trial to its end; retry: run only
    the trials that failed or diverged, and propose no new ones.
    """

    searcher: Searcher
    seeds: Sequence[int]
    make: Callable[[Configuration, int], Trial]
    scheduler: Scheduler | None
    journal: Journal
    retry: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    retried: list[str] = field(default_factory=list)
    _exhausted: bool = False
    _scored: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        records = self.journal.read()
        extended = max((n for n, record in enumerate(records, 1) if isinstance(record, Extended)), default=0)
        for number, record in enumerate(records, 1):
            try:
                self._replay(record, is_former=number < extended)
            except (LookupError, ValueError, AssertionError) as error:
                raise UserError(
                    f"{self.journal.path}, record {number}: does not fit this study ({error!r}): another version of "
                    f"this program may have written it; choose another --name"
                ) from error
        for key, entry in self.entries.items():
            if self.retry and entry.ended and entry.ended.has_no_score:
                self._retry(key)
            elif not entry.status.is_result:
                entry.status = TrialStatus.WAITING

    def _retry(self, trial_id: str) -> None:
        """Queue a failed or diverged trial again; the end of a diverged one becomes void, which is journalled."""
        entry = self.entries[trial_id]
        if entry.status.is_result:
            self.journal.append(Retried(trial_id))
        entry.status = TrialStatus.WAITING
        self.retried.append(trial_id)

    def _replay(self, record: Record, is_former: bool) -> None:
        """is_former: the record precedes the last extension, so trials that the study no longer has are skipped."""
        match record:
            case Asked(identity):
                self._replay_ask(identity, is_former)
            case Extended():
                self._exhausted = False
            case Reported(trial) | Left(trial) | Ended(trial) | Retried(trial) if (
                is_former and trial not in self.entries
            ):
                pass
            case Ended():
                self._end(record)
            case Retried(trial):
                self.entries[trial].status = TrialStatus.WAITING
            case Reported() | Left():
                assert self.scheduler is not None
                replay(self.scheduler, [record])

    def _replay_ask(self, identity: str | None, is_former: bool) -> None:
        if identity is None:
            assert is_former or self.searcher.ask() is None, "the searcher has more configurations"
            self._exhausted = True
        elif configuration := self.searcher.replay(identity):
            self._add(configuration)
        else:
            assert is_former, f"the searcher does not propose {identity}"

    def next(self) -> Trial | None:
        """Return a trial that may run now, marked as running; None if none is ready or left."""
        while True:
            for entry in self._ready():
                entry.status = TrialStatus.RUNNING
                return entry.trial
            if self.retry or self._exhausted or self._ask() is None:
                return None

    def _ready(self) -> list[Entry]:
        promoted = set(self.scheduler.resumable()) if self.scheduler else set()
        entries = [(key, self.entries[key]) for key in (self.retried if self.retry else self.entries)]
        paused = [entry for key, entry in entries if entry.status is TrialStatus.PAUSED and key in promoted]
        return [*paused, *(entry for _, entry in entries if entry.status is TrialStatus.WAITING)]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run; a running trial does not count as done, as it may pause and resume."""
        if self.retry:  # a paused trial may wait at a rung for others, which do not run now
            return not self._ready() and all(e.status is not TrialStatus.RUNNING for e in self.entries.values())
        return self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether every trial of the study has ended."""
        return self._exhausted and all(entry.status.has_ended for entry in self.entries.values())

    def _ask(self) -> Configuration | None:
        configuration = self.searcher.ask()
        self.journal.append(Asked(configuration.identity if configuration else None))
        if configuration is None:
            self._exhausted = True
        else:
            self._add(configuration)
        return configuration

    def _add(self, configuration: Configuration) -> None:
        trials = [self.make(configuration, seed) for seed in self.seeds]
        for trial in trials:
            self.entries.setdefault(trial.id, Entry(trial, configuration))
        if self.scheduler:
            self.scheduler.group([trial.id for trial in trials])

    def report(self, trial_id: str, epoch: int, values: Values | None) -> Decision:
        """Decide whether a trial continues after an epoch.

        values: what the scheduler compares; None if it can no longer be measured, since another study trained the
        student: the trial then continues without being compared.
        """
        if self.scheduler is None or (epoch not in self.scheduler.levels):
            return Decision.CONTINUE
        known = (trial_id, epoch) in self.scheduler.decisions
        returned = trial_id in self.scheduler.left
        if values is None and not known:
            self._leave(trial_id)
            return Decision.CONTINUE
        decision = self.scheduler.report(trial_id, epoch, values or ())
        if returned or not known:
            self.journal.append(Reported.of(trial_id, epoch, values or (), decision))
        if decision is Decision.PAUSE:
            self.entries[trial_id].status = TrialStatus.PAUSED
        return decision

    def _leave(self, trial_id: str) -> None:
        assert self.scheduler is not None
        if trial_id not in self.scheduler.left:
            self.journal.append(Left(trial_id))
            self.scheduler.leave(trial_id)

    def losers(self) -> dict[str, int]:
        """Return the idle trials that lost at a rung but have not ended yet: id -> the epoch of the rung."""
        lost = self.scheduler.stopped() if self.scheduler else {}
        idle = (TrialStatus.PAUSED, TrialStatus.WAITING)
        return {key: epoch for key, epoch in lost.items() if self.entries[key].status in idle}

    def why_stopped(self, trial_id: str) -> str:
        """Return the value with which a trial lost at a rung, and the cut."""
        return (self.scheduler and self.scheduler.reasons.get(trial_id)) or "its value is not finite"

    def requeue(self, trial_id: str) -> None:
        """Queue a trial again that ran without ending."""
        self.entries[trial_id].status = TrialStatus.WAITING

    def end(self, trial_id: str, status: TrialStatus, reason: str, objectives: Objectives | None = None) -> None:
        """End a trial; a trial that ended with a result keeps that end."""
        if self.entries[trial_id].status.is_result:
            return
        record = Ended(trial_id, status, reason, objectives)
        self.journal.append(record)
        self._end(record)

    def _end(self, record: Ended) -> None:
        entry = self.entries[record.trial]
        entry.status = entry.ended = record.status
        entry.reason, entry.objectives = record.reason, record.objectives
        scheduler, is_stopped = self.scheduler, record.status is TrialStatus.STOPPED
        if scheduler and not is_stopped and (record.trial, scheduler.levels[-1]) not in scheduler.decisions:
            scheduler.leave(record.trial)  # it failed, or trained nothing: no rung waits for it
        self._score(entry.configuration)

    def _score(self, configuration: Configuration) -> None:
        """Report a configuration to the searcher once, when the trials of all its seeds have ended.

        A retry changes nothing of what the searcher knows.
        """
        repetitions = [entry for entry in self.entries.values() if entry.configuration is configuration]
        ends = [entry.ended for entry in repetitions if entry.ended]
        if configuration.identity not in self._scored and len(ends) == len(repetitions):
            self._scored.add(configuration.identity)
            self.searcher.tell(configuration, ends, _mean([entry.objectives for entry in repetitions]))


def _mean(each: Sequence[Objectives | None]) -> Objectives | None:
    known = [objectives for objectives in each if objectives is not None]
    if len(known) < len(each):
        return None
    return sum(a for a, _ in known) / len(known), sum(b for _, b in known) / len(known)
