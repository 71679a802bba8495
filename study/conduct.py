"""Conducts a study from its settings to its front: the one place where the parts meet."""

import argparse
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from kdq.errors import UserError
from kdq.points import Point, as_text, configurations, front_hypervolume, front_table, with_front
from kdq.rungs import Decision
from kdq.stages import StageStore
from kdq.tracking import shown, tracking_uri
from study.agenda import FINAL, Agenda, make_rule, shown_values
from study.journal import Journal
from study.plan import Plan, check_name, check_same, flat
from study.scheduling import RECORD
from study.search import make_search, objectives
from study.spaces import Space
from study.workloads import load_workload

if TYPE_CHECKING:
    from study.driver import Resources
    from study.trial import Probing, Trial

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
    make_rule(plan)  # a scheduler that cannot serve the plan is refused before anything is made
    if options.dry_run:
        from study.cost import describe
        from study.prepare import teacher_spec

        if plan.needs_teacher:
            teacher_spec(plan.workload, options.data_dir)

        print(describe(name, plan, slots(options)))
        return 0
    return Study(name, plan, options).run()


def resources(options: argparse.Namespace) -> "Resources":
    """Cores and GPU share of a trial; on a CPU one thread a trial and as many trials as cores is fastest."""
    import torch

    from study.driver import Resources

    available = torch.cuda.device_count()
    gpus = options.gpus_per_trial if options.gpus_per_trial is not None else min(available, 1)
    cpus = options.cpus_per_trial or 1.0
    if gpus > available:
        raise UserError(f"--gpus-per-trial {gpus:g}: this machine has {available} GPUs; leave it out to use the CPU")
    if cpus > cores():
        raise UserError(f"--cpus-per-trial {cpus:g}: this machine has {cores()} cores; give at most that")
    return Resources(cpus, gpus)


def cores() -> int:
    """The cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slots(options: argparse.Namespace) -> int:
    """How many trials run at a time."""
    import torch

    taken = resources(options)
    by_cpu = int(cores() / taken.cpus)
    return max(1, min(by_cpu, int(torch.cuda.device_count() / taken.gpus)) if taken.gpus else by_cpu)


ALIKE = 3
"""So many trials that fail for the same reason stop the study."""


class _Halt(BaseException):
    """Ends a trial that only reports what is finished: by decision, or since telling it failed with an error.

    It is no Exception, which would be taken for the end of the trial itself.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


class Study:
    """One study on its way: what its trials report goes to MLflow and to the progress table."""

    def __init__(self, name: str, plan: Plan, options: argparse.Namespace) -> None:
        self.name, self.plan, self.options = name, plan, options
        self.root = Path("mlruns").absolute()
        self.store = StageStore(self.root / "stages")
        self.found: dict[tuple[str, int], Point] = {}
        self.began = time.monotonic()
        self.rule = make_rule(plan)
        self.failures: Counter[str] = Counter()
        self._next: Trial | None = None

    @property
    def points(self) -> list[Point]:
        return list(self.found.values())

    def run(self) -> int:
        """Run the study to its end, or to an interruption. Returns the exit status."""
        from mlflow.exceptions import MlflowException

        from study.prepare import check_quantizable, teacher_spec

        workload = self.plan.workload
        self.teacher = teacher_spec(workload, self.options.data_dir) if self.plan.needs_teacher else None
        if self.teacher:
            check_quantizable(self.plan, self.teacher)
        self.resources = resources(self.options)
        self.uri = tracking_uri(self.options.tracking_uri)
        with self._alone():
            try:
                status = self._conduct()
            except (MlflowException, OSError) as error:
                raise UserError(
                    f"study {self.name!r} stopped, since its store or disk failed: {str(error).splitlines()[0]}; "
                    f"nothing that was finished is lost: mend it, and the same command goes on"
                ) from error
        return {"completed": 0, "interrupted": 130}.get(status, 1)

    def _conduct(self) -> str:
        """From the open store to the summary. Returns the word for how the study ended."""
        self._open()
        self._prepare()
        status = "failed"
        try:
            status = self._run_trials()
        except KeyboardInterrupt:
            status = "interrupted"
        finally:
            self._close(status)
        self._summary(status)
        return status

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the study's lock, which the system frees if this process dies. Raises UserError if it is held."""
        lock = self.root / "running" / f"{self.name}.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = FileLock(lock, timeout=0).acquire()
        except Timeout:
            raise UserError(f"study {self.name!r} is being run by another process; wait for it, or stop it") from None
        except OSError as error:
            raise UserError(f"{lock.parent} cannot be written: {error}; run where it can") from None
        with held:
            yield

    @property
    def statuses(self) -> dict[str, str]:
        """The word for where each trial is."""
        return {key: entry.status for key, entry in self.agenda.entries.items()}

    def _open(self) -> None:
        from study.progress import Progress
        from study.tracking import open_tracker

        self.tracker = open_tracker(self.uri, self.name, self.root)
        if before := self.tracker.document():
            check_same(self.name, before["settings"], self.plan.document())
        self.progress = Progress(self.name, slots(self.options), self.plan.trial_count)

    def _prepare(self) -> None:
        """Make what the trials share, and open the study's run."""
        import torch

        from study.prepare import evaluate_teacher, make_trial, prepare_data, prepare_peer, prepare_teacher

        torch.set_num_threads(self.resources.threads)  # as in the workers: the bits of a teacher depend on it
        workload, say = self.plan.workload, self.progress.note
        reference, data = prepare_data(workload, self.options.data_dir, self.store, say)
        data = data.to(self.resources.device)
        teacher = prepare_teacher(workload, self.teacher, reference, data, self.store, say) if self.teacher else None
        self.teacher_metrics: dict[str, float] = {}
        if teacher:
            val, test = evaluate_teacher(teacher, reference, data, self.store, say)
            self.teacher_metrics = {"teacher_val_top1": val, "teacher_test_top1": test}
        peer = prepare_peer(workload, reference, data, self.store, say) if self.plan.needs_peer else None
        inputs = {"data": reference.fingerprint, "teacher": teacher and teacher.id, "peer": peer and peer.id}
        document = {"settings": self.plan.document(), "inputs": inputs}
        if (before := self.tracker.document()) and before["inputs"] != inputs:
            raise UserError(
                f"study {self.name!r} has the same settings as before, but its data or its teacher's weights have "
                f"changed since; choose another --name"
            )
        self.tracker.start_study(document, self._params(), self._command())
        self.agenda = Agenda(
            search=make_search(self.plan),
            seeds=self.plan.seeds,
            make=partial(make_trial, self.plan, reference, teacher, peer, self.store),
            rule=self.rule,
            journal=Journal(self.root / "studies" / self.name / "journal.jsonl"),
        )

    def _run_trials(self) -> str:
        """Tell what is finished already, run the rest. Returns the word for how the study ended."""
        with self.progress:
            self._recall()
            self._next = self.next()
            if self._next:
                self._run_on_ray()
        if not self.agenda.is_done:
            return "interrupted"
        # One that diverged has ended as it does: its reason is a result. The others that fail are to be mended.
        return "completed" if set(self.statuses.values()) <= {*FINAL} else "failed"

    def _recall(self) -> None:
        """Show what the journal knows of former runs of the study."""
        for key, entry in self.agenda.entries.items():
            self._show(entry.trial)
            if entry.status == "completed" and not entry.trial.is_finished(self.store):
                entry.status = "waiting"  # somebody has removed its stages
            elif entry.status == "completed":
                self._tell_finished(entry.trial)
            elif entry.status in FINAL:
                self._track(key)
                self._show_end(key, entry.status, entry.reason, None)
                self.tracker.end_trial(key, entry.status, entry.reason, {})

    def next(self) -> "Trial | None":
        """A trial that needs a worker; those whose stages are all there are told on the way."""
        if ready := self._next:
            self._next = None
            return ready
        while trial := self.agenda.next():
            self._show(trial)
            if not trial.is_finished(self.store):
                return trial
            self._tell_finished(trial)
        return None

    def _show(self, trial: "Trial") -> None:
        if trial.id not in self.progress.rows:
            self.progress.add(trial.id, trial.name, trial.epochs, len(trial.points))

    @property
    def is_done(self) -> bool:
        return self._next is None and self.agenda.is_done

    def _run_on_ray(self) -> None:
        from study.driver import run_on_ray

        folder = self.root / "ray" / self.name
        settings = {"logs": str(self._logs), "probing": asdict(self._probing)}
        run_on_ray(self, self.resources, folder, settings, self._started, self._report)

    @property
    def _probing(self) -> "Probing":
        """When students are measured quantized: at all of the study's widths, so that trials share what they show."""
        from study.trial import Probing

        if self.plan.space.scheduler.name == RECORD:
            return Probing(tuple(range(1, self.plan.workload.train.epochs + 1)), self.plan.widths)
        if self.rule and self.rule.priority.needs_widths:
            return Probing(self.rule.levels, self.plan.widths)
        return Probing()

    def _tell_finished(self, trial: "Trial") -> None:
        """A trial whose stages are all there: here and now it only reports them."""
        from study.trial import run_trial

        def report(event: Mapping[str, Any]) -> None:
            try:
                decision = self._report(trial.id, event)
            except Exception as error:
                raise _Halt(error) from error
            if decision is not Decision.CONTINUE:
                raise _Halt

        self._track(trial.id)
        try:
            run_trial(trial, "cpu", self._logs / f"{trial.id}.log", report, self._probing)
        except _Halt as halt:
            if halt.error:
                raise halt.error from None

    @property
    def _logs(self) -> Path:
        return self.root / "logs" / self.name

    def _close(self, status: str) -> None:
        """Bring every run that is still open to its end."""
        for trial_id, word in self.statuses.items():
            if word in ("running", "paused") and trial_id in self.tracker.runs:
                self.tracker.end_trial(trial_id, "interrupted", "the study was interrupted", {})
        self.tracker.log_front(self.points, always=True)
        hypervolume = {"hypervolume": front_hypervolume(self.points)} if self.points else {}
        self.tracker.end_study(status, {**self.teacher_metrics, **hypervolume, "points": len(self.points)})

    def _track(self, trial_id: str) -> None:
        entry = self.agenda.entries[trial_id]
        self.tracker.start_trial(trial_id, entry.trial.name, self._trial_params(entry.trial))

    def _started(self, trial_id: str) -> None:
        self._track(trial_id)
        self.progress.start(trial_id)

    def _report(self, trial_id: str, event: Mapping[str, Any]) -> Decision:
        """What a trial reported: an epoch, a point, a reused student or its end. Returns whether it goes on."""
        trial = self.agenda.entries[trial_id].trial
        if event["event"] == "epoch":
            return self._report_epoch(trial, event)
        if event["event"] == "point":
            self._report_point(trial, event)
        elif event["event"] == "reused":
            self.progress.say(f"{trial.name}: its student is there already, and is reused")
        else:
            self._end(trial_id, event["status"], event["reason"], event["log"])
            self._end_losers()
        return Decision.CONTINUE

    def _report_epoch(self, trial: "Trial", event: Mapping[str, Any]) -> Decision:
        epoch = int(event["epoch"])
        self.progress.epoch(trial.id, event)
        metrics = {key: value for key, value in event.items() if key not in ("event", "epoch", "probe")}
        metrics |= {f"probe_top1_{bits}bit": accuracy for bits, accuracy, _ in event.get("probe", ())}
        self.tracker.log_epoch(trial.id, epoch, metrics)
        values = shown_values(event, self.rule.priority.needs_widths) if self.rule else None
        decision = self.agenda.epoch(trial.id, epoch, values)
        if decision is Decision.STOP:
            self._end(trial.id, "stopped", self._verdict(trial, epoch))
        elif decision is Decision.PAUSE:
            self.progress.pause(trial.id, epoch)
        self._end_losers()
        return decision

    def _verdict(self, trial: "Trial", epoch: int) -> str:
        return f"by {self.plan.space.scheduler.name}, at the rung of epoch {epoch} of {trial.epochs}"

    def _end_losers(self) -> None:
        """Trials that waited for a rung in vain."""
        for trial_id, epoch in self.agenda.losers().items():
            self._end(trial_id, "stopped", self._verdict(self.agenda.entries[trial_id].trial, epoch))

    def _report_point(self, trial: "Trial", event: Mapping[str, Any]) -> None:
        point = Point(**event["point"])
        if (trial.id, point.bits) not in self.found:  # a worker that was started again tells all it has
            self.progress.point(trial.id, event["point"])
        self.found[trial.id, point.bits] = point
        params = {**self._trial_params(trial), "bits": point.bits}
        self.tracker.log_point(point, f"{trial.name}, {point.bits} bits", params, event["files"])

    def _end(self, trial_id: str, status: str, reason: str, log: str | None = None) -> None:
        mine = [point for point in self.points if point.trial_id == trial_id]
        self.agenda.end(trial_id, status, reason, objectives(mine) if status == "completed" else None)
        self._show_end(trial_id, status, reason, log)
        best_of = {f"val_top1_{p.bits}bit": p.val_top1 for p in mine}
        best_of |= {f"test_top1_{p.bits}bit": p.test_top1 for p in mine}
        self.tracker.end_trial(trial_id, status, reason, best_of)
        self.tracker.log_front(self.points)
        if status == "failed":
            self._check_alike(reason, log)

    def _check_alike(self, reason: str, log: str | None) -> None:
        """Raise UserError if trials fail for one and the same reason: so would all others."""
        self.failures[reason] += 1
        if self.failures[reason] == ALIKE:
            raise UserError(
                f"study {self.name!r} stopped, since {ALIKE} trials failed alike: {reason} (log: {log}); nothing that "
                f"was finished is lost: mend the cause, and the same command goes on"
            )

    def _show_end(self, trial_id: str, status: str, reason: str, log: str | None) -> None:
        self.progress.end(trial_id, status, reason, log)

    def _params(self) -> dict[str, Any]:
        """What the whole study has in common, flat, as a comparison in the MLflow UI needs it."""
        workload = self.plan.workload
        return {
            "space": self.plan.space_name,
            "workload": self.plan.workload_name,
            "dataset": workload.dataset,
            "teacher": workload.teacher,
            "student": workload.student,
            "searcher": self.plan.space.searcher,
            "scheduler": self.plan.space.scheduler.name,
            "train_images": workload.train_images or "all",
            "val_images": workload.val_images,
            "calibration_images": workload.calibration_images,
            "quantizer": workload.quantizer.method,
            "activation_bits": workload.quantizer.activation_bits or "float",
            **({"peer_init": workload.peer_init} if self.plan.needs_peer else {}),
            **flat({"quantizer": dict(workload.quantizer.params)}),
            **flat({"train": self.plan.document()["workload"]["train"]}),
        }

    def _trial_params(self, trial: "Trial") -> dict[str, Any]:
        own = {"method": trial.method, **trial.parameters, "seed": trial.seed, "student": trial.arch}
        widths = ",".join(str(point.bits) for point in trial.points)
        return {**self._params(), **own, "widths": widths, "trial_id": trial.id}

    def _command(self) -> str:
        """The command that runs this space on this workload, for others to narrow: without name and limit."""
        kept: list[str] = []
        drop_value = False
        for argument in self.options.given:
            name, equals, _ = argument.partition("=")
            if name in ("--name", "--trials"):
                drop_value = not equals
            elif drop_value:
                drop_value = False
            else:
                kept.append(argument)
        return shlex.join(["python", "study/run.py", *kept])

    def _summary(self, status: str) -> None:
        from study.progress import duration

        print_ = self.progress.console.print
        seconds = duration(time.monotonic() - self.began)
        counts = ", ".join(f"{count} {word}" for word, count in Counter(self.statuses.values()).items())
        print_(f"\nstudy {self.name}: {status} after {seconds}; trials: {counts or 'none ended'}")
        if status == "interrupted":
            print_("interrupted: nothing that was finished is lost; the same command goes on")
        if not self.points:
            return
        print_("\nPareto front (chosen on validation; test beside it):")
        print(as_text(front_table(self.points)))
        front = sorted(group.mean("total_bits") for group in configurations(with_front(self.points)) if group.on_front)
        budget = 1.1 * front[len(front) // 2]
        programs = Path(_here(sys.prefix)) / "bin"
        store = [] if self.options.tracking_uri is None else ["--tracking-uri", shown(self.uri)]
        ui = [str(programs / "mlflow"), "ui", "--backend-store-uri", shown(self.uri)]
        choose = [
            str(programs / "python"),
            *["-m", "analysis", "best", "--study"],
            self.name,
            "--max-bits",
            f"{budget:.2g}",
        ]
        print(f"\nfigure: {_here(self.tracker.figure_path())}")
        print(f"MLflow: {shlex.join(ui) if self.uri.startswith('sqlite:') else shown(self.uri)}")
        print(f"best under a budget: {shlex.join([*choose, *store])}")


def _here(path: str) -> str:
    """A path as one would type it in this folder."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
