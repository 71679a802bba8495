"""An upper bound of a study's disk space, computed from its plan before it starts."""

from collections.abc import Sequence

from kdq.bits import FLOAT_BITS
from kdq.data.source import Shape
from kdq.distill.methods import METHODS
from kdq.distill.teacher_logits import BOUND, OVERHEAD, PART
from kdq.distill.teachers import is_trained_here
from kdq.models.classifier import Classifier
from study.plan.estimate_time import model, teacher_arch, views
from study.plan.plan import Plan
from study.results.point import TEACHER
from study.units import size

# Overhead in bytes, each rounded up from a measurement.
TENSOR = 512  # a tensor in a file
STAGE = 4096  # a stage's description and measurement
HEADER = 64  # what is kept of the header of an image of the user's own
LAYER = 512  # a layer in `layers.json`
IMAGE, CLASS = 5, 80  # an image that a point was evaluated on; a class in `metrics.json`
PROBE = 4096
EPOCH = 512  # an epoch in a student's history
STORE, RUN, CURVES = 4_000_000, 20_000, 5_000  # MLflow's database: empty, a run, the curves of an epoch
FRONT, ROW = 500_000, 1_000  # the front on the study's run: its figure, a point in its tables
TRIAL = 8192  # a trial in the journal and in Ray's own files
STATES = {"sgd": 1, "adam": 2, "adamw": 2}
"""The number of values that an optimizer stores per parameter."""


def describe(plan: Plan, slots: int, *, downloads: bool) -> str:
    """Return the bound and its parts as one line. downloads: the data set is downloaded, and its files are kept."""
    parts = bound(plan, slots, downloads=downloads)
    named = ", ".join(f"{name} {size(taken)}" for name, taken in parts.items() if taken)
    return f"disk: at most {size(sum(parts.values()))}: {named}"


def bound(plan: Plan, slots: int, *, downloads: bool) -> dict[str, int]:
    """Return the most bytes that the study occupies in its folder at any time, by purpose.

    Failed trials keep a checkpoint until they are retried, and count as running; teachers whose architecture is
    unknown before they are read count as a ResNet-50.
    """
    workload, shape = plan.workload, plan.shape
    teacher = model(teacher_arch(workload), shape) if plan.needs_teacher else None
    student = model(workload.student, shape) if plan.needs_distilling else None
    students = plan.trial_count if plan.is_adaptive else plan.students
    parts = {"data": _data(shape) * (3 if downloads else 1) + (_survey(shape) if plan.own_shape else 0)}
    if teacher:
        parts["teacher"] = _given(teacher, plan, workload.teacher)
        parts["its logits"] = _logits(plan, shape, slots)
    if student:
        parts["students"] = students * _student(student, plan)
        parts["peer"] = _given(student, plan, workload.peer_init or "") if plan.needs_peer else 0
        parts["checkpoints"] = live(plan, slots) * checkpoint(student, plan)
        parts["probes"] = students * _probed(plan) * PROBE
    quantized = [one for one in (student, teacher if TEACHER in plan.methods else None) if one]
    each = max(_points(one, widths, _evaluation(plan)) for one in quantized for widths in plan.space.bits)
    return parts | {"points, as stages and in MLflow": plan.trial_count * each, "MLflow and journal": _records(plan)}


def weights(network: Classifier) -> int:
    """Return the bytes of a model's state."""
    return sum(value.numel() * value.element_size() + TENSOR for value in network.state_dict().values())


def checkpoint(student: Classifier, plan: Plan) -> int:
    """Return the bytes of a checkpoint: weights, their average and optimizer state, of two students with a peer."""
    train = plan.workload.train
    taught = [METHODS[method] for method in plan.methods - {TEACHER}]
    copies = 1 + (train.ema > 0) + STATES[train.optimizer]
    return (1 + any(one.needs_peer for one in taught)) * copies * weights(student) + EPOCH * train.epochs + STAGE


def live(plan: Plan, slots: int) -> int:
    """Return the most checkpoints at a time.

    A slot has two while one replaces the other, and that of a trial just stopped. Where all trials of a rung wait for
    each other, each has one more; where the seeds of a configuration do, those of the configurations in the slots.
    """
    if plan.space.scheduler.kind.promotion == "synchronous":
        return 3 * slots + plan.trial_count
    return 3 * slots + (slots * len(plan.seeds) if plan.space.scheduler.by == "configuration" else 0)


def _data(shape: Shape) -> int:
    return (shape.train + shape.val + shape.test) * (shape.channels * shape.size**2 + 8) + STAGE


def _survey(shape: Shape) -> int:
    return (shape.train + shape.val + shape.test) * HEADER + 3 * STAGE


def _given(network: Classifier, plan: Plan, spec: str) -> int:
    """Return the bytes of a teacher or of peer weights; those that are trained here also have checkpoints."""
    trained = plan.workload.teacher_recipe.epochs * EPOCH
    return 2 * STAGE + weights(network) + (6 * weights(network) + 2 * trained if is_trained_here(spec) else 0)


def _logits(plan: Plan, shape: Shape, slots: int) -> int:
    train = plan.train_images
    epoch = train * shape.classes * 2 + -(-train // PART) * OVERHEAD
    streams = plan.trial_count if plan.is_adaptive else views(plan)
    return min(streams * plan.workload.train.epochs * epoch, BOUND + slots * epoch)


def _student(network: Classifier, plan: Plan) -> int:
    """Return the bytes of a finished student, with its last checkpoint if a longer training can resume from it."""
    train = plan.workload.train
    kept = 0 if train.looks_ahead else checkpoint(network, plan)
    return weights(network) + EPOCH * train.epochs + STAGE + kept


def _probed(plan: Plan) -> int:
    """Return the most epochs after which a student is probed."""
    return plan.workload.train.epochs if plan.space.scheduler.kind.needs_epochs else 0


def _points(network: Classifier, widths: Sequence[int], evaluation: int) -> int:
    """Return the bytes of a trial's points: packed file, layers and metrics, in the stage and again in MLflow."""
    return sum(2 * packed(network, bits) + evaluation + STAGE for bits in {FLOAT_BITS, *widths})


def _evaluation(plan: Plan) -> int:
    """Return the bytes of what a model predicts: each image's class, whether it is correct, accuracies by class."""
    shape = plan.shape
    return (plan.val_images + shape.test) * IMAGE + 2 * shape.classes * CLASS


def packed(network: Classifier, bits: int) -> int:
    """Return the bytes of the packed model and its layers.

    Some alphabets take one bit more per code; each channel has a scale and a bias.
    """
    tensors = list(network.parameters())
    layers = [tensor for tensor in tensors if tensor.ndim > 1]
    codes = sum(tensor.numel() * min(bits + 1, FLOAT_BITS) // 8 + 1 for tensor in layers)
    rest = sum(4 * tensor.numel() for tensor in tensors if tensor.ndim <= 1) + sum(8 * len(layer) for layer in layers)
    return codes + rest + len(layers) * (5 * TENSOR + LAYER)


def _records(plan: Plan) -> int:
    runs = 1 + plan.trial_count * (1 + len(plan.widths))
    points = plan.trial_count * len(plan.widths)
    curves = plan.trial_count * plan.workload.train.epochs * CURVES
    return STORE + runs * RUN + curves + FRONT + points * ROW + plan.trial_count * TRIAL
