"""Conducts a study from its settings to its front: the one place where the parts meet."""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdq.errors import UserError
from kdq.points import Point, as_text, configurations, front_hypervolume, front_table, with_front
from kdq.stages import StageStore
from kdq.tracking import tracking_uri
from study.plan import Plan, check_name, check_same, flat
from study.spaces import load_space

if TYPE_CHECKING:
    from study.driver import Resources

Settings = tuple[Mapping[str, Any], Mapping[str, Any]]

DIGITS = (
    "workload digits: 1,797 real 8x8 images, embedded, to see the platform work in minutes. "
    "The paper's setting: --workload cifar10 or cifar100 (a GPU), or cifar10_small (a CPU), with --data-dir DIR."
)


def conduct(options: argparse.Namespace, settings: Settings) -> int:
    """Run, or only plan, the study that the options describe. Returns the exit status."""
    space_settings, workload_settings = settings
    space = load_space(options.space, space_settings)

    from study.workloads import load_workload  # torch comes with it: a mistake in the space is said before

    plan = Plan(
        space_name=Path(options.space).stem,
        workload_name=Path(options.workload).stem,
        space=space,
        workload=load_workload(options.workload, workload_settings),
        seeds=options.seeds,
        trials=options.trials,
    )
    name = check_name(options.name or plan.default_name)
    if plan.workload.dataset == "digits":
        print(DIGITS)
    if options.dry_run:
        from study.cost import describe

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
    cores = os.cpu_count() or 1
    if gpus > available:
        raise UserError(f"--gpus-per-trial {gpus:g}: this machine has {available} GPUs; leave it out to use the CPU")
    if cpus > cores:
        raise UserError(f"--cpus-per-trial {cpus:g}: this machine has {cores} cores; give at most that")
    return Resources(cpus, gpus)


def slots(options: argparse.Namespace) -> int:
    """How many trials run at a time."""
    import torch

    taken = resources(options)
    by_cpu = int((os.cpu_count() or 1) / taken.cpus)
    return max(1, min(by_cpu, int(torch.cuda.device_count() / taken.gpus)) if taken.gpus else by_cpu)


class Study:
    """One study on its way: what its trials report goes to MLflow and to the progress table."""

    def __init__(self, name: str, plan: Plan, options: argparse.Namespace) -> None:
        self.name, self.plan, self.options = name, plan, options
        self.root = Path("mlruns").absolute()
        self.store = StageStore(self.root / "stages")
        self.points: list[Point] = []
        self.statuses: dict[str, str] = {}
        self.began = time.monotonic()

    def run(self) -> int:
        """Run the study to its end, or to an interruption. Returns the exit status."""
        from study.prepare import teacher_spec
        from study.progress import Progress
        from study.tracking import open_tracker

        self.teacher = teacher_spec(self.plan.workload, self.options.data_dir) if self.plan.needs_teacher else None
        taken = resources(self.options)
        self.uri = tracking_uri(self.options.tracking_uri)
        local = self.uri.startswith("sqlite:")
        self.tracker = open_tracker(self.uri, self.name, self.root / "artifacts" if local else None)
        if before := self.tracker.study_document():
            check_same(self.name, before, self.plan.document())
        self.progress = Progress(self.name, len(self.plan.widths), slots(self.options))
        self._prepare()
        self.tracker.start_study(self.plan.document(), self._params(), self._command())
        status = "failed"
        try:
            status = self._run_trials(taken)
        except KeyboardInterrupt:
            status = "interrupted"
        finally:
            self.tracker.log_front(self.points, always=True)
            hypervolume = {"hypervolume": front_hypervolume(self.points)} if self.points else {}
            self.tracker.end_study(status, {**self.teacher_metrics, **hypervolume, "points": len(self.points)})
        self._summary(status)
        return {"completed": 0, "interrupted": 130}.get(status, 1)

    def _prepare(self) -> None:
        from study.prepare import evaluate_teacher, make_trials, prepare_data, prepare_teacher

        workload, say = self.plan.workload, self.progress.console.print
        reference, data = prepare_data(workload, self.options.data_dir, self.store, say)
        teacher = prepare_teacher(workload, self.teacher, reference, data, self.store, say) if self.teacher else None
        self.teacher_metrics: dict[str, float] = {}
        if teacher:
            val, test = evaluate_teacher(teacher, reference, data, workload.calibration_images, self.store, say)
            self.teacher_metrics = {"teacher_val_top1": val, "teacher_test_top1": test}
        self.trials = make_trials(self.plan, reference, teacher, self.store)

    def _run_trials(self, taken: "Resources") -> str:
        """Tell what is finished already, run the rest. Returns the word for how the study ended."""
        from study.driver import run_on_ray
        from study.trial import run_trial

        for trial_id, trial in self.trials.items():
            self.progress.add(trial_id, trial.name, trial.epochs)
        logs = self.root / "logs" / self.name
        with self.progress:
            waiting = {}
            for trial_id, trial in self.trials.items():
                if trial.is_finished(self.store):
                    self._started(trial_id)
                    run_trial(trial, "cpu", logs / f"{trial_id}.log", partial(self._report, trial_id))
                else:
                    waiting[trial_id] = trial
            folder = self.root / "ray" / self.name
            whole = not waiting or run_on_ray(waiting, taken, folder, logs, self._started, self._report)
        if not whole:
            return "interrupted"
        return "completed" if all(s == "completed" for s in self.statuses.values()) else "failed"

    def _started(self, trial_id: str) -> None:
        trial = self.trials[trial_id]
        self.tracker.start_trial(trial_id, trial.name, self._trial_params(trial_id))
        self.progress.start(trial_id)

    def _report(self, trial_id: str, event: Mapping[str, Any]) -> None:
        """What a trial reported: an epoch, a point or its end."""
        if event["event"] == "epoch":
            self.progress.epoch(trial_id, event)
            metrics = {key: value for key, value in event.items() if key not in ("event", "epoch")}
            self.tracker.log_epoch(trial_id, int(event["epoch"]), metrics)
        elif event["event"] == "point":
            point = Point(**event["point"])
            self.points.append(point)
            self.progress.point(trial_id, event["point"])
            name = f"{self.trials[trial_id].name}, {point.bits} bits"
            self.tracker.log_point(point, name, {**self._trial_params(trial_id), "bits": point.bits}, event["files"])
        else:
            self.statuses[trial_id] = event["status"]
            self.progress.end(trial_id, event["status"], event["reason"], event["log"])
            mine = [point for point in self.points if point.trial_id == trial_id]
            best_of = {f"val_top1_{p.bits}bit": p.val_top1 for p in mine}
            best_of |= {f"test_top1_{p.bits}bit": p.test_top1 for p in mine}
            self.tracker.end_trial(trial_id, event["status"], event["reason"], best_of)
            self.tracker.log_front(self.points)

    def _params(self) -> dict[str, Any]:
        """What the whole study has in common, flat, as a comparison in the MLflow UI needs it."""
        workload = self.plan.workload
        return {
            "space": self.plan.space_name,
            "workload": self.plan.workload_name,
            "dataset": workload.dataset,
            "teacher": workload.teacher,
            "student": workload.student,
            "train_images": workload.train_images or "all",
            "val_images": workload.val_images,
            "calibration_images": workload.calibration_images,
            **flat({"train": self.plan.document()["workload"]["train"]}),
        }

    def _trial_params(self, trial_id: str) -> dict[str, Any]:
        trial = self.trials[trial_id]
        own = {"method": trial.method, **trial.parameters, "seed": trial.seed, "student": trial.arch}
        return {**self._params(), **own, "trial_id": trial_id}

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
        counts = ", ".join(
            f"{list(self.statuses.values()).count(s)} {s}" for s in dict.fromkeys(self.statuses.values())
        )
        print_(f"\nstudy {self.name}: {status} after {seconds}; trials: {counts or 'none ended'}")
        if status == "interrupted":
            print_("interrupted: nothing that was finished is lost; the same command goes on")
        if not self.points:
            return
        print_("\nPareto front (chosen on validation; test beside it):")
        print(as_text(front_table(self.points)))
        front = sorted(group.mean("total_bits") for group in configurations(with_front(self.points)) if group.on_front)
        budget = 1.1 * front[len(front) // 2]
        print(f"\nfigure: {_here(self.tracker.figure_path())}")
        print(f"MLflow: {_here(sys.prefix)}/bin/mlflow ui --backend-store-uri {self.uri}")
        print(
            f"best under a budget: {_here(sys.prefix)}/bin/python -m analysis best --study {self.name} "
            f"--max-bits {budget:.2g}"
        )


def _here(path: str) -> str:
    """A path as one would type it in this folder."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path
