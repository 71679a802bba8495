"""How fast a GPU trains: the rate of a large matrix product, and images a second of a student under its teacher.

Random images: nothing here depends on their content, and so it runs while the data set is still under way.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.settings import Settings
from kdq.data.dataset import Dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.teacher_logits import forward_teacher
from kdq.distill.trainer import Trainer
from kdq.models.classifier import Normalization, build

SIDE = {"cuda": 8192, "cpu": 512}
STEPS = {"cuda": 30, "cpu": 2}
NORMALIZATION = Normalization((0.5,) * 3, (0.25,) * 3)
SIZE, CLASSES = 32, 10
Result = TypeVar("Result")


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """On a GPU, a stream of this thread's own: its kernels may run beside those of other threads."""
    if device != "cuda":
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def together(jobs: Sequence[Callable[[], Result]], at_once: int, device: str) -> list[Result]:
    """Run all jobs, so many at once, each in a thread and a stream of its own; raise the first error at the end."""

    def run(job: Callable[[], Result]) -> Result:
        with own_stream(device):
            return job()

    with ThreadPoolExecutor(at_once) as pool:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]


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


def trainers(settings: Settings, count: int) -> list[Trainer]:
    """Trainings of the student under its teacher on random images, each of a few steps an epoch."""
    images = STEPS[settings.device] * settings.batch_size
    random = torch.Generator().manual_seed(0)

    def split(length: int) -> tuple[Tensor, Tensor]:
        return torch.randint(256, (length, 3, SIZE, SIZE), generator=random).to(torch.uint8), torch.arange(length) % 10

    names = tuple("0123456789")
    data = Dataset("random", names, NORMALIZATION, *split(images), *split(10), *split(10), "0" * 64)
    data = data.to(settings.device)
    teacher = build(settings.teacher, classes=CLASSES, normalization=NORMALIZATION, seed=1).to(settings.device)
    recipe, method = settings.recipe(1000), MethodConfig.parse({"method": "vkd"})
    students = [
        build(settings.student, classes=CLASSES, normalization=NORMALIZATION, seed=seed).to(settings.device)
        for seed in range(count)
    ]
    answer = forward_teacher(teacher, recipe.precision)
    return [Trainer(recipe, method, student, answer, data, stream_seed=0) for student in students]


def rate(settings: Settings, count: int, at_once: int) -> float:
    """Images a second that `count` students train on, all together, after an epoch to warm up."""
    running = trainers(settings, count)
    for is_timed in (False, True):
        synchronize(settings.device)
        started = time.perf_counter()
        together([trainer._train_epoch for trainer in running], at_once, settings.device)
        synchronize(settings.device)
        if is_timed:
            break
        for trainer in running:
            trainer.epoch += 1
    return sum(len(trainer.views) for trainer in running) / (time.perf_counter() - started)


def measure(settings: Settings) -> dict[str, float]:
    """Rates of the card; `at_once` is the number of students that train fastest beside each other."""
    top = peak(settings.device)
    rates = {at_once: rate(settings, at_once, at_once) for at_once in (1, 2, 4)}
    fastest = max(rates, key=lambda at_once: rates[at_once])
    models = [build(arch, classes=CLASSES, normalization=NORMALIZATION, seed=0) for arch in _archs(settings)]
    teacher, student = (flops(model.to(settings.device), settings.device) for model in models)
    needed = teacher + 3 * student  # the backward pass takes twice the forward's
    return {
        "peak_bf16_tflops": top / 1e12,
        **{f"images_per_s_{at_once}_at_once": value for at_once, value in rates.items()},
        "at_once": fastest,
        "flops_per_image": needed,
        "share_of_peak": rates[fastest] * needed / top,
    }


def _archs(settings: Settings) -> tuple[str, str]:
    return settings.teacher, settings.student
