"""Estimates how long a study takes, from its own models measured on this machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from kdq.data.source import Shape
from kdq.distill.methods import METHODS
from kdq.distill.recipe import autocast
from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.resnets import ARCHITECTURES
from kdq.models.sources import is_sourced, split_weights
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize_many
from study.plan.plan import Plan
from study.results.objective import OBJECTIVES, TOP1
from study.results.point import TEACHER
from study.space.configuration import Configuration
from study.space.workload import Workload
from study.units import duration

PROBE_SECONDS = 1.0  # for which each kind of work is repeated, about
PROBE_IMAGES = 32  # per batch
LARGE = 2_000_000  # parameters of a model that takes more than seconds to quantize


def describe(name: str, plan: Plan, slots: int) -> str:
    """Return the plan as text: trials, distinct students, points, and an estimate of the time."""
    about = "about " if plan.is_adaptive else ""
    counts = f"{plan.trial_count} trials, {about}{plan.students} distinct students, {about}{plan.points} points"
    lines = [f"study {name}: {counts}"]
    lines += [f"  {configuration.name} seed={seed}" for configuration, seed in plan.runs]
    lines += (
        [f"  searcher {plan.space.searcher} suggests configurations from the results so far"]
        if plan.is_adaptive
        else []
    )
    decides = OBJECTIVES[plan.space.objective]
    lines += [f"  validation {decides.title} decides"] if decides.name != TOP1 else []
    return "\n".join([*lines, _bits(plan), estimate(plan, slots)])


def _bits(plan: Plan) -> str:
    names = ["float" if bits == 32 else str(bits) for bits in plan.widths]
    if len(plan.space.bits) == 1:
        return f"every trial has {len(names)} points: {', '.join(names)} bits"
    choices = " | ".join(map(_joined, plan.space.bits))
    return f"bits are searched: every trial has a point at float, and those at one of {choices}"


def _joined(widths: Sequence[int]) -> str:
    return ",".join(map(str, widths))


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one core of this machine. epoch: of a student without its teacher; teaching: of the teacher, for all
    trials together; share: of that, for each trial that it teaches; evaluation: of a point's accuracies; quantization:
    of a quantized point; note: what is missing."""

    epoch: float
    teaching: float
    share: float
    evaluation: float
    quantization: float
    note: str

    def training(self, plan: Plan, method: str) -> float:
        """Return the seconds to train a student, with its share of the teacher's time."""
        if method == TEACHER:
            return 0.0
        known = METHODS[method]
        share = self.share if known.needs_teacher else 0.0
        return self.epoch * (1 + known.needs_peer) * plan.workload.train.epochs + share

    def points(self, count: float) -> float:
        """Return the seconds to quantize and evaluate this many points, of which one is float."""
        return count * self.evaluation + (count - 1) * self.quantization


def measure(plan: Plan, seconds: float) -> Costs:
    """Return what the work of the plan costs, from its own models and random images; each kind is tried for `seconds`.

    Raises UserError if the data set has too few images.
    """
    torch.set_num_threads(1)
    workload = plan.workload
    shape, train, val = plan.shape, plan.train_images, plan.val_images
    if train < 1 or (max(train - shape.train, val - shape.val) if shape.val else train + val - shape.train) > 0:
        most = f"at most {shape.train} and {shape.val}" if shape.val else f"their sum at most {shape.train}"
        raise UserError(
            f"{train} training and {val} validation images: each must be at least 1, and {most}, the size of "
            f"{workload.dataset}"
        )
    teacher = model(teacher_arch(workload), shape)
    student = model(workload.student, shape) if plan.needs_distilling else teacher
    precision = workload.train.precision
    images = torch.rand(PROBE_IMAGES, shape.channels, shape.size, shape.size)
    forward = _rate(lambda: _forward(student, images), seconds)
    epoch = teaching = 0.0
    if plan.needs_distilling:
        epoch = train / _rate(lambda: _step(student, images, precision), seconds) + val / forward
    if streams := views(plan) + sum(map(compares_features, _taught(plan))) * len(plan.seeds):
        rate = _rate(lambda: _forward(teacher, images, precision), seconds)
        teaching = workload.train.epochs * streams * train / rate
    share = teaching / max(1, len(_taught(plan)) * len(plan.seeds))
    evaluation = (val + shape.test) / forward
    return Costs(epoch, teaching, share, evaluation, *_quantization(student, images))


def estimate(plan: Plan, slots: int) -> str:
    """Return an estimate of the wall time with `slots` trials at a time, from work measured now.

    Raises UserError if the data set has too few images.
    """
    costs = measure(plan, PROBE_SECONDS)
    epoch = costs.epoch * _students_at_once(plan) if plan.needs_distilling else 0.0
    trials = len(plan.expected) * len(plan.seeds)
    points = costs.points(plan.points / trials)
    one = epoch * plan.workload.train.epochs * plan.students / trials + points
    whole = one * -(-plan.trial_count // slots) + costs.teaching / slots
    return (
        f"estimate: about {duration(one)} a trial, {duration(whole)} in all with {slots} at a time: "
        f"{duration(epoch)} an epoch, {duration(points)} for the points{costs.note}, {duration(costs.teaching)} for "
        f"the teacher (measured now on the CPU, one thread, {plan.workload.train.precision} training, random images)"
    )


def _quantization(model: Classifier, images: Tensor) -> tuple[float, str]:
    """Return the seconds to quantize the model at one width, and a remark for the estimate."""
    if sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        return 0.0, ", without quantization (which takes too long to measure for a model of this size)"
    started = time.perf_counter()
    quantize_many(model, (images * 255).byte(), [QuantizeConfig(bits=4)])
    return time.perf_counter() - started, ""


def _students_at_once(plan: Plan) -> float:
    """Return the mean over the configurations that distill: 2 with a method whose students teach each other, else 1."""
    return fmean(1 + METHODS[c.method].needs_peer for c in plan.expected if c.method in METHODS)


def views(plan: Plan) -> int:
    """Return the number of streams of cached logits, one for all trials with the same seed and mixup."""
    cached = [c for c in _taught(plan) if not compares_features(c)]
    return len({c.parameters["mixup_alpha"] for c in cached}) * len(plan.seeds)


def compares_features(configuration: Configuration) -> bool:
    """Return whether the teacher runs for this student alone."""
    return METHODS[configuration.method].feature_loss is not None


def _taught(plan: Plan) -> list[Configuration]:
    """Return the configurations whose students learn from the teacher."""
    return [c for c in plan.expected if c.method in METHODS and METHODS[c.method].needs_teacher]


def teacher_arch(workload: Workload) -> str:
    """Return the architecture that a teacher's specification names; ResNet-50 for a repository without one."""
    named = workload.teacher.removeprefix("train:")
    if is_sourced(named) and not workload.teacher.startswith("transformers:"):
        return split_weights(named)[0]
    words = workload.teacher.replace("train:", "").replace("_", ":").replace("/", ":").split(":")
    return next((word for word in words if word in ARCHITECTURES), "resnet50")


def model(arch: str, shape: Shape) -> Classifier:
    """Return a new model for images of this shape."""
    normalization = Normalization((0.5,) * shape.channels, (0.5,) * shape.channels)
    model = build(arch, classes=shape.classes, normalization=normalization, seed=0)
    return model.to(memory_format=torch.channels_last)


@torch.inference_mode()
def _forward(model: Classifier, images: Tensor, precision: str = "float32") -> None:
    with autocast(images.device, precision):
        model.eval()(images)


def _step(model: Classifier, images: Tensor, precision: str) -> None:
    with autocast(images.device, precision):
        logits = model.train()(images)
    logits.float().square().mean().backward()


def _rate(work: Callable[[], None], seconds: float) -> float:
    """Return the images per second of `work`, which handles PROBE_IMAGES; its first call is not timed."""
    work()
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or times == 0:
        work()
        times += 1
    return PROBE_IMAGES * times / (time.perf_counter() - started)
