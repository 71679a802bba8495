"""What a study will cost, before it starts: measured on this machine with the study's own models."""

import time
from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor

from kdq.data.sources import DATASETS, Shape
from kdq.distill.methods import METHODS
from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.resnets import ARCHITECTURES
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize_many
from study.plan.plan import Plan
from study.space.workload import Workload
from study.units import duration

PROBE_SECONDS = 1.0  # each kind of work is repeated for about this long
PROBE_IMAGES = 32  # at a time
LARGE = 2_000_000  # parameters of a model that takes more than seconds to quantize


def describe(name: str, plan: Plan, slots: int) -> str:
    """The plan in words: trials, distinct students, points, and the time that all of it will take."""
    about = "about " if plan.is_adaptive else ""
    counts = f"{plan.trial_count} trials, {about}{plan.students} distinct students, {about}{plan.points} points"
    lines = [f"study {name}: {counts}"]
    lines += [f"  {configuration.name} seed={seed}" for configuration, seed in plan.runs]
    lines += [f"  searcher {plan.space.searcher} decides as it goes"] if plan.is_adaptive else []
    return "\n".join([*lines, _bits(plan), estimate(plan, slots)])


def _bits(plan: Plan) -> str:
    names = ["float" if bits == 32 else str(bits) for bits in plan.widths]
    if len(plan.space.bits) == 1:
        return f"every trial has {len(names)} points: {', '.join(names)} bits"
    choices = " | ".join(map(_joined, plan.space.bits))
    return f"bits are searched: every trial has a point at float, and those at one of {choices}"


def _joined(widths: Sequence[int]) -> str:
    return ",".join(map(str, widths))


def estimate(plan: Plan, slots: int) -> str:
    """The wall time of the study on `slots` trials at a time, from work measured here and now."""
    torch.set_num_threads(1)
    workload = plan.workload
    shape = DATASETS[workload.dataset].shape
    train = workload.train_images or shape.train - workload.val_images
    if train < 1 or train + workload.val_images > shape.train:
        raise UserError(
            f"{train} training and {workload.val_images} validation images were asked of {shape.train}: each must be "
            f"at least 1, and their sum at most {shape.train}"
        )
    teacher = model(teacher_arch(workload), shape)
    student = model(workload.student, shape) if plan.needs_distilling else teacher
    images = torch.rand(PROBE_IMAGES, shape.channels, shape.size, shape.size)
    forward = _rate(lambda: _forward(student, images))
    epoch = 0.0
    if plan.needs_distilling:
        epoch = train / _rate(lambda: _step(student, images)) + workload.val_images / forward
        epoch *= _students_at_once(plan)
    teaching = workload.train.epochs * views(plan) * train / _rate(lambda: _forward(teacher, images))
    quantization, note = _quantization(student, images)
    trials = len(plan.expected) * len(plan.seeds)
    evaluations = plan.points / trials
    points = evaluations * (workload.val_images + shape.test) / forward + (evaluations - 1) * quantization
    one = epoch * workload.train.epochs * plan.students / trials + points
    whole = one * -(-plan.trial_count // slots) + teaching / slots
    return (
        f"estimate: about {duration(one)} a trial, {duration(whole)} in all with {slots} at a time: "
        f"{duration(epoch)} an epoch, {duration(points)} for the points{note}, {duration(teaching)} for the teacher "
        f"(measured now on the CPU, one thread, random images)"
    )


def _quantization(model: Classifier, images: Tensor) -> tuple[float, str]:
    """Seconds to quantize the model at one width, and what has to be said about it."""
    if sum(parameter.numel() for parameter in model.parameters()) > LARGE:
        return 0.0, ", quantizing left out (it takes too long to measure it for a model of this size)"
    started = time.perf_counter()
    quantize_many(model, (images * 255).byte(), [QuantizeConfig(bits=4)])
    return time.perf_counter() - started, ""


def _students_at_once(plan: Plan) -> float:
    """Mean over the configurations that distill: two under a method whose students teach each other, else one."""
    return fmean(1 + METHODS[c.method].needs_peer for c in plan.expected if c.method in METHODS)


def views(plan: Plan) -> int:
    """How many streams of views the teacher looks at, each once: trials with the same seed and mixup share one."""
    looking = [c for c in plan.expected if c.method in METHODS and METHODS[c.method].needs_teacher]
    return len({c.parameters["mixup_alpha"] for c in looking}) * len(plan.seeds)


def teacher_arch(workload: Workload) -> str:
    """The architecture that a teacher's specification names; ResNet-50 for a repository that does not."""
    words = workload.teacher.replace("train:", "").replace("_", ":").replace("/", ":").split(":")
    return next((word for word in words if word in ARCHITECTURES), "resnet50")


def model(arch: str, shape: Shape) -> Classifier:
    normalization = Normalization((0.5,) * shape.channels, (0.5,) * shape.channels)
    model = build(arch, classes=shape.classes, normalization=normalization, seed=0)
    return model.to(memory_format=torch.channels_last)


@torch.inference_mode()
def _forward(model: Classifier, images: Tensor) -> None:
    model.eval()(images)


def _step(model: Classifier, images: Tensor) -> None:
    model.train()(images).square().mean().backward()


def _rate(work: Callable[[], None]) -> float:
    """Images per second of `work`, which handles PROBE_IMAGES of them; its first call warms up."""
    work()
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < PROBE_SECONDS or times == 0:
        work()
        times += 1
    return PROBE_IMAGES * times / (time.perf_counter() - started)
