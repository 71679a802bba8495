"""What a study will cost, before it starts: measured on this machine with the study's own models."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from kdq.errors import unknown
from kdq.methods import METHODS
from kdq.models import ARCHITECTURES, Classifier, Normalization, build
from kdq.quantize import QuantizeConfig, quantize_many
from study.plan import Plan
from study.progress import duration
from study.workloads import Workload

PROBE_SECONDS = 1.0  # each kind of work is repeated for about this long


@dataclass(frozen=True, slots=True)
class Shape:
    """Images of a data set: [channels, size, size], and how many there are to train and to test on."""

    channels: int
    size: int
    classes: int
    train: int
    test: int


SHAPES = {
    "digits": Shape(1, 8, 10, 1297, 500),
    "cifar10": Shape(3, 32, 10, 50000, 10000),
    "cifar100": Shape(3, 32, 100, 50000, 10000),
}
"""What is known of a data set without reading it."""


def describe(name: str, plan: Plan, slots: int) -> str:
    """The plan in words: trials, distinct students, points, and the time that all of it will take."""
    lines = [f"study {name}: {len(plan.runs)} trials, {plan.students} distinct students, {plan.points} points"]
    lines += [f"  {configuration.name} seed={seed}" for configuration, seed in plan.runs]
    widths = ", ".join("float" if bits == 32 else str(bits) for bits in plan.widths)
    lines += [f"every trial has {len(plan.widths)} points: {widths} bits", estimate(plan, slots)]
    return "\n".join(lines)


def estimate(plan: Plan, slots: int) -> str:
    """The wall time of the study on `slots` trials at a time, from work measured here and now."""
    torch.set_num_threads(1)
    workload = plan.workload
    if workload.dataset not in SHAPES:
        raise unknown("data set", workload.dataset, SHAPES)
    shape = SHAPES[workload.dataset]
    train = workload.train_images or shape.train - workload.val_images
    teacher = _teacher_arch(workload)
    student = _model(workload.student if plan.needs_distilling else teacher, shape)
    images = torch.rand(min(workload.train.batch_size, train), shape.channels, shape.size, shape.size)
    forward = _rate(lambda: _forward(student, images), len(images))
    epoch = 0.0
    if plan.needs_distilling:
        epoch = train / _rate(lambda: _step(student, images), len(images)) + workload.val_images / forward
        epoch *= _students_at_once(plan)
    if plan.needs_distilling and plan.needs_teacher:
        model = _model(teacher, shape)
        epoch += train / _rate(lambda: _forward(model, images), len(images))
    evaluation = (workload.val_images + shape.test) / forward
    started = time.perf_counter()
    quantize_many(student, (images * 255).byte(), [QuantizeConfig(bits=4)])
    quantization = time.perf_counter() - started
    one = epoch * workload.train.epochs * (plan.students / len(plan.runs))
    one += len(plan.widths) * evaluation + (len(plan.widths) - 1) * quantization
    whole = one * -(-len(plan.runs) // slots)
    return (
        f"estimate: about {duration(one)} a trial, {duration(whole)} in all with {slots} at a time "
        f"({forward:,.0f} images/s evaluated, {duration(epoch)} an epoch; measured with random images on one thread)"
    )


def _students_at_once(plan: Plan) -> float:
    """Mean over the configurations that distill: two under a method whose students teach each other, else one."""
    return fmean(1 + METHODS[c.method].needs_peer for c in plan.configurations if c.method in METHODS)


def _teacher_arch(workload: Workload) -> str:
    """The architecture that a teacher's specification names; ResNet-50 for a repository that does not."""
    words = workload.teacher.replace("train:", "").replace("_", ":").replace("/", ":").split(":")
    return next((word for word in words if word in ARCHITECTURES), "resnet50")


def _model(arch: str, shape: Shape) -> Classifier:
    normalization = Normalization((0.5,) * shape.channels, (0.5,) * shape.channels)
    model = build(arch, classes=shape.classes, normalization=normalization, seed=0)
    return model.to(memory_format=torch.channels_last)


@torch.inference_mode()
def _forward(model: Classifier, images: Tensor) -> None:
    model.eval()(images)


def _step(model: Classifier, images: Tensor) -> None:
    model.train()(images).square().mean().backward()


def _rate(work: Callable[[], None], images: int) -> float:
    """Images per second of `work`, which handles `images` of them; its first call warms up."""
    work()
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < PROBE_SECONDS or times == 0:
        work()
        times += 1
    return images * times / (time.perf_counter() - started)
