"""How fast a GPU trains: the rate of a large matrix product, and images a second of students and of the teacher.

Random images: nothing here depends on their content, and so it runs while the data set is still under way.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from threading import Barrier

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.settings import Settings
from benchmarks.gpu.streams import as_finished
from kdq.data.dataset import Dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.teacher_logits import ForwardTeacher
from kdq.distill.trainer import Trainer
from kdq.models.classifier import Classifier, Normalization, build

SIDE = {"cuda": 8192, "cpu": 512}
STEPS = {"cuda": 30, "cpu": 2}
NORMALIZATION = Normalization((0.5,) * 3, (0.25,) * 3)
SIZE, CLASSES = 32, 10
GAIN = 1.1  # trainings beside each other must be so much faster in total than fewer


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def synchronize_stream(device: str) -> None:
    if device == "cuda":
        torch.cuda.current_stream().synchronize()


def peak(device: str) -> float:
    """Floating-point operations a second of a bf16 matrix product, the best of five."""
    side, count = SIDE[device], 10
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    best = 0.0
    for number in range(6):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(count):
            a @ b
        synchronize(device)
        if number:
            best = max(best, 2 * side**3 * count / (time.perf_counter() - started))
    return best


def flops(model: nn.Module, device: str) -> float:
    """Floating-point operations of the forward pass of one image."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.rand(1, 3, SIZE, SIZE, device=device))
    return float(counter.get_total_flops())


def random_data(settings: Settings, train: int, others: int = 10) -> Dataset:
    """A data set of random images: `train` of them, and as many as `others` to validate and to test."""
    random = torch.Generator().manual_seed(0)

    def split(length: int) -> tuple[Tensor, Tensor]:
        return torch.randint(256, (length, 3, SIZE, SIZE), generator=random).to(torch.uint8), torch.arange(length) % 10

    names = tuple("0123456789")
    data = Dataset("random", names, NORMALIZATION, *split(train), *split(others), *split(others), "0" * 64)
    return data.to(settings.device)


def random_model(settings: Settings, arch: str, seed: int = 0) -> Classifier:
    return build(arch, classes=CLASSES, normalization=NORMALIZATION, seed=seed).to(settings.device)


def trainers(settings: Settings, arch: str, method: str, count: int, batch_size: int) -> list[Trainer]:
    """Trainings on random images, each of a few steps an epoch; by the method's need under the run's teacher."""
    data = random_data(settings, STEPS[settings.device] * batch_size)
    recipe, config, answer = settings.recipe(1000, batch_size), MethodConfig.parse({"method": method}), None
    if config.method.needs_teacher:
        answer = ForwardTeacher(random_model(settings, settings.teacher, seed=1), recipe.precision)
    return [
        Trainer(recipe, config, random_model(settings, arch, seed), answer, data, stream_seed=0)
        for seed in range(count)
    ]


def rate(running: Sequence[Trainer], device: str) -> float:
    """Images a second of trainings beside each other, in the second epoch of each: all begin it together.

    Both epochs of a training are in one thread and stream, to which cuDNN's plans and the allocator's blocks belong.
    """
    barrier = Barrier(len(running))

    def job(trainer: Trainer) -> tuple[float, float]:
        try:
            trainer._train_epoch()
            trainer.epoch += 1
            synchronize_stream(device)
            barrier.wait()
        except BaseException:
            barrier.abort()
            raise
        started = time.perf_counter()
        trainer._train_epoch()
        synchronize_stream(device)
        return started, time.perf_counter()

    synchronize(device)
    jobs = {str(number): partial(job, trainer) for number, trainer in enumerate(running)}
    with closing(as_finished(jobs, len(jobs), device)) as ended:
        spans = [future.result() for _, future in ended]
    seconds = max(stop for _, stop in spans) - min(start for start, _ in spans)
    return sum(len(trainer.views) for trainer in running) / seconds


def best(rates: Mapping[int, float]) -> int:
    """The number of trainings at once: more only where they are faster by GAIN in total."""
    found, *others = sorted(rates)
    for at_once in others:
        if rates[at_once] >= GAIN * rates[found]:
            found = at_once
    return found


def measure(settings: Settings) -> dict[str, float]:
    """Rates of the card; `at_once` is the number of students to train beside each other."""

    def images_per_s(arch: str, method: str, count: int, batch_size: int = settings.batch_size) -> float:
        return rate(trainers(settings, arch, method, count, batch_size), settings.device)

    top = peak(settings.device)
    rates = {at_once: images_per_s(settings.student, "vkd", at_once) for at_once in (1, 2, 4)}
    at_once = best(rates)
    alone = images_per_s(settings.student, "ce", at_once)
    teacher_rate = images_per_s(settings.teacher, "ce", 1, settings.teacher_batch_size)
    teacher, student = (
        flops(random_model(settings, arch), settings.device) for arch in (settings.teacher, settings.student)
    )
    needed = teacher + 3 * student  # the backward pass takes twice the forward's
    return {
        "peak_bf16_tflops": top / 1e12,
        **{f"images_per_s_{count}_at_once": value for count, value in rates.items()},
        "at_once": at_once,
        "images_per_s": rates[at_once],
        "images_per_s_without_teacher": alone,
        "images_per_s_of_teacher": teacher_rate,
        "flops_per_image": needed,
        "share_of_peak": rates[at_once] * needed / top,
    }
