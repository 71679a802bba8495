"""Prepares what all trials of a study share before the first one starts: data, teacher and peer, as stages."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from kdq import plugins
from kdq.data.audit import remarks
from kdq.data.dataset import Dataset, open_dataset
from kdq.data.sources import fill, find_source
from kdq.distill.features import check_shapes, choose_layers
from kdq.distill.methods import MethodConfig
from kdq.distill.peers import parse_peer, peer_seed, peer_weights
from kdq.distill.recipe import TrainConfig
from kdq.distill.teachers import Hub, TeacherSpec, Trained, Transformers, find_checkpoint, parse_spec
from kdq.errors import USER_CODE, UserError, first_line
from kdq.models.checkpoint import IMAGENET, Checkpoint, load, normalization_of, save, save_state
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.huggingface import as_network, labels, load_pretrained, unnamed
from kdq.models.images import as_float
from kdq.models.metrics import TOP
from kdq.models.resnets import ARCHITECTURES
from kdq.models.sources import is_sourced, short_name
from kdq.pipeline.accuracy import evaluate_once
from kdq.pipeline.student import MODEL_FILE, StudentSpec, distill
from kdq.quantize.model import check_supported
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage
from study.plan.plan import Plan
from study.results.point import TEACHER
from study.space.workload import Workload
from study.trial.worker import DataRef, Inputs, ModelRef, load_teacher

TEACHER_VERSION = 1
TEACHER_SEED = 0
WEIGHTS_VERSION = 1
CHANCE_FACTOR = (
    1.5  # a teacher below this multiple of chance accuracy was not trained on this data set, or sees it distorted
)
Log = Callable[[str], None]


def prepare_data(workload: Workload, data_dir: Path | None, store: StageStore, log: Log) -> tuple[DataRef, Dataset]:
    """Return the data set as a stage, decoded if missing, and opened."""
    log(f"data: {workload.dataset} (decoding its images the first time)")
    source, stage = find_source(workload.data, data_dir, store)
    for line in source.found:
        log(f"data: {line}")
    folder = fill(source, stage, store)
    data = open_dataset(folder, train_images=workload.train_images, val_images=workload.val_images)
    workload.check_size(min(data.train_images.shape[2:]))
    counts = [len(labels) for labels in (data.train_labels, data.val_labels, data.test_labels)]
    log("data: {:,} training, {:,} validation, {:,} test images".format(*counts))
    for remark in remarks(data):
        log(f"data: {remark}")
    return DataRef(str(folder), data.fingerprint, counts[0], counts[1]), data


def teacher_spec(workload: Workload, data_dir: Path | None) -> TeacherSpec:
    """Return a workload's teacher. An architecture by itself is a published checkpoint under `data_dir`/checkpoints."""
    text = workload.teacher
    if text not in ARCHITECTURES:
        spec = parse_spec(text)
        if isinstance(spec, Checkpoint | Transformers):
            spec.identity()  # raises for missing files before the data is decoded
        return spec
    if data_dir is None:
        raise UserError(
            f"teacher {text!r}: its checkpoint is {text}*.th in --data-dir DIR/checkpoints, but --data-dir is missing; "
            f"give it, or --teacher {text}:PATH, or --teacher train:{text}"
        )
    return Checkpoint(text, find_checkpoint(data_dir, f"{text}[-_.]*"))


def prepare_models(
    plan: Plan, teacher: TeacherSpec | None, reference: DataRef, data: Dataset, store: StageStore, log: Log
) -> tuple[Inputs, dict[str, float]]:
    """Return what the trials of a plan share, and the teacher's accuracies as metrics of the study."""
    metrics: dict[str, float] = {}
    check_objective(plan, data)
    if plan.needs_distilling:
        check_trainable("student", plan.workload.student, data, is_quantized=plan.quantizes)
    if isinstance(teacher, Trained):
        check_trained(plan, teacher, data)
    teacher_ref = prepare_teacher(plan.workload, teacher, reference, data, store, log) if teacher else None
    if teacher_ref:
        check_quantizable(plan, teacher_ref, data)
        if plan.compares_features:
            check_layers(plan, load_teacher(teacher_ref, data), data)
        val, test = evaluate_teacher(
            teacher_ref, reference, data, store, log, is_trained_here=isinstance(teacher, Trained)
        )
        metrics = {"teacher_val_top1": val, "teacher_test_top1": test}
    peer = prepare_peer(plan.workload, reference, data, store, log) if plan.needs_peer else None
    return Inputs(str(store.root), reference, teacher_ref, peer, plugins.loaded()), metrics


def prepare_teacher(
    workload: Workload, spec: TeacherSpec, reference: DataRef, data: Dataset, store: StageStore, log: Log
) -> ModelRef:
    """Return the teacher as a stage: a checkpoint read and checked, or trained here."""
    if isinstance(spec, Trained):
        arch, recipe = spec.arch or workload.student, workload.teacher_recipe
        return _train("teacher", arch, recipe, TEACHER_SEED, reference, data, store, log)
    if isinstance(spec, Transformers):
        return _pretrained(spec, data, store, log)
    normalization = _assumed(workload, data)
    if isinstance(spec, Hub):
        spec = spec.fetch()
    own = plugins.identity(("architecture", spec.arch))
    inputs = {**spec.identity(), "normalization": asdict(normalization), "classes": data.classes, **own}
    stage = Stage("teacher", TEACHER_VERSION, inputs)
    model = load(spec, classes=data.classes, normalization=normalization)
    folder = store.make(stage, lambda folder: save(model, folder / MODEL_FILE))
    return ModelRef(str(folder), stage.id, spec.arch)


def _pretrained(spec: Transformers, data: Dataset, store: StageStore, log: Log) -> ModelRef:
    """Return a teacher of the transformers library as a stage: checked against the data.

    It is a network like others if it takes the data's images as they are; else its files are copied unchanged.
    """
    source = spec.fetch()
    channels, height, width = data.train_images.shape[1:]
    model = load_pretrained(source, data.class_names, channels, (height, width))
    if unnamed(labels(source)):
        log(f"teacher: its {data.classes} labels have no names; assuming the order of the data set")

    def copy(folder: Path) -> None:
        for file in spec.files():
            shutil.copyfile(file, folder / file.name)

    inputs = {**spec.identity(), "class_names": data.class_names}
    if network := as_network(model, source, (height, width)):
        stage = Stage("teacher", TEACHER_VERSION, {**inputs, "arch": network.arch})
        own = store.make(stage, lambda folder: save(network, folder / MODEL_FILE))
        return ModelRef(str(own), stage.id, network.arch)
    stage = Stage("teacher", TEACHER_VERSION, inputs)
    return ModelRef(str(store.make(stage, copy)), stage.id, model.arch, pretrained=True)


def check_objective(plan: Plan, data: Dataset) -> None:
    """Raise UserError if the data have too few classes for the metric that decides."""
    if plan.space.objective == "top5" and data.classes <= TOP:
        raise UserError(
            f"objective: 'top5' needs more than {TOP} classes, and {plan.workload.dataset} has {data.classes}; use top1"
        )


def check_trainable(role: str, arch: str, data: Dataset, *, is_quantized: bool) -> None:
    """Raise UserError unless a network of a library, a plugin or a user's file gives logits for the data's images,
    which depend on its parameters, and can be quantized if it will be.

    role: what it is trained as, student or teacher.
    """
    if not is_sourced(arch) and not plugins.used([("architecture", arch)]):
        return  # one of ours
    student = build(arch, classes=data.classes, normalization=data.normalization, seed=0)
    sample = data.train_images[:2].cpu()
    shape = "x".join(map(str, sample.shape[1:]))
    try:
        with torch.random.fork_rng(devices=[]):
            found = student.train()(as_float(sample))
    except USER_CODE as error:  # images that are too small for it, and whatever a user's code raises
        raise UserError(
            f"{role} {arch!r} cannot process images of {shape} ({first_line(error)}); adapt it by an option, such as "
            "stem=small or image_size=32, or choose another"
        ) from error
    if not isinstance(found, Tensor) or found.shape != (len(sample), data.classes):
        what = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise UserError(
            f"{role} {arch!r} returns {what} in training for {len(sample)} images of {shape}; must be logits "
            f"[{len(sample)}, {data.classes}]"
        )
    if not found.requires_grad:
        raise UserError(f"{role} {arch!r} has nothing to train: its logits depend on no parameter that requires_grad")
    if not found.isfinite().all():
        raise UserError(f"{role} {arch!r} gives NaN or infinite logits for images of {shape} before it is trained")
    if is_quantized:
        _check_supported(role, student.eval(), sample)


def _check_supported(role: str, model: Classifier, images: Tensor) -> None:
    try:
        check_supported(model, images)
    except UserError as error:
        raise UserError(f"{role} {model.arch!r} cannot be quantized: {error}") from error


def prepare_peer(workload: Workload, reference: DataRef, data: Dataset, store: StageStore, log: Log) -> ModelRef:
    """Return the initial weights of second students as a stage: read and checked, or trained here."""
    assert workload.peer_init is not None
    spec = parse_peer(workload.peer_init, workload.student)
    if isinstance(spec, Trained):
        recipe, seed = workload.train, peer_seed(TEACHER_SEED)
        return _train("peer", workload.student, recipe, seed, reference, data, store, log)
    source = spec if isinstance(spec, Checkpoint) else spec.fetch()
    normalization = normalization_of(source, _assumed(workload, data))
    weights = peer_weights(source, workload.student, data.classes, normalization)
    own = plugins.identity(("architecture", workload.student))
    stage = Stage("weights", WEIGHTS_VERSION, {**source.identity(), "normalization": asdict(normalization), **own})
    folder = store.make(stage, lambda folder: save_state(weights, normalization, folder / MODEL_FILE))
    log(f"peer: {workload.student} starts from {workload.peer_init}")
    return ModelRef(str(folder), stage.id, workload.student)


def _assumed(workload: Workload, data: Dataset) -> Normalization:
    """Return the normalisation of weights whose source declares none."""
    if workload.teacher_normalization != "imagenet":
        return data.normalization
    if (channels := len(data.normalization.mean)) != len(IMAGENET.mean):
        raise UserError(
            f"teacher_normalization = 'imagenet': is for images of {len(IMAGENET.mean)} channels, the data set "
            f"{data.name!r} has {channels}; use --set teacher_normalization=dataset"
        )
    return IMAGENET


def _train(
    role: str,
    arch: str,
    recipe: TrainConfig,
    seed: int,
    reference: DataRef,
    data: Dataset,
    store: StageStore,
    log: Log,
) -> ModelRef:
    """Train a model with cross-entropy, as the student stage that it is, and return it."""
    method = MethodConfig.parse({"method": "ce"})
    spec = StudentSpec(reference.fingerprint, None, arch, method, recipe, seed)
    if store.find(spec.stage()) is None:
        log(f"{role}: training {arch} for {recipe.epochs} epochs (once; later runs reuse it)")
        interval = max(1, recipe.epochs // 5)
        for epoch in distill(store, spec, lambda: data, lambda: None):
            if epoch.number % interval == 0:
                log(f"{role}: epoch {epoch.number}/{recipe.epochs}, val {epoch.metrics['val_top1']:.2f} %")
    folder = store.path(spec.stage())
    return ModelRef(str(folder), spec.stage().id, arch)


def evaluate_teacher(
    teacher: ModelRef, reference: DataRef, data: Dataset, store: StageStore, log: Log, *, is_trained_here: bool = False
) -> tuple[float, float]:
    """Return the teacher's validation and test accuracy in percent; raise UserError if it is close to chance."""
    fingerprint = reference.fingerprint
    found = evaluate_once(store, teacher.id, fingerprint, lambda: load_teacher(teacher, data), data).accuracies()
    val, test = found["val_top1"], found["test_top1"]
    log(f"teacher: {short_name(teacher.arch)}, val {val:.2f} %, test {test:.2f} %")
    if val < CHANCE_FACTOR * 100 / data.classes:
        trained = "it has not learned this data set; train it longer (teacher_train.epochs), or give another --teacher"
        given = (
            "its weights, label order or normalisation do not match this data set; "
            "try --set teacher_normalization=imagenet (or dataset), or another --teacher"
        )
        raise UserError(
            f"the teacher reaches {val:.2f} % on {data.name}, where guessing gives {100 / data.classes:.2f} %: "
            f"{trained if is_trained_here else given}"
        )
    return val, test


def check_trained(plan: Plan, spec: Trained, data: Dataset) -> None:
    """Raise UserError, before it is trained, if a teacher that is trained here does not suit the data or the plan."""
    is_quantized = plan.quantizes and TEACHER in plan.methods
    check_trainable("teacher", spec.arch or plan.workload.student, data, is_quantized=is_quantized)
    if plan.compares_features:
        check_layers(plan, trained_teacher(plan, spec, data), data)


def trained_teacher(plan: Plan, spec: Trained, data: Dataset) -> Classifier:
    """Return the network of a teacher that is trained here, with random weights."""
    arch = spec.arch or plan.workload.student
    return build(arch, classes=data.classes, normalization=data.normalization, seed=0).to(data.train_images.device)


def check_layers(plan: Plan, teacher: Classifier, data: Dataset) -> None:
    """Raise UserError unless the layers that methods of the plan compare exist and fit each other."""
    student = build(plan.workload.student, classes=data.classes, normalization=data.normalization, seed=0)
    student.to(data.train_images.device)
    layers = choose_layers(plan.workload.layers, student, teacher)
    check_shapes(layers, student, teacher, as_float(data.train_images[:1]))


def check_quantizable(plan: Plan, teacher: ModelRef, data: Dataset) -> None:
    """Raise UserError if the space quantizes the teacher itself, but the quantizer does not support it."""
    if TEACHER not in plan.methods:
        return
    if teacher.pretrained:
        raise UserError(
            f"teacher {plan.workload.teacher!r}: the space {plan.space_name!r} quantizes the teacher itself, but a "
            "model of the transformers library that resizes the data's images, or has another head than others of its "
            "type, can only teach; give images of its own size (image_size), or use a space that distills"
        )
    if plan.quantizes:
        _check_supported("teacher", load_teacher(teacher, data), data.train_images[:2])
