"""Conducts a study from its settings to its front: the one place where the parts meet."""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdq.errors import UserError, first_line
from kdq.store.folder_store import StageStore
from study.commands.site import machines_at
from study.console.failures import likely, text
from study.console.summary import Outcome, close, interrupted
from study.control.interrupts import Interrupts
from study.control.journal import Journal
from study.control.lock import alone
from study.control.trial_queue import Agenda
from study.plan.plan import Plan, check_name
from study.plan.resources import resources, root_folder, slots
from study.results.status import FINAL
from study.searchers.registry import make_search
from study.space.configuration import Configuration
from study.space.space import Space
from study.space.workload import load_workload
from study.tracking.uri import tracking_uri

if TYPE_CHECKING:
    from study.trial.trial import Trial

DIGITS = (
    "workload digits: 1,797 real 8x8 images, embedded, to see the platform work in minutes. "
    "The paper's setting: --workload cifar10 or cifar100 (a GPU), or cifar10_small (a CPU), with --data-dir DIR."
)


def conduct(options: argparse.Namespace, space: Space, workload_settings: Mapping[str, Any]) -> int:
    """Run, or only plan, the study that the options describe. Returns the exit status."""
    plan = Plan(
        space_name=Path(options.space).stem,
        workload_name=Path(options.workload).stem,
        space=space,
        workload=load_workload(options.workload, workload_settings),
        seeds=options.seeds,
    )
    name = check_name(options.name or plan.default_name)
    if plan.workload.dataset == "digits":
        print(DIGITS)
    plan.rule()  # a scheduler that cannot serve the plan is refused before anything is made
    if options.dry_run:
        from study.commands.dry_run import describe

        print(describe(name, plan, options))
        return 0
    return Study(name, plan, options).run()


class Study:
    """One study and what it needs: store, tracker, data and teacher. Its trials are the business of its session."""

    def __init__(self, name: str, plan: Plan, options: argparse.Namespace) -> None:
        self.name, self.plan, self.options = name, plan, options
        self.root = root_folder(options.storage_path)
        self.store = StageStore(self.root / "stages")
        self.rule = plan.rule()
        self.journal = Journal(self.root / "studies" / name / "journal.jsonl")

    def run(self) -> int:
        """Run the study to its end, or to an interruption. Returns the exit status."""
        from mlflow.exceptions import MlflowException

        from study.trial.inputs import check_quantizable, teacher_spec

        workload = self.plan.workload
        self.teacher = teacher_spec(workload, self.options.data_dir) if self.plan.needs_teacher else None
        if self.teacher:
            check_quantizable(self.plan, self.teacher)
        self.machines = machines_at(self.options.address)
        self.resources = resources(self.options.cpus_per_trial, self.options.gpus_per_trial, self.machines)
        self.uri = tracking_uri(self.options.tracking_uri, self.root)
        self.interrupts = Interrupts(interrupted(self.options.given))
        with alone(self.root / "running", self.name), self.interrupts.watching():
            try:
                status = self._conduct()
            except (MlflowException, OSError) as error:
                failure = UserError(
                    f"study {self.name!r} stopped, since its store or disk failed: {first_line(error)}\n"
                    f"{likely(text(error)) or 'the cause is none of the usual ones'}\n"
                    f"nothing that was finished is lost: mend it, and the same command goes on"
                )
                if not self.interrupts.came:
                    raise failure from error
                print(f"error: {failure}", file=sys.stderr)
                return 130
        return self._exit_status(status)

    def _exit_status(self, status: str) -> int:
        if self.interrupts.came:
            return 130
        is_rest_left = self.options.retry_failed and status == "interrupted"
        return 0 if status == "completed" or (is_rest_left and not self.session.failed) else 1

    def _conduct(self) -> str:
        """From the open store to the summary. Returns the word for how the study ended."""
        from study.control.controller import RepeatedFailureError

        self._open()
        self._prepare()
        status, failure = "failed", ""
        try:
            status = self._run_trials()
        except RepeatedFailureError as error:
            failure = f"error: {error}"
        except KeyboardInterrupt:
            status = "interrupted"
        finally:
            try:
                self.session.close(status, self.teacher_metrics)
            finally:
                self.note(status)
        close(self._outcome(status), self.uri, self.options.given, self.progress.note)
        if failure:
            print(failure, file=sys.stderr)
        return status

    def _outcome(self, status: str) -> Outcome:
        session = self.session
        return Outcome(
            study=self.name,
            status=status,
            seconds=time.monotonic() - self.progress.began,
            statuses=session.statuses,
            points=session.points,
            figure=self.tracker.figure_path(),
            is_interrupted=session.is_interrupted,
            leaves_rest=session.agenda.retry and not session.is_complete,
        )

    def _open(self) -> None:
        from study.commands.extend import check
        from study.console.live_table import Progress
        from study.tracking.tracker import open_tracker

        if self.options.retry_failed and not self.journal.path.exists():
            raise UserError(f"study {self.name!r} has run no trial here: leave --retry-failed out, or mend --name")
        self.progress = Progress(self.name, slots(self.resources, self.machines), self.plan.trial_count)
        self.tracker = open_tracker(self.uri, self.name, self.root, self.progress.note, lambda: self.interrupts.came)
        if before := self.tracker.document():
            check(self.name, before["settings"], self.plan, extend=self.options.extend)

    def _prepare(self) -> None:
        """Make what the trials share, and open the study's run."""
        import torch

        from study.control.controller import Session
        from study.control.study_file import note
        from study.trial.inputs import evaluate_teacher, make_trial, prepare_data, prepare_peer, prepare_teacher

        self.store.sweep()
        torch.set_num_threads(self.resources.threads)  # as in the workers: the bits of a teacher depend on it
        workload, say = self.plan.workload, self.progress.note
        reference, data = prepare_data(workload, self.options.data_dir, self.store, say)
        if self.options.address:
            from study.backends.ray_cluster import preflight

            preflight(self.machines, self.resources, self.root, Path(reference.folder))
        data = data.to(self.resources.device if torch.cuda.is_available() else "cpu")  # a cluster's head may have none
        teacher = prepare_teacher(workload, self.teacher, reference, data, self.store, say) if self.teacher else None
        self.teacher_metrics: dict[str, float] = {}
        if teacher:
            val, test = evaluate_teacher(teacher, reference, data, self.store, say)
            self.teacher_metrics = {"teacher_val_top1": val, "teacher_test_top1": test}
        peer = prepare_peer(workload, reference, data, self.store, say) if self.plan.needs_peer else None
        make = partial(make_trial, self.plan, reference, teacher, peer, self.store)
        models = {role: model.id if model else None for role, model in (("teacher", teacher), ("peer", peer))}
        inputs = self._inputs({"data": reference.fingerprint, **models})
        document = {"settings": self.plan.document(), "inputs": inputs}
        self.note = partial(note, self.root / "studies" / self.name, document)
        if (before := self.tracker.document()) and before != document:
            self._extend(before["settings"], document, make)
        self.note("running")
        self.tracker.start_study(document, self.plan.params(), self._command())
        agenda = Agenda(
            search=make_search(self.plan),
            seeds=self.plan.seeds,
            make=make,
            rule=self.rule,
            journal=self.journal,
            retry=self.options.retry_failed,
        )
        if agenda.retry and not agenda.retried:
            say("--retry-failed: no trial of the study has failed")
        if agenda.retry:
            self.progress.total = len(agenda.retried) + sum(e.status in FINAL for e in agenda.entries.values())
        logs = self.root / "logs" / self.name
        self.session = Session(
            self.name,
            self.plan,
            agenda,
            self.tracker,
            self.progress,
            self.store,
            logs,
            self.interrupts,
            shares_gpu=0 < self.resources.gpus < 1,
        )

    def _inputs(self, now: Mapping[str, str | None]) -> Mapping[str, str | None]:
        """The ids of what the study starts from; one that is not needed now is still what it was."""
        before: Mapping[str, str | None] = (self.tracker.document() or {"inputs": {}})["inputs"]
        if changed := [key for key, stage in now.items() if stage and before.get(key) not in (None, stage)]:
            raise UserError(
                f"study {self.name!r} exists, but its {' and its '.join(changed)} changed since: choose another --name "
                f"(what is trained here changes with the recipe of its training)"
            )
        return {key: stage or before.get(key) for key, stage in now.items()}

    def _extend(
        self, before: Mapping[str, Any], document: Mapping[str, Any], make: "Callable[[Configuration, int], Trial]"
    ) -> None:
        """Make the study another one of the same name. Killed on the way, the same command does it again."""
        from study.commands.extend import check_rungs, lengthened

        trials = None if self.plan.is_adaptive else {make(*run).id for run in self.plan.runs}
        if trials is not None:
            check_rungs(self.name, self.journal, trials)
        for line in lengthened(before, self.plan):
            self.progress.note(line)
        self.journal.append({"event": "extend", "settings": before})
        kept, former = self.tracker.extend(document, self._command(), trials)
        self.progress.note(
            f"extended: trials kept: {kept}"
            + (f"; not in its space any more: {former} (MLflow has them as former trials)" if former else "")
        )

    def _run_trials(self) -> str:
        """Tell what is finished already, run the rest. Returns the word for how the study ended."""
        with self.progress:
            if self.session.recall():
                self._run_on_ray()
        if not self.session.is_complete:
            return "interrupted"
        return "failed" if self.session.failed else "completed"

    def _run_on_ray(self) -> None:
        from study.backends.ray_tune import run_on_ray

        at_once = slots(self.resources, self.machines)
        folder = self.root / "ray" / self.name
        settings = {"logs": str(self.session.logs), "probing": asdict(self.session.probing)}
        with self.interrupts.deferred():
            run_on_ray(
                self.session, self.resources, at_once, folder, settings, self.session.started, self.session.report
            )

    def _command(self) -> str:
        """The command that runs this space on this workload, for others to narrow: no name, limit or way to go on."""
        kept: list[str] = []
        drop_value = False
        for argument in self.options.given:
            name, equals, _ = argument.partition("=")
            if name in ("--extend", "--retry-failed"):
                continue
            if name in ("--name", "--trials"):
                drop_value = not equals
            elif drop_value:
                drop_value = False
            else:
                kept.append(argument)
        return shlex.join(["python", "study/run.py", *kept])
