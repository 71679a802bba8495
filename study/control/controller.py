"""Controls a study: passes the events of its trials to the trial queue, MLflow and the live table. Without Ray."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kdq.bits import Bits, bits_name
from kdq.store.folder_store import StageStore
from study.console import failures
from study.console.live_table import LiveTable
from study.control.checkpoints import Checkpoints
from study.control.interrupts import Interrupts
from study.control.trial_queue import TrialQueue
from study.plan.estimate_time import Costs
from study.plan.plan import Plan
from study.results.point import Point
from study.results.status import StudyStatus, TrialStatus
from study.schedulers.scheduler import Decision
from study.searchers.searcher import objectives
from study.tracking.run_table import STUDY
from study.tracking.schema import point_metric, probe_metric
from study.tracking.tracker import Tracker
from study.trial.events import EpochEnded, Event, PointMeasured, StudentReused, TrialEnded, WorkerLost
from study.trial.trial import Trial
from study.trial.worker import Inputs, Probing, run_trial

SAME_FAILURES = 3
"""A study stops when this many trials have failed for the same reason."""


class RepeatedFailureError(Exception):
    """Several trials failed for the same reason, as all others would: the message has the cause and the remedy."""


@dataclass
class Controller:
    """Runs the trials of a study during one command; implements the backend's `Queue`.

    logs: the folder of the trials' logs; shares_gpu: several trials run on one GPU, so a trial that runs out of
    memory there is retried once, alone.
    """

    name: str
    plan: Plan
    inputs: Inputs
    queue: TrialQueue
    tracker: Tracker
    live_table: LiveTable
    store: StageStore
    logs: Path
    interrupts: Interrupts
    found: dict[tuple[str, Bits], Point] = field(default_factory=dict)
    failures: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    shares_gpu: bool = False
    costs: Costs | None = None
    _trainers: dict[str, str] = field(default_factory=dict)
    _alone: set[str] = field(default_factory=set)
    _next: Trial | None = None

    @property
    def points(self) -> list[Point]:
        return list(self.found.values())

    @property
    def statuses(self) -> dict[str, TrialStatus]:
        return {key: entry.status for key, entry in self.queue.entries.items()}

    @property
    def stopped(self) -> dict[str, str]:
        """The names of the stopped trials, each with the reason."""
        ended = self.queue.entries.values()
        return {entry.trial.name: entry.reason for entry in ended if entry.status is TrialStatus.STOPPED}

    @cached_property
    def probing(self) -> Probing:
        """When students are measured quantized: at all widths of the study, so that trials share probes."""
        scheduler = self.queue.scheduler
        if self.plan.space.scheduler.kind.records:
            return Probing(tuple(range(1, self.plan.workload.train.epochs + 1)), self.plan.widths)
        if scheduler and scheduler.priority.needs_widths:
            return Probing(scheduler.levels, self.plan.widths)
        return Probing()

    @cached_property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.store)

    def recall(self) -> bool:
        """Report the trials finished before; return whether any trial is left that needs a worker."""
        for key, entry in self.queue.entries.items():
            self._show(entry.trial)
            if entry.status is TrialStatus.COMPLETED and not entry.trial.is_finished(self.store):
                self.queue.requeue(key)  # its stages were removed
            elif entry.status is TrialStatus.COMPLETED:
                self._report_finished(entry.trial)
            elif entry.status.is_result:
                self._track(key)
                self.live_table.end(key, entry.status, entry.reason, None)
                self.tracker.end_trial(key, entry.status, entry.reason, {})
        self._next = self.next()
        return self._next is not None

    def next(self) -> Trial | None:
        """Return the next trial that needs a worker; report trials whose stages all exist on the way."""
        if ready := self._next:
            self._next = None
            return ready
        self._checkpoints.clear(self.queue.entries)
        while trial := self.queue.next():
            self._show(trial)
            if not trial.is_finished(self.store):
                return trial
            self._report_finished(trial)
        return None

    @property
    def is_done(self) -> bool:
        return self._next is None and self.queue.is_done

    @property
    def is_complete(self) -> bool:
        """Whether every trial of the study has ended, so that nothing is left for a later command."""
        return self._next is None and self.queue.is_complete

    @property
    def failed(self) -> list[str]:
        """The trials that failed for a cause to fix; a diverged trial is not a failure but a result."""
        return [key for key, status in self.statuses.items() if status.is_failure]

    @property
    def all_diverged(self) -> bool:
        """Whether the study has ended without a single result to choose from, since every trial diverged."""
        return self.is_complete and {TrialStatus.DIVERGED} == set(self.statuses.values())

    @property
    def is_interrupted(self) -> bool:
        return bool(self.interrupts.received)

    def _show(self, trial: Trial) -> None:
        if trial.id not in self.live_table.rows:
            self.live_table.add(trial.id, trial.name, trial.epochs, len(trial.points))
            self._expect(trial)

    def estimate(self, costs: Costs) -> None:
        """Give the live table the expected costs of all trials, from which it estimates the time left."""
        self.costs = costs
        trials = len(self.plan.expected) * len(self.plan.seeds)
        training = sum(costs.training(self.plan, c.method) for c in self.plan.expected) / len(self.plan.expected)
        self.live_table.expected = training * self.plan.students / trials + costs.points(self.plan.points / trials)
        for entry in self.queue.entries.values():
            self._expect(entry.trial)

    def _expect(self, trial: Trial) -> None:
        """Give the live table the expected cost of a trial; only the first of those that share a student trains it."""
        if self.costs and trial.id in self.live_table.rows:
            is_first = self._trainers.setdefault(trial.model_id, trial.id) == trial.id
            training = self.costs.training(self.plan, trial.method) if is_first else 0.0
            self.live_table.expect(trial.id, training, self.costs.points(len(trial.points)))

    def _report_finished(self, trial: Trial) -> None:
        """Report a trial whose stages all exist, without a worker."""
        self._track(trial.id)
        with closing(run_trial(trial, self.inputs, "cpu", self.logs / f"{trial.id}.log", self.probing)) as events:
            for event in events:
                if self.report(trial.id, event) is not Decision.CONTINUE:
                    break

    def started(self, trial_id: str) -> None:
        """Record that a trial started or resumed in a worker."""
        self._track(trial_id)
        self.live_table.start(trial_id)

    def _track(self, trial_id: str) -> None:
        trial = self.queue.entries[trial_id].trial
        name = trial.short_name(self.plan.varying)
        self.tracker.start_trial(trial_id, trial.model_id, name, self._params(trial))

    def report(self, trial_id: str, event: Event) -> Decision:
        """Handle an event of a trial; return whether the trial continues."""
        trial = self.queue.entries[trial_id].trial
        match event:
            case EpochEnded():
                return self._report_epoch(trial, event)
            case PointMeasured():
                self._report_point(trial, event)
            case StudentReused():
                self.live_table.log(f"{trial.name}: its student exists and is reused")
            case WorkerLost(reason):
                self.live_table.warn(f"{trial.name}: its worker died and another resumes it: {reason}")
            case TrialEnded(TrialStatus.OUT_OF_MEMORY) if self.shares_gpu and not self.is_alone(trial_id):
                self._alone.add(trial_id)
                self.queue.requeue(trial_id)
                self.live_table.requeue(trial_id, f"{event.reason} (log: {event.log}); retrying it once, alone")
            case TrialEnded():
                self._end(trial_id, event)
                self._end_losers()
        return Decision.CONTINUE

    def is_alone(self, trial_id: str) -> bool:
        """Whether no other trial may share the GPU with this one."""
        return trial_id in self._alone

    def _report_epoch(self, trial: Trial, event: EpochEnded) -> Decision:
        self.live_table.epoch(trial.id, event.epoch, event.val_top1, is_reused=event.is_reused)
        probed = {probe_metric(bits): accuracy for bits, accuracy, _ in event.probe or ()}
        self.tracker.log_epoch(trial.id, event.epoch, {**event.metrics, **probed})
        scheduler = self.queue.scheduler
        values = event.values(quantized=scheduler.priority.needs_widths) if scheduler else None
        decision = self.queue.report(trial.id, event.epoch, values)
        if decision is Decision.STOP:
            self._stop(trial, event.epoch)
        elif decision is Decision.PAUSE:
            self.live_table.pause(trial.id, event.epoch)
        self._end_losers()
        return decision

    def _stop(self, trial: Trial, epoch: int) -> None:
        lack = self.queue.why_stopped(trial.id)
        reason = f"by {self.plan.space.scheduler.name} at epoch {epoch} of {trial.epochs}: {lack}"
        self._end(trial.id, TrialEnded(TrialStatus.STOPPED, reason))

    def _end_losers(self) -> None:
        """End the trials that waited at a rung and lost the comparison."""
        for trial_id, epoch in self.queue.losers().items():
            self._stop(self.queue.entries[trial_id].trial, epoch)

    def _report_point(self, trial: Trial, event: PointMeasured) -> None:
        point = replace(event.point, objective=self.plan.space.objective)
        if (trial.id, point.bits) in self.found:
            return  # a restarted worker reports all points again
        self.live_table.point(trial.id, point)
        self.found[trial.id, point.bits] = point
        params = {**self._params(trial), "bits": point.bits}
        name = f"{bits_name(point.bits)} {trial.short_name(self.plan.varying)}"
        self.tracker.log_point(point, name, params, event.files, event.correct)

    def _end(self, trial_id: str, end: TrialEnded) -> None:
        if trial_id not in self.tracker.runs:
            self._track(trial_id)  # its workers died before the trial started
        points = [point for point in self.points if point.trial_id == trial_id]
        is_completed = end.status is TrialStatus.COMPLETED
        self.queue.end(trial_id, end.status, end.reason, objectives(points) if is_completed else None)
        self.live_table.end(trial_id, end.status, end.reason, end.log)
        measured = {
            point_metric(name, point.bits): getattr(point, name)
            for name in ("val_top1", "test_top1", "total_bits")
            for point in points
            if isinstance(point.bits, int)  # trials do not share a mixed allocation
        }
        self.tracker.end_trial(trial_id, end.status, end.reason, measured, end.log)
        self.tracker.log_front(self.points, self._finished)
        if end.status.is_failure:
            self._count_failure(trial_id, end)

    def _count_failure(self, trial_id: str, end: TrialEnded) -> None:
        """Print the cause of a failure of a new kind; raise RepeatedFailureError if several are of one kind."""
        cause, kind = failures.likely_cause(end.error), failures.failure_kind(end.reason, end.error)
        alike = self.failures[kind]  # a trial whose worker dies after reporting its end fails twice
        if not alike and cause:
            self.live_table.warn(f"  {cause}")
        alike.add(trial_id)
        if len(alike) == SAME_FAILURES:
            raise RepeatedFailureError(
                f"study {self.name!r} stopped: {SAME_FAILURES} trials failed for the same reason: {end.reason} "
                f"(log: {end.log})\n"
                f"{cause or 'the cause is unknown: see the log'}\n"
                f"no finished result is lost: fix the cause and run the same command again"
            )

    def close(self, status: StudyStatus, metrics: Mapping[str, float]) -> None:
        """Close every open run. metrics: the study's metrics known before its trials ran."""
        self._checkpoints.clear(self.queue.entries)
        for trial_id, trial_status in self.statuses.items():
            if trial_status.is_open and trial_id in self.tracker.runs:
                self.tracker.end_trial(trial_id, TrialStatus.INTERRUPTED, "the study was interrupted", {})
        is_new = not self.tracker.is_finished(STUDY)
        self.tracker.log_front(self.points, self._finished, always=True)
        if is_new and status is StudyStatus.COMPLETED:
            self.tracker.register_front(self.points)
        self.tracker.end_study(status, {**metrics, "points": len(self.points)})

    @property
    def _finished(self) -> int:
        """The number of finished trials."""
        return sum(status.has_ended for status in self.statuses.values())

    def _params(self, trial: Trial) -> dict[str, Any]:
        own = {"method": trial.method, **trial.parameters, "seed": trial.seed, "student": self.inputs.arch(trial)}
        widths = ",".join(bits.label for bits in trial.bits)
        return {**self.plan.params(), **own, "widths": widths, "trial_id": trial.id}
