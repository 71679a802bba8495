"""What every trial of a study shares, made before the first one starts: the data and the teacher, as stages."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from kdq.data.audit import remarks
from kdq.data.dataset import Dataset, open_dataset
from kdq.data.sources import load_source
from kdq.distill.methods import MethodConfig
from kdq.distill.peers import parse_peer, peer_seed, warm_start
from kdq.distill.recipe import TrainConfig
from kdq.distill.teachers import Hub, TeacherSpec, Trained, Transformers, find_checkpoint, parse_spec
from kdq.errors import UserError
from kdq.models.checkpoint import IMAGENET, Checkpoint, load, read_state, save, save_state, saved_normalization
from kdq.models.classifier import Normalization
from kdq.models.evaluate import top1
from kdq.models.huggingface import labels, load_pretrained, unnamed
from kdq.models.resnets import ARCHITECTURES
from kdq.pipeline.student import MODEL_FILE, StudentSpec, distill
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage
from study.plan.plan import Plan
from study.space.declaration import TEACHER
from study.space.workload import Workload
from study.trial.worker import DataRef, Inputs, ModelRef, load_teacher

TEACHER_VERSION = 1
TEACHER_SEED = 0
WEIGHTS_VERSION = 1
ACCURACY_VERSION = 1
ACCURACY_FILE = "accuracy.json"
CHANCE_FACTOR = 1.5  # a teacher below this multiple of guessing has not learnt this data set, or sees it wrongly
Say = Callable[[str], None]


def prepare_data(workload: Workload, data_dir: Path | None, store: StageStore, say: Say) -> tuple[DataRef, Dataset]:
    """The data set as a stage, decoded if it is not there yet, and opened."""
    say(f"data: {workload.dataset} (the first time, its images are decoded)")
    folder = store.path(load_source(workload.dataset, data_dir, store))
    data = open_dataset(folder, train_images=workload.train_images, val_images=workload.val_images)
    counts = [len(labels) for labels in (data.train_labels, data.val_labels, data.test_labels)]
    say("data: {:,} training, {:,} validation, {:,} test images".format(*counts))
    for remark in remarks(data):
        say(f"data: {remark}")
    return DataRef(str(folder), data.fingerprint, counts[0], counts[1]), data


def teacher_spec(workload: Workload, data_dir: Path | None) -> TeacherSpec:
    """The teacher of a workload. A bare architecture is a published checkpoint under `data_dir`/checkpoints."""
    text = workload.teacher
    if text not in ARCHITECTURES:
        spec = parse_spec(text)
        if isinstance(spec, Checkpoint | Transformers):
            spec.identity()  # what is missing is said before the data is decoded
        return spec
    if data_dir is None:
        raise UserError(
            f"teacher {text!r}: its checkpoint is looked for as {text}*.th under --data-dir DIR/checkpoints, and no "
            f"--data-dir is given; give it, or --teacher {text}:PATH, or --teacher train:{text}"
        )
    return Checkpoint(text, find_checkpoint(data_dir, f"{text}[-_.]*"))


def prepare_models(
    plan: Plan, teacher: TeacherSpec | None, reference: DataRef, data: Dataset, store: StageStore, say: Say
) -> tuple[Inputs, dict[str, float]]:
    """What the trials of a plan share, and the teacher's accuracies as metrics of the study."""
    metrics: dict[str, float] = {}
    taught = prepare_teacher(plan.workload, teacher, reference, data, store, say) if teacher else None
    if taught:
        val, test = evaluate_teacher(taught, reference, data, store, say)
        metrics = {"teacher_val_top1": val, "teacher_test_top1": test}
    peer = prepare_peer(plan.workload, reference, data, store, say) if plan.needs_peer else None
    return Inputs(str(store.root), reference, taught, peer), metrics


def prepare_teacher(
    workload: Workload, spec: TeacherSpec, reference: DataRef, data: Dataset, store: StageStore, say: Say
) -> ModelRef:
    """The teacher as a stage: its file read and checked, or trained here."""
    if isinstance(spec, Trained):
        recipe = workload.teacher_train or workload.train
        return _train("teacher", spec.arch or workload.student, recipe, TEACHER_SEED, reference, data, store, say)
    if isinstance(spec, Transformers):
        return _pretrained(spec, data, store, say)
    normalization = _assumed(workload, data)
    if isinstance(spec, Hub):
        spec = spec.fetch()
    inputs = {**spec.identity(), "normalization": asdict(normalization), "classes": data.classes}
    stage = Stage("teacher", TEACHER_VERSION, inputs)
    model = load(spec, classes=data.classes, normalization=normalization)
    folder = store.make(stage, lambda folder: save(model, folder / MODEL_FILE))
    return ModelRef(str(folder), stage.id, spec.arch)


def _pretrained(spec: Transformers, data: Dataset, store: StageStore, say: Say) -> ModelRef:
    """A teacher of the transformers library: checked against the data, then its files kept as they are."""
    source = spec.fetch()
    model = load_pretrained(source, data.class_names, data.train_images.shape[1])
    if unnamed(labels(source)):
        say(f"teacher: its {data.classes} labels have no names; they are taken to be in the data set's order")

    def copy(folder: Path) -> None:
        for file in spec.files():
            shutil.copyfile(file, folder / file.name)

    stage = Stage("teacher", TEACHER_VERSION, {**spec.identity(), "class_names": data.class_names})
    return ModelRef(str(store.make(stage, copy)), stage.id, model.arch, pretrained=True)


def prepare_peer(workload: Workload, reference: DataRef, data: Dataset, store: StageStore, say: Say) -> ModelRef:
    """The weights that second students start from, as a stage: read and checked, or trained here."""
    assert workload.peer_init is not None
    spec = parse_peer(workload.peer_init, workload.student)
    if isinstance(spec, Trained):
        recipe, seed = workload.train, peer_seed(TEACHER_SEED)
        return _train("peer", workload.student, recipe, seed, reference, data, store, say)
    source = spec if isinstance(spec, Checkpoint) else spec.fetch()
    warm_start(source, workload.student, data, TEACHER_SEED)  # what does not fit is said before the study starts
    normalization = source.normalization or saved_normalization(source.path) or _assumed(workload, data)
    stage = Stage("weights", WEIGHTS_VERSION, {**source.identity(), "normalization": asdict(normalization)})
    folder = store.make(stage, lambda folder: save_state(read_state(source.path), normalization, folder / MODEL_FILE))
    say(f"peer: {workload.student} starts from {workload.peer_init}")
    return ModelRef(str(folder), stage.id, workload.student)


def _assumed(workload: Workload, data: Dataset) -> Normalization:
    """What weights expect whose source does not say it."""
    return IMAGENET if workload.teacher_normalization == "imagenet" else data.normalization


def _train(
    role: str,
    arch: str,
    recipe: TrainConfig,
    seed: int,
    reference: DataRef,
    data: Dataset,
    store: StageStore,
    say: Say,
) -> ModelRef:
    """A model trained with cross-entropy, as the stage that a student of that kind is."""
    method = MethodConfig.parse({"method": "ce"})
    spec = StudentSpec(reference.fingerprint, None, arch, method, recipe, seed)
    if store.find(spec.stage()) is None:
        say(f"{role}: training {arch} for {recipe.epochs} epochs (once; it is kept)")
        told = max(1, recipe.epochs // 5)
        for epoch in distill(store, spec, lambda: data, lambda: None):
            if epoch.number % told == 0:
                say(f"{role}: epoch {epoch.number}/{recipe.epochs}, val {epoch.metrics['val_top1']:.2f} %")
    folder = store.path(spec.stage())
    return ModelRef(str(folder), spec.stage().id, arch)


def evaluate_teacher(
    teacher: ModelRef, reference: DataRef, data: Dataset, store: StageStore, say: Say
) -> tuple[float, float]:
    """The teacher's validation and test accuracy in percent. Raises UserError for one that only guesses."""

    def evaluate(folder: Path) -> None:
        model = load_teacher(teacher, data)
        val, test = top1(model, data.val_images, data.val_labels), top1(model, data.test_images, data.test_labels)
        (folder / ACCURACY_FILE).write_text(json.dumps({"val_top1": val, "test_top1": test}))

    stage = Stage("accuracy", ACCURACY_VERSION, {"model": teacher.id, "data": reference.fingerprint})
    accuracy = json.loads((store.make(stage, evaluate) / ACCURACY_FILE).read_text())
    val, test = float(accuracy["val_top1"]), float(accuracy["test_top1"])
    say(f"teacher: {teacher.arch}, val {val:.2f} %, test {test:.2f} %")
    if val < CHANCE_FACTOR * 100 / data.classes:
        raise UserError(
            f"the teacher reaches {val:.2f} % on {data.name}, where guessing gives {100 / data.classes:.2f} %: "
            f"its weights, its label order or its normalisation are not for this data set; "
            f"try --set teacher_normalization=imagenet (or dataset), or another --teacher"
        )
    return val, test


def check_quantizable(plan: Plan, spec: TeacherSpec) -> None:
    """Raise UserError if the space quantizes the teacher itself and the quantizer cannot."""
    if isinstance(spec, Transformers) and TEACHER in plan.methods:
        raise UserError(
            f"teacher 'transformers:{spec.source}': the space {plan.space_name!r} quantizes the teacher itself, and a "
            f"model of the transformers library can teach but not be quantized; use a teacher of kdq's own "
            f"architectures ({', '.join(ARCHITECTURES)}), or a space that distills"
        )
