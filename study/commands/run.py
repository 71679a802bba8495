"""Runs a study from its options to its front: plan → site → inputs → controller → outcome."""

import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdq.data.sources import find_shape
from kdq.errors import UserError, first_line
from kdq.store.folder_store import StageStore
from study.commands.options import RunOptions
from study.commands.site import Site, check_ray
from study.console.failures import full_text, likely_cause
from study.console.program import program_name
from study.console.summary import Outcome, close, interrupted
from study.control.interrupts import Interrupts
from study.control.journal import Extended, Journal
from study.control.lock import study_lock
from study.control.study_file import is_completed
from study.control.trial_queue import TrialQueue
from study.plan.averaging import averaged
from study.plan.plan import Plan, check_name
from study.plan.remarks import remarks
from study.results.status import StudyStatus
from study.searchers.registry import make_searcher
from study.space.space import Space
from study.space.workload import load_workload
from study.tracking.uri import without_password

if TYPE_CHECKING:
    from kdq.distill.teachers import TeacherSpec
    from study.console.live_table import LiveTable
    from study.control.controller import Controller
    from study.tracking.study_page import StudyPage
    from study.tracking.tracker import Tracker
    from study.trial.worker import Inputs

DIGITS = (
    "workload digits: 1,797 real 8x8 images, included, for a first study in minutes. "
    "The paper's setting: --workload cifar10 or cifar100 (on a GPU), cifar10_small or cifar100_small (on a CPU), with "
    "--data-dir DIR. Your own images: --workload images --dataset folder:DIR."
)


DIVERGED = (
    "error: every trial diverged; likely cause: the learning rate is too high for this data and student; lower it, as "
    "in --set train.lr=0.01, under another --name"
)


def run(options: RunOptions, space: Space, workload_changes: Mapping[str, Any]) -> int:
    """Run the study that the options describe, or only describe it (--dry-run); return the exit status."""
    workload = load_workload(options.workload, workload_changes)
    plan = Plan(
        space_name=Path(options.space).stem,
        workload_name=Path(options.workload).stem,
        space=space,
        workload=workload,
        seeds=options.seeds,
        own_shape=find_shape(workload.data, options.data_dir) if workload.data.kind else None,
    )
    plan = averaged(plan, workload_changes)
    name = check_name(options.name or plan.default_name)
    if plan.workload.dataset == "digits":
        print(DIGITS)
    for remark in remarks(plan):
        print(remark)
    plan.make_scheduler()  # raises before anything is created if the scheduler does not suit the plan
    if options.dry_run:
        from study.commands.dry_run import describe

        print(describe(name, plan, options))
        return 0
    return _run_study(name, plan, options)


def _run_study(name: str, plan: Plan, options: RunOptions) -> int:
    """Run the study under its lock until it ends or is interrupted; return the exit status."""
    teacher, site = _teacher(plan, options), Site.at(options)
    if options.extend or options.retry_failed or not is_completed(site.root / "studies" / name):
        check_ray()  # which takes seconds, and trials will need
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    interrupts = Interrupts(interrupted(options.arguments()))
    with study_lock(site.root / "running", name), interrupts.watching():
        try:
            return _Study(name, plan, options, site, interrupts).run(teacher).exit_status
        except KeyboardInterrupt:
            print(interrupted(options.arguments()), file=sys.stderr)
            return interrupts.exit_status
        except (MlflowException, SQLAlchemyError, OSError) as error:
            what = without_password(first_line(error), site.tracking_uri)
            failure = UserError(
                f"study {name!r} stopped: its store or disk failed: {what}\n"
                f"{likely_cause(full_text(error)) or 'the cause is unknown'}\n"
                f"no finished result is lost: fix the cause and run the same command again"
            )
            if not interrupts.received:
                raise failure from error
            print(f"error: {failure}", file=sys.stderr)
            return interrupts.exit_status


def _teacher(plan: Plan, options: RunOptions) -> "TeacherSpec | None":
    """Return the specification of the teacher, if the study needs one."""
    from study.trial.inputs import teacher_spec

    return teacher_spec(plan.workload, options.data_dir) if plan.needs_teacher else None


@dataclass(frozen=True, slots=True)
class _Study:
    """A study, run while its lock is held. chosen: the settings that the options leave to the machine, for --set."""

    name: str
    plan: Plan
    options: RunOptions
    site: Site
    interrupts: Interrupts
    chosen: tuple[str, ...] = ()

    @property
    def journal(self) -> Journal:
        return Journal(self.site.root / "studies" / self.name / "journal.jsonl")

    def run(self, teacher: "TeacherSpec | None") -> Outcome:
        """Prepare what the trials share, run them and print the summary."""
        from study.commands.extend import check_retry
        from study.console.live_table import LiveTable
        from study.tracking.tracker import open_tracker

        if self.options.retry_failed:
            check_retry(self.name, self.journal)
        live_table = LiveTable(self.name, self.site.slots, self.plan.trial_count)
        root, is_interrupted = self.site.root, lambda: bool(self.interrupts.received)
        tracker = open_tracker(self.site.tracking_uri, self.name, root, live_table.print, is_interrupted)
        before = tracker.document()
        return self._settled(before, live_table)._start(teacher, before, tracker, live_table)

    def _settled(self, before: Mapping[str, Any] | None, live_table: "LiveTable") -> "_Study":
        """Return the study with the precision that it has, or, if it is new, that suits this machine; print it."""
        from study.plan.precision import settings, settle

        plan, line = settle(self.plan, self.site.resources.device, before and before["settings"])
        if line:
            live_table.print(line)
        return replace(self, plan=plan, chosen=settings(self.plan, plan))

    def _start(
        self,
        teacher: "TeacherSpec | None",
        before: Mapping[str, Any] | None,
        tracker: "Tracker",
        live_table: "LiveTable",
    ) -> Outcome:
        from study.commands.extend import check
        from study.control.study_file import write_study_file

        root = self.site.root
        if before:
            check(self.name, before["settings"], self.plan, extend=self.options.extend)
        inputs, metrics = self._prepare(teacher, live_table)
        document = {"settings": self.plan.document(), "inputs": self._ids(inputs, tracker)}
        if before and before != document:
            self._extend(before["settings"], document, inputs, tracker, live_table)
        write = partial(write_study_file, root / "studies" / self.name, document)
        controller = self._controller(inputs, tracker, live_table)
        write(StudyStatus.RUNNING)
        tracker.start_study(document, self.plan.params(), self._command(), self._page(inputs, metrics))
        outcome = self._conclude(controller, metrics, write)
        close(outcome, self.site.tracking_uri, self.options.arguments(), live_table.print)
        return outcome

    def _page(self, inputs: "Inputs", metrics: Mapping[str, float]) -> "StudyPage":
        """Return what MLflow's page of the study shows. metrics: the teacher's accuracies."""
        from kdq.models.sources import short_name
        from study.tracking.study_page import StudyPage

        plan, workload, data = self.plan, self.plan.workload, inputs.data
        question = (
            f"Space `{plan.space_name}`: {plan.space.description or 'without a description'}. Workload "
            f"`{plan.workload_name}`: {workload.dataset}, teacher {workload.teacher}, "
            f"student {short_name(workload.student)}. "
            f"Seeds {', '.join(map(str, plan.seeds))}; each trial distills a student, then quantizes it."
        )
        names = plan.varying, plan.common
        images, teacher = (data.fingerprint, data.train_images), metrics.get("teacher_val_top1")
        seeds = len(plan.seeds)
        return StudyPage(question, plan.widths, *names, workload.dataset, *images, seeds, teacher)

    def _prepare(self, teacher: "TeacherSpec | None", live_table: "LiveTable") -> "tuple[Inputs, dict[str, float]]":
        """Return what the trials share, and the teacher's accuracies."""
        import torch

        from study.trial.inputs import prepare_data, prepare_models

        store, trial = StageStore(self.site.root / "stages"), self.site.resources
        store.sweep()
        torch.set_num_threads(trial.threads)  # as in the workers: a teacher's exact weights depend on it
        reference, data = prepare_data(self.plan.workload, self.options.data_dir, store, live_table.print)
        if self.options.address:
            from study.backends.ray_cluster import preflight
            from study.plan.precision import slower

            nodes = preflight(self.site.machines, trial, self.site.root, Path(reference.folder))
            for line in slower(self.plan.workload.train.precision, nodes) if self.plan.needs_distilling else ():
                live_table.print(line)
        data = data.to(trial.device if torch.cuda.is_available() else "cpu")  # a cluster's head may have no GPU
        return prepare_models(self.plan, teacher, reference, data, store, live_table.print)

    def _ids(self, inputs: "Inputs", tracker: "Tracker") -> Mapping[str, str | None]:
        """Return the ids of the study's inputs; an input not needed now keeps its former id."""
        ids = inputs.ids
        now = {"data": ids.data, "teacher": ids.teacher, "peer": ids.peer}
        before: Mapping[str, str | None] = (tracker.document() or {"inputs": {}})["inputs"]
        if changed := [key for key, stage in now.items() if stage and before.get(key) not in (None, stage)]:
            raise UserError(
                f"study {self.name!r} exists, but its {' and its '.join(changed)} changed since: choose another --name "
                f"(a teacher or peer that is trained here changes with its recipe)"
            )
        return {key: stage or before.get(key) for key, stage in now.items()}

    def _extend(
        self,
        before: Mapping[str, Any],
        document: Mapping[str, Any],
        inputs: "Inputs",
        tracker: "Tracker",
        live_table: "LiveTable",
    ) -> None:
        """Extend the study to the plan. If this is killed, the same command extends it again."""
        from study.commands.extend import check_rungs, lengthened
        from study.trial.trial import make_trial

        trials = None
        if not self.plan.is_adaptive:
            trials = {make_trial(self.plan, inputs.ids, *run).id for run in self.plan.runs}
            check_rungs(self.name, self.journal, trials)
        for line in lengthened(before, self.plan):
            live_table.print(line)
        self.journal.append(Extended(before))
        kept, former = tracker.extend(document, self._command(), trials)
        removed = f"; no longer in its space: {former} (kept in MLflow as former trials)" if former else ""
        live_table.print(f"extended: trials kept: {kept}{removed}")

    def _controller(self, inputs: "Inputs", tracker: "Tracker", live_table: "LiveTable") -> "Controller":
        from study.control.controller import Controller
        from study.trial.trial import make_trial

        queue = TrialQueue(
            searcher=make_searcher(self.plan),
            seeds=self.plan.seeds,
            make=partial(make_trial, self.plan, inputs.ids),
            scheduler=self.plan.make_scheduler(),
            journal=self.journal,
            retry=self.options.retry_failed,
        )
        if queue.retry:
            live_table.total = len(queue.retried) + sum(e.status.is_result for e in queue.entries.values())
            if not queue.retried:
                live_table.print("--retry-failed: no trial of the study has failed")
        return Controller(
            self.name,
            self.plan,
            inputs,
            queue,
            tracker,
            live_table,
            StageStore(self.site.root / "stages"),
            self.site.root / "logs" / self.name,
            self.interrupts,
            shares_gpu=0 < self.site.resources.gpus < 1,
        )

    def _conclude(self, controller: "Controller", metrics: Mapping[str, float], write: "partial[None]") -> Outcome:
        """Run the trials; close the study's runs and its file whatever happens."""
        from study.control.controller import RepeatedFailureError

        status, failure = StudyStatus.FAILED, ""
        try:
            status = self._run_trials(controller)
            failure = DIVERGED if controller.all_diverged else ""
        except RepeatedFailureError as error:
            failure = f"error: {error}"
        except KeyboardInterrupt:
            status = StudyStatus.INTERRUPTED
        finally:
            try:
                controller.close(status, metrics)
            finally:
                write(status)
        return Outcome(
            study=self.name,
            status=status,
            seconds=time.monotonic() - controller.live_table.began,
            statuses=controller.statuses,
            points=controller.points,
            experiment=controller.tracker.experiment,
            figure=controller.tracker.figure_path(),
            failure=failure,
            signal=self.interrupts.received,
            leaves_rest=controller.queue.retry and not controller.is_complete,
            shortage=self.plan.space.shortage if controller.is_complete else "",
            stopped=controller.stopped,
            seeds=len(self.plan.seeds),
        )

    def _run_trials(self, controller: "Controller") -> StudyStatus:
        """Report the trials finished before, and run the rest."""
        with controller.live_table:
            if controller.recall():
                from study.backends.ray_tune import run_on_ray
                from study.plan.estimate_time import measure

                if not self.site.resources.gpus:  # costs are those of a CPU
                    controller.estimate(measure(self.plan, seconds=0.2))
                folder = self.site.root / "ray" / self.name
                with self.interrupts.deferred():
                    run_on_ray(controller, self.site.resources, self.site.slots, folder)
        if not controller.is_complete:
            return StudyStatus.INTERRUPTED
        return StudyStatus.FAILED if controller.failed else StudyStatus.COMPLETED

    def _command(self) -> str:
        """Return the command of this space and workload, without name and limit; `analysis best` narrows it.

        It names the precision, so that it trains the same students on any machine.
        """
        given = replace(self.options, name=None, trials=None, extend=False, retry_failed=False)
        options = replace(given, set=(*given.set, *self.chosen))
        return shlex.join([*program_name().split(), *options.arguments()])
