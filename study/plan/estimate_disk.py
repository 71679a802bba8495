"""What a study takes on the disk, at most: reckoned from its plan before it starts."""

from collections.abc import Sequence

from kdq.bits import FLOAT_BITS
from kdq.data.sources import DATASETS, Shape
from kdq.distill.methods import METHODS
from kdq.distill.teacher_logits import BOUND, OVERHEAD, PART
from kdq.models.classifier import Classifier
from study.plan.estimate_time import model, teacher_arch, views
from study.plan.plan import Plan
from study.space.declaration import TEACHER
from study.units import size

# Bytes beside the numbers themselves, each rounded up from what was measured.
TENSOR = 512  # of a tensor in a file
STAGE = 4096  # of a stage's description and measurement
LAYER = 512  # of a layer in `layers.json`
PROBE = 4096
EPOCH = 512  # of an epoch in a student's history
STORE, RUN, CURVES = 4_000_000, 20_000, 5_000  # of MLflow's database: empty, for a run, for the curves of an epoch
FRONT, ROW = 500_000, 1_000  # of the front on the study's run: its figure, and a point in its tables
TRIAL = 8192  # of the journal and of Ray's own notes
STATES = {"sgd": 1, "adam": 2, "adamw": 2}
"""How many numbers an optimizer keeps for each parameter."""


def describe(plan: Plan, slots: int, *, downloads: bool) -> str:
    """The bound as a line with its parts. downloads: the data set has to be fetched, and is kept as it came."""
    parts = bound(plan, slots, downloads=downloads)
    named = ", ".join(f"{name} {size(taken)}" for name, taken in parts.items() if taken)
    return f"disk: at most {size(sum(parts.values()))}: {named}"


def bound(plan: Plan, slots: int, *, downloads: bool) -> dict[str, int]:
    """Bytes that the study adds to its folder at most at any moment, by what they are for.

    Trials that fail keep a checkpoint until they are tried again, which counts as if they still ran; teachers of
    an architecture that is not known before they are read count as a ResNet-50.
    """
    workload, shape = plan.workload, DATASETS[plan.workload.dataset].shape
    teacher = model(teacher_arch(workload), shape) if plan.needs_teacher else None
    student = model(workload.student, shape) if plan.needs_distilling else None
    students = plan.trial_count if plan.is_adaptive else plan.students
    parts = {"data": _data(shape) * (3 if downloads else 1)}
    if teacher:
        parts["teacher"] = _given(teacher, plan, workload.teacher)
        parts["its logits"] = _logits(plan, shape, slots)
    if student:
        parts["students"] = students * _student(student, plan)
        parts["peer"] = _given(student, plan, workload.peer_init or "") if plan.needs_peer else 0
        parts["checkpoints"] = live(plan, slots) * checkpoint(student, plan)
        parts["probes"] = students * _probed(plan) * PROBE
    quantized = [one for one in (student, teacher if TEACHER in plan.methods else None) if one]
    each = max(_points(one, widths) for one in quantized for widths in plan.space.bits)
    return parts | {"points, as stages and in MLflow": plan.trial_count * each, "MLflow and journal": _noted(plan)}


def weights(network: Classifier) -> int:
    """Bytes of a model's state."""
    return sum(value.numel() * value.element_size() + TENSOR for value in network.state_dict().values())


def checkpoint(student: Classifier, plan: Plan) -> int:
    """Bytes of what training goes on from: weights, their average and the optimizer's, of two students at most."""
    train = plan.workload.train
    taught = [METHODS[method] for method in plan.methods - {TEACHER}]
    copies = 1 + (train.ema > 0) + STATES[train.optimizer]
    return (1 + any(one.needs_peer for one in taught)) * copies * weights(student) + EPOCH * train.epochs + STAGE


def live(plan: Plan, slots: int) -> int:
    """Checkpoints at a time: two in a slot when one takes the other's place, and that of a trial just stopped.

    Where all trials of a rung wait for each other, each has one.
    """
    return 3 * slots + (plan.trial_count if plan.space.scheduler.kind.promotion == "synchronous" else 0)


def _data(shape: Shape) -> int:
    return (shape.train + shape.test) * (shape.channels * shape.size**2 + 8) + STAGE


def _given(network: Classifier, plan: Plan, spec: str) -> int:
    """A teacher, or what peers start from; one that is trained here has checkpoints on the way."""
    trained = (plan.workload.teacher_train or plan.workload.train).epochs * EPOCH
    return 2 * STAGE + weights(network) + (6 * weights(network) + 2 * trained if spec.startswith("train:") else 0)


def _logits(plan: Plan, shape: Shape, slots: int) -> int:
    train = plan.workload.train_images or shape.train - plan.workload.val_images
    epoch = train * shape.classes * 2 + -(-train // PART) * OVERHEAD
    streams = plan.trial_count if plan.is_adaptive else views(plan)
    return min(streams * plan.workload.train.epochs * epoch, BOUND + slots * epoch)


def _student(network: Classifier, plan: Plan) -> int:
    """A finished student, and its last checkpoint if a longer training may go on from it."""
    train = plan.workload.train
    kept = 0 if train.looks_ahead else checkpoint(network, plan)
    return weights(network) + EPOCH * train.epochs + STAGE + kept


def _probed(plan: Plan) -> int:
    """At most after how many epochs a student is measured."""
    return plan.workload.train.epochs if plan.space.scheduler.kind.needs_epochs else 0


def _points(network: Classifier, widths: Sequence[int]) -> int:
    """Bytes of a trial's points: each packed file and its layers lie in the stage and in MLflow."""
    return sum(2 * packed(network, bits) + STAGE for bits in {FLOAT_BITS, *widths})


def packed(network: Classifier, bits: int) -> int:
    """Bytes of the packed model and its layers: codes of one bit more in some alphabets, scale and bias a channel."""
    tensors = list(network.parameters())
    layers = [tensor for tensor in tensors if tensor.ndim > 1]
    codes = sum(tensor.numel() * min(bits + 1, FLOAT_BITS) // 8 + 1 for tensor in layers)
    rest = sum(4 * tensor.numel() for tensor in tensors if tensor.ndim <= 1) + sum(8 * len(layer) for layer in layers)
    return codes + rest + len(layers) * (5 * TENSOR + LAYER)


def _noted(plan: Plan) -> int:
    runs = 1 + plan.trial_count * (1 + len(plan.widths))
    points = plan.trial_count * len(plan.widths)
    curves = plan.trial_count * plan.workload.train.epochs * CURVES
    return STORE + runs * RUN + curves + FRONT + points * ROW + plan.trial_count * TRIAL
