"""What runs next: a searcher proposes configurations, a rule says which trials go on, a journal remembers both.

The agenda's state is a function of its journal, and a record is on the disk before it takes effect. So a study
whose driver was killed opens the same journal and decides on as if nothing had happened.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdq.errors import UserError
from study.control.journal import Journal, Record, leave_record, replay, report_record
from study.results.status import FAILED, FINAL
from study.schedulers.priorities import Values
from study.schedulers.scheduler import Decision, Rungs
from study.searchers.searcher import Objectives, Search
from study.space.configuration import Configuration
from study.trial.trial import Trial


@dataclass
class Entry:
    """One trial of the agenda. status: as everywhere, and `waiting` and `paused`."""

    trial: Trial
    configuration: Configuration
    status: str = "waiting"
    reason: str = ""
    objectives: Objectives | None = None
    ended: str = ""
    """How it ended last, even if it is tried again now."""


@dataclass
class Agenda:
    """The trials of a study, in the order in which they were proposed.

    make: the trial of a configuration and a seed; rule: None lets every trial run to its end; retry: only trials
    that failed or diverged are run, and nothing new is proposed.
    """

    search: Search
    seeds: Sequence[int]
    make: Callable[[Configuration, int], Trial]
    rule: Rungs | None
    journal: Journal
    retry: bool = False
    entries: dict[str, Entry] = field(default_factory=dict)
    retried: list[str] = field(default_factory=list)
    _exhausted: bool = False
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        records = self.journal.read()
        marks = [number for number, record in enumerate(records, 1) if record.get("event") == "extend"]
        extended = max(marks, default=0)
        for number, record in enumerate(records, 1):
            try:
                self._replay(record, is_former=number < extended)
            except (KeyError, TypeError, AssertionError, UserError) as error:
                raise UserError(
                    f"{self.journal.path}, record {number}: does not fit this study ({error!r}): its results may have "
                    f"been made by another version of this program; choose another --name"
                ) from error
        for key, entry in self.entries.items():
            if self.retry and entry.ended in FAILED:
                self._retry(key)
            elif entry.status not in FINAL:
                entry.status = "waiting"

    def _retry(self, trial_id: str) -> None:
        """Have a trial run that failed; the end of one that diverged is lifted, which replay must know."""
        entry = self.entries[trial_id]
        if entry.status in FINAL:
            self.journal.append({"event": "retry", "trial": trial_id})
        entry.status = "waiting"
        self.retried.append(trial_id)

    def _replay(self, record: Record, is_former: bool) -> None:
        """is_former: the study was extended since, and may not have this trial any more, which is then passed over."""
        if record["event"] == "ask":
            self._replay_ask(record["configuration"], is_former)
        elif record["event"] == "extend":
            self._exhausted = False
        elif is_former and record["trial"] not in self.entries:
            pass
        elif record["event"] == "end":
            self._end(record["trial"], record["status"], record["reason"], record["objectives"])
        elif record["event"] == "retry":
            self.entries[record["trial"]].status = "waiting"
        else:
            assert self.rule is not None
            replay(self.rule, [record])

    def _replay_ask(self, identity: str | None, is_former: bool) -> None:
        if identity is None:
            assert is_former or self.search.ask() is None, "more comes next"
            self._exhausted = True
        elif configuration := self.search.again(identity):
            self._add(configuration)
        else:
            assert is_former, f"{identity} is not what comes next"

    def next(self) -> Trial | None:
        """A trial that may run now, which is then running; None: there is none, for now or for ever."""
        while True:
            for entry in self._ready():
                entry.status = "running"
                return entry.trial
            if self.retry or self._exhausted or self._ask() is None:
                return None

    def _ready(self) -> list[Entry]:
        promoted = set(self.rule.resumable()) if self.rule else set()
        entries = [(key, self.entries[key]) for key in (self.retried if self.retry else self.entries)]
        paused = [entry for key, entry in entries if entry.status == "paused" and key in promoted]
        return [*paused, *(entry for _, entry in entries if entry.status == "waiting")]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run; a trial that is running may still pause, and go on later."""
        if self.retry:  # one may wait at a rung for others, which are not run now
            return not self._ready() and all(entry.status != "running" for entry in self.entries.values())
        return self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether every trial of the study has ended."""
        return self._exhausted and all(entry.status in (*FINAL, *FAILED) for entry in self.entries.values())

    def _ask(self) -> Configuration | None:
        configuration = self.search.ask()
        self.journal.append({"event": "ask", "configuration": configuration and configuration.identity})
        if configuration is None:
            self._exhausted = True
        else:
            self._add(configuration)
        return configuration

    def _add(self, configuration: Configuration) -> None:
        for seed in self.seeds:
            trial = self.make(configuration, seed)
            self.entries.setdefault(trial.id, Entry(trial, configuration))

    def epoch(self, trial_id: str, epoch: int, values: Values | None) -> Decision:
        """What a trial does after an epoch; values: what it shows there, None if that cannot be known any more.

        (It cannot where another study trained the student: it is then compared with none, and goes on.)
        """
        if self.rule is None or (epoch not in self.rule.levels):
            return Decision.CONTINUE
        known = (trial_id, epoch) in self.rule.told
        returned = trial_id in self.rule.left
        if values is None and not known:
            self._leave(trial_id)
            return Decision.CONTINUE
        decision = self.rule.report(trial_id, epoch, values or ())
        if returned or not known:
            record = report_record(trial_id, epoch, values or (), decision)
            self.journal.append({"event": "epoch", **record})
        if decision is Decision.PAUSE:
            self.entries[trial_id].status = "paused"
        return decision

    def _leave(self, trial_id: str) -> None:
        assert self.rule is not None
        if trial_id not in self.rule.left:
            self.journal.append({"event": "leave", **leave_record(trial_id)})
            self.rule.leave(trial_id)

    def losers(self) -> dict[str, int]:
        """Trials that have lost at a rung (its epoch) and have no end yet, though none of them is running."""
        lost = self.rule.stopped() if self.rule else {}
        return {key: epoch for key, epoch in lost.items() if self.entries[key].status in ("paused", "waiting")}

    def again(self, trial_id: str) -> None:
        """A trial that ran has not ended, and may run once more."""
        self.entries[trial_id].status = "waiting"

    def end(self, trial_id: str, status: str, reason: str, objectives: Objectives | None = None) -> None:
        """A trial has ended; one that did so before keeps its end."""
        if self.entries[trial_id].status in FINAL:
            return
        self.journal.append(
            {"event": "end", "trial": trial_id, "status": status, "reason": reason, "objectives": objectives}
        )
        self._end(trial_id, status, reason, objectives)

    def _end(self, trial_id: str, status: str, reason: str, objectives: Objectives | None) -> None:
        entry = self.entries[trial_id]
        entry.status = entry.ended = status
        entry.reason, entry.objectives = reason, objectives
        if self.rule and status != "stopped" and (trial_id, self.rule.levels[-1]) not in self.rule.told:
            self.rule.leave(trial_id)  # no rung waits for it: it failed, or trained nothing
        repetitions = [e for e in self.entries.values() if e.configuration is entry.configuration]
        ends = [e.ended for e in repetitions]
        identity = entry.configuration.identity
        if identity not in self._told and all(ends):
            self._told.add(identity)  # a trial that failed and is tried again changes nothing of what was told
            self.search.tell(entry.configuration, ends, _mean([e.objectives for e in repetitions]))


def _mean(each: Sequence[Objectives | None]) -> Objectives | None:
    known = [objectives for objectives in each if objectives is not None]
    if len(known) < len(each):
        return None
    return sum(a for a, _ in known) / len(known), sum(b for _, b in known) / len(known)


def shown_values(event: Mapping[str, Any], needs_widths: bool) -> Values | None:
    """What a rule compares, from what a trial reported of an epoch; None if it lacks what is needed."""
    if not needs_widths:
        return [(event["val_top1"], 1.0)]
    probe: Sequence[tuple[int, float, int]] | None = event.get("probe")
    return None if probe is None else [(accuracy, float(bits)) for _, accuracy, bits in probe]
