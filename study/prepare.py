"""What every trial of a study shares, made before the first one starts: the data and the teacher, as stages."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from kdq.data import Dataset, load_source, open_dataset
from kdq.errors import UserError
from kdq.measure import PointSpec, measure, measured
from kdq.methods import MethodConfig
from kdq.models import ARCHITECTURES
from kdq.points import FLOAT_BITS
from kdq.stages import Stage, StageStore
from kdq.students import MODEL_FILE, StudentSpec, distill
from kdq.teachers import (
    IMAGENET,
    Checkpoint,
    Hub,
    TeacherSpec,
    Trained,
    find_checkpoint,
    load,
    parse_spec,
    save,
)
from kdq.train import TrainConfig
from study.plan import Plan
from study.trial import QUANTIZER, DataRef, TeacherRef, Trial, load_teacher
from study.workloads import Workload

TEACHER_VERSION = 1
TEACHER_SEED = 0
CHANCE_FACTOR = 1.5  # a teacher below this multiple of guessing has not learnt this data set, or sees it wrongly

Say = Callable[[str], None]


def prepare_data(workload: Workload, data_dir: Path | None, store: StageStore, say: Say) -> tuple[DataRef, Dataset]:
    """The data set as a stage, decoded if it is not there yet, and opened."""
    say(f"data: {workload.dataset} (the first time, its images are decoded)")
    folder = store.path(load_source(workload.dataset, data_dir, store))
    data = open_dataset(folder, train_images=workload.train_images, val_images=workload.val_images)
    counts = [len(labels) for labels in (data.train_labels, data.val_labels, data.test_labels)]
    say("data: {:,} training, {:,} validation, {:,} test images".format(*counts))
    return DataRef(str(folder), data.fingerprint, counts[0], counts[1]), data


def teacher_spec(workload: Workload, data_dir: Path | None) -> TeacherSpec:
    """The teacher of a workload. A bare architecture is a published checkpoint under `data_dir`/checkpoints."""
    text = workload.teacher
    if text not in ARCHITECTURES:
        spec = parse_spec(text)
        if isinstance(spec, Checkpoint):
            spec.identity()  # a file that is missing is said before the data is decoded
        return spec
    if data_dir is None:
        raise UserError(
            f"teacher {text!r}: its checkpoint is looked for as {text}*.th under --data-dir DIR/checkpoints, and no "
            f"--data-dir is given; give it, or --teacher {text}:PATH, or --teacher train:{text}"
        )
    return Checkpoint(text, find_checkpoint(data_dir, f"{text}[-_.]*"))


def prepare_teacher(
    workload: Workload, spec: TeacherSpec, reference: DataRef, data: Dataset, store: StageStore, say: Say
) -> TeacherRef:
    """The teacher as a stage: its file read and checked, or trained here."""
    if isinstance(spec, Trained):
        return _trained(workload, spec.arch or workload.student, reference, data, store, say)
    normalization = IMAGENET if workload.teacher_normalization == "imagenet" else data.normalization
    if isinstance(spec, Hub):
        spec = spec.fetch()
    inputs = {**spec.identity(), "normalization": asdict(normalization), "classes": data.classes}
    stage = Stage("teacher", TEACHER_VERSION, inputs)
    model = load(spec, classes=data.classes, normalization=normalization)
    folder = store.make(stage, lambda folder: save(model, folder / MODEL_FILE))
    return TeacherRef(str(folder), stage.id, spec.arch)


def _trained(
    workload: Workload, arch: str, reference: DataRef, data: Dataset, store: StageStore, say: Say
) -> TeacherRef:
    recipe: TrainConfig = workload.teacher_train or workload.train
    method = MethodConfig.parse({"method": "ce"})
    spec = StudentSpec(reference.fingerprint, None, arch, method, recipe, TEACHER_SEED)
    if store.find(spec.stage()) is None:
        say(f"teacher: training {arch} for {recipe.epochs} epochs (once; it is kept)")
        told = max(1, recipe.epochs // 5)

        def report(epoch: Mapping[str, float]) -> None:
            if epoch["epoch"] % told == 0:
                say(f"teacher: epoch {epoch['epoch']:.0f}/{recipe.epochs}, val {epoch['val_top1']:.2f} %")

        distill(store, spec, lambda: data, lambda: None, report)
    folder = store.path(spec.stage())
    return TeacherRef(str(folder), spec.stage().id, arch)


def evaluate_teacher(
    teacher: TeacherRef,
    reference: DataRef,
    data: Dataset,
    calibration_images: int,
    store: StageStore,
    say: Say,
) -> tuple[float, float]:
    """The teacher's validation and test accuracy in percent. Raises UserError for one that only guesses."""
    float_point = PointSpec(teacher.id, reference.fingerprint, FLOAT_BITS, QUANTIZER, calibration_images, TEACHER_SEED)
    ((_, folder),) = measure(store, [float_point], lambda: load_teacher(teacher, data), lambda: data)
    measurement = measured(folder)
    val, test = float(measurement["val_top1"]), float(measurement["test_top1"])
    say(f"teacher: {teacher.arch}, val {val:.2f} %, test {test:.2f} %")
    if val < CHANCE_FACTOR * 100 / data.classes:
        raise UserError(
            f"the teacher reaches {val:.2f} % on {data.name}, where guessing gives {100 / data.classes:.2f} %: "
            f"its weights, its label order or its normalisation are not for this data set; "
            f"try --set teacher_normalization=imagenet (or dataset), or another --teacher"
        )
    return val, test


def make_trials(plan: Plan, data: DataRef, teacher: TeacherRef | None, store: StageStore) -> dict[str, Trial]:
    """Every trial of the plan by its id."""
    trials = [
        Trial(
            data=data,
            teacher=teacher,
            method=configuration.method,
            parameters=configuration.parameters,
            student=plan.workload.student,
            train=asdict(plan.workload.train),
            seed=seed,
            bits=plan.space.bits,
            calibration_images=plan.workload.calibration_images,
            store=str(store.root),
        )
        for configuration, seed in plan.runs
    ]
    return {trial.id: trial for trial in trials}
