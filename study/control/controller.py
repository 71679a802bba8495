"""One session of a study: what its trials report goes to the agenda, to MLflow and to the table. Without Ray."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdq.store.folder_store import StageStore
from study.console import failures
from study.console.live_table import Progress
from study.control.checkpoints import Checkpoints
from study.control.interrupts import Interrupts
from study.control.trial_queue import Agenda, shown_values
from study.plan.plan import Plan
from study.results.front import front_hypervolume
from study.results.point import Point
from study.results.status import FAILED, FINAL
from study.schedulers.scheduler import Decision
from study.searchers.searcher import objectives
from study.tracking.tracker import Tracker
from study.trial.trial import Probing, Trial
from study.trial.worker import run_trial

ALIKE = 3
"""So many trials that fail for the same reason stop the study."""


class RepeatedFailureError(Exception):
    """Trials fail for one and the same reason, and so would all others: the message says why, and what helps."""


class _Halt(BaseException):
    """Ends a trial that only reports what is finished: by decision, or since telling it failed with an error.

    It is no Exception, which would be taken for the end of the trial itself.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


@dataclass
class Session:
    """The trials of a study from the start of its command to the end of it; `next` and `is_done` make it a queue.

    logs: the folder of the trials' logs; shares_gpu: several trials run on a GPU at a time, and one that runs out of
    memory there is tried once more, alone.
    """

    name: str
    plan: Plan
    agenda: Agenda
    tracker: Tracker
    progress: Progress
    store: StageStore
    logs: Path
    interrupts: Interrupts
    found: dict[tuple[str, int], Point] = field(default_factory=dict)
    failures: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    shares_gpu: bool = False
    _alone: set[str] = field(default_factory=set)
    _next: Trial | None = None

    @property
    def points(self) -> list[Point]:
        return list(self.found.values())

    @property
    def statuses(self) -> dict[str, str]:
        """The word for where each trial is."""
        return {key: entry.status for key, entry in self.agenda.entries.items()}

    @cached_property
    def probing(self) -> Probing:
        """When students are measured quantized: at all of the study's widths, so that trials share what they show."""
        rule = self.agenda.rule
        if self.plan.space.scheduler.kind.records:
            return Probing(tuple(range(1, self.plan.workload.train.epochs + 1)), self.plan.widths)
        if rule and rule.priority.needs_widths:
            return Probing(rule.levels, self.plan.widths)
        return Probing()

    @cached_property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.store)

    def recall(self) -> bool:
        """Tell what is finished already. Returns whether anything is left that needs a worker."""
        for key, entry in self.agenda.entries.items():
            self._show(entry.trial)
            if entry.status == "completed" and not entry.trial.is_finished(self.store):
                entry.status = "waiting"  # somebody has removed its stages
            elif entry.status == "completed":
                self._tell_finished(entry.trial)
            elif entry.status in FINAL:
                self._track(key)
                self.progress.end(key, entry.status, entry.reason, None)
                self.tracker.end_trial(key, entry.status, entry.reason, {})
        self._next = self.next()
        return self._next is not None

    def next(self) -> Trial | None:
        """A trial that needs a worker; those whose stages are all there are told on the way."""
        if ready := self._next:
            self._next = None
            return ready
        self._checkpoints.clear(self.agenda.entries)
        while trial := self.agenda.next():
            self._show(trial)
            if not trial.is_finished(self.store):
                return trial
            self._tell_finished(trial)
        return None

    @property
    def is_done(self) -> bool:
        return self._next is None and self.agenda.is_done

    @property
    def is_complete(self) -> bool:
        """Whether every trial of the study has ended, and nothing is left for a later session."""
        return self._next is None and self.agenda.is_complete

    @property
    def failed(self) -> list[str]:
        """The trials that failed and are to be mended; one that diverged has ended as it does, which is a result."""
        return [key for key, word in self.statuses.items() if word in FAILED and word not in FINAL]

    @property
    def is_interrupted(self) -> bool:
        return self.interrupts.came

    def _show(self, trial: Trial) -> None:
        if trial.id not in self.progress.rows:
            self.progress.add(trial.id, trial.name, trial.epochs, len(trial.points))

    def _tell_finished(self, trial: Trial) -> None:
        """A trial whose stages are all there: here and now it only reports them."""

        def report(event: Mapping[str, Any]) -> None:
            try:
                decision = self.report(trial.id, event)
            except Exception as error:
                raise _Halt(error) from error
            if decision is not Decision.CONTINUE:
                raise _Halt

        self._track(trial.id)
        try:
            run_trial(trial, "cpu", self.logs / f"{trial.id}.log", report, self.probing)
        except _Halt as halt:
            if halt.error:
                raise halt.error from None

    def started(self, trial_id: str) -> None:
        """A trial begins in a worker, or goes on."""
        self._track(trial_id)
        self.progress.start(trial_id)

    def _track(self, trial_id: str) -> None:
        trial = self.agenda.entries[trial_id].trial
        self.tracker.start_trial(trial_id, trial.name, self._params(trial))

    def report(self, trial_id: str, event: Mapping[str, Any]) -> Decision:
        """What a trial reported: an epoch, a point, a reused student or its end; or its worker's death.

        Returns whether it goes on.
        """
        trial = self.agenda.entries[trial_id].trial
        if event["event"] == "epoch":
            return self._report_epoch(trial, event)
        if event["event"] == "point":
            self._report_point(trial, event)
        elif event["event"] == "reused":
            self.progress.say(f"{trial.name}: its student is there already, and is reused")
        elif event["event"] == "lost":
            self.progress.tell(f"{trial.name}: its worker died, and another goes on with it: {event['reason']}")
        elif event["status"] == "out_of_memory" and self.shares_gpu and not self.is_alone(trial_id):
            self._alone.add(trial_id)
            self.agenda.again(trial_id)
            self.progress.again(trial_id, f"{event['reason']} (log: {event['log']}); it is tried once more, alone")
        else:
            self._end(trial_id, event["status"], event["reason"], event["log"], event["error"])
            self._end_losers()
        return Decision.CONTINUE

    def is_alone(self, trial_id: str) -> bool:
        """Whether no other trial may run on the GPU of this one."""
        return trial_id in self._alone

    def _report_epoch(self, trial: Trial, event: Mapping[str, Any]) -> Decision:
        epoch, rule = int(event["epoch"]), self.agenda.rule
        self.progress.epoch(trial.id, event)
        metrics = {key: value for key, value in event.items() if key not in ("event", "epoch", "probe")}
        metrics |= {f"probe_top1_{bits}bit": accuracy for bits, accuracy, _ in event.get("probe", ())}
        self.tracker.log_epoch(trial.id, epoch, metrics)
        values = shown_values(event, rule.priority.needs_widths) if rule else None
        decision = self.agenda.epoch(trial.id, epoch, values)
        if decision is Decision.STOP:
            self._end(trial.id, "stopped", self._verdict(trial, epoch))
        elif decision is Decision.PAUSE:
            self.progress.pause(trial.id, epoch)
        self._end_losers()
        return decision

    def _verdict(self, trial: Trial, epoch: int) -> str:
        return f"by {self.plan.space.scheduler.name}, at the rung of epoch {epoch} of {trial.epochs}"

    def _end_losers(self) -> None:
        """Trials that waited for a rung in vain."""
        for trial_id, epoch in self.agenda.losers().items():
            self._end(trial_id, "stopped", self._verdict(self.agenda.entries[trial_id].trial, epoch))

    def _report_point(self, trial: Trial, event: Mapping[str, Any]) -> None:
        point = Point(**event["point"])
        if (trial.id, point.bits) in self.found:
            return  # a worker that was started again tells all it has
        self.progress.point(trial.id, event["point"])
        self.found[trial.id, point.bits] = point
        params = {**self._params(trial), "bits": point.bits}
        self.tracker.log_point(point, f"{trial.name}, {point.bits} bits", params, event["files"])

    def _end(self, trial_id: str, status: str, reason: str, log: str | None = None, error: str = "") -> None:
        if trial_id not in self.tracker.runs:
            self._track(trial_id)  # its workers have died before it began
        mine = [point for point in self.points if point.trial_id == trial_id]
        self.agenda.end(trial_id, status, reason, objectives(mine) if status == "completed" else None)
        self.progress.end(trial_id, status, reason, log)
        best_of = {f"val_top1_{p.bits}bit": p.val_top1 for p in mine}
        best_of |= {f"test_top1_{p.bits}bit": p.test_top1 for p in mine}
        self.tracker.end_trial(trial_id, status, reason, best_of)
        self.tracker.log_front(self.points)
        if status in ("failed", "out_of_memory"):
            self._count_failure(trial_id, reason, log, error)

    def _count_failure(self, trial_id: str, reason: str, log: str | None, error: str) -> None:
        """Tell the cause of a failure of a new kind. Raises RepeatedFailureError if so many were of one kind."""
        cause, kind = failures.likely(error), failures.kind(reason, error)
        alike = self.failures[kind]  # one whose worker died after it had told its end fails a second time
        if not alike and cause:
            self.progress.tell(f"  {cause}")
        alike.add(trial_id)
        if len(alike) == ALIKE:
            raise RepeatedFailureError(
                f"study {self.name!r} stopped, since {ALIKE} trials failed alike: {reason} (log: {log})\n"
                f"{cause or 'its cause is none of the usual ones: look into the log'}\n"
                f"nothing that was finished is lost: mend the cause, and the same command goes on"
            )

    def close(self, status: str, metrics: Mapping[str, float]) -> None:
        """Bring every run that is still open to its end; metrics: those of the study that are known before it runs."""
        self._checkpoints.clear(self.agenda.entries)
        for trial_id, word in self.statuses.items():
            if word in ("running", "paused") and trial_id in self.tracker.runs:
                self.tracker.end_trial(trial_id, "interrupted", "the study was interrupted", {})
        self.tracker.log_front(self.points, always=True)
        hypervolume = {"hypervolume": front_hypervolume(self.points)} if self.points else {}
        self.tracker.end_study(status, {**metrics, **hypervolume, "points": len(self.points)})

    def _params(self, trial: Trial) -> dict[str, Any]:
        own = {"method": trial.method, **trial.parameters, "seed": trial.seed, "student": trial.arch}
        widths = ",".join(str(point.bits) for point in trial.points)
        return {**self.plan.params(), **own, "widths": widths, "trial_id": trial.id}
