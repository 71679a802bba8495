"""Images per second of our training loop, of the loop that it replaces, and of the upper limit.

    python -m benchmarks.train_speed --data-dir DIR

CIFAR-10, ResNet-56 teaches a ResNet-20 and a ResNet-18, dkd, batches of 128. In one run, by turns, so that other load
on the machine affects all alike:

- `plain loop`: as in common scripts: a torchvision DataLoader with 2 workers, transforms of one PIL image at a
  time, NCHW, the teacher's forward pass in every step
- `bare loop`: the student's forward and backward pass on random tensors in memory, nothing else
- `ours, cache filled`: an epoch whose teacher logits are in the cache, as for all but the first trial of a study
- `ours, cache empty`: an epoch that computes the teacher logits, as in the first trial
- `ours, a trial of 9`: their mean over a study of 9 trials with the same views
- `teacher`: its forward pass on every view, and nothing else

Ours in float32, in bf16, and in what `train.precision: auto` chooses here, which are the rates of one of the two: auto
should be the faster. The ResNet-18 trains on a quarter of the images, but at least two batches. With
`--processor-time`, seconds are those of the processor in the process that trains, which other load on the machine
changes less; the workers of the plain loop are then free. It needs one thread.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from benchmarks.cifar import METHOD, dataset, recipe, student, teacher
from benchmarks.report import circumstances, publish, summary
from kdq.data.augment import Views
from kdq.data.dataset import Dataset
from kdq.distill.precision import choose
from kdq.distill.recipe import PRECISIONS, make_optimizer
from kdq.distill.teacher_logits import ForwardTeacher, TeacherLogitsCache
from kdq.distill.trainer import Trainer
from kdq.models.classifier import Classifier
from kdq.store.folder_store import StageStore

BATCH = 128
TRIALS = 9
SHARES = {"resnet20": 1.0, "resnet18": 0.25}
"""Architecture of the student -> its share of the images."""

Loop = Callable[[int], int]
"""Takes the number of the round, trains on some images, and returns their number."""


class PilImages(TorchDataset[tuple[Tensor, int]]):
    """As torchvision.datasets.CIFAR10 in memory: an array per image, converted to a PIL image on access."""

    def __init__(self, data: Dataset, transform: Callable[[Image.Image], Tensor]) -> None:
        self.arrays = data.train_images.permute(0, 2, 3, 1).numpy()
        self.labels = data.train_labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


def plain_loop(data: Dataset, model: Classifier, arch: str) -> Loop:
    """Return the loop of the scripts that this platform replaces, as it is written there."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    loader = DataLoader(PilImages(data, transform), batch_size=BATCH, shuffle=True, num_workers=2)
    learner, teacher_model = student(data, arch=arch), model.eval()
    optimizer = make_optimizer([learner], recipe(1))

    def epoch(number: int) -> int:
        learner.train()
        for images, labels in loader:
            with torch.no_grad():
                logits_teacher = teacher_model(images)
            logits_student = learner(images)
            terms = METHOD.method.loss(logits_student, logits_teacher, labels, METHOD.params, 1.0)
            loss = torch.stack([term.mean() for term in terms.values()]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()  # for their log
        return len(data.train_images)

    return epoch


def bare_loop(data: Dataset, arch: str) -> Loop:
    """Return a loop of the student's forward and backward passes on one random batch, with the steps of an epoch."""
    learner: nn.Module = student(data, arch=arch).to(memory_format=torch.channels_last).train()
    images = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(BATCH) % data.classes
    steps = len(data.train_images) // BATCH

    def epoch(number: int) -> int:
        for _ in range(steps):
            learner.zero_grad()
            F.cross_entropy(learner(images), labels).backward()  # type: ignore[no-untyped-call]
        return steps * BATCH

    return epoch


def our_loop(
    data: Dataset, model: Classifier, arch: str, store: StageStore, rounds: int, precision: str, fill_first: bool
) -> Loop:
    """Return the training part of our epoch, with teacher logits from the cache (`fill_first`) or computed."""
    config = replace(recipe(rounds), precision=precision)
    answer = ForwardTeacher(model, precision)

    def cache(name: str) -> TeacherLogitsCache:
        fill = data.normalization.mean
        views = Views(data.train_images, data.train_labels, config.augment, stream_seed=0, fill=fill)
        return TeacherLogitsCache(store, lambda: answer, name, data, views, precision=precision)

    name = f"{arch}, {'filled' if fill_first else 'empty'}"
    if fill_first:
        for epoch in range(rounds):
            filled = cache(name)
            filled(next(filled.views.epoch(epoch, BATCH)))
    trainer = Trainer(config, METHOD, student(data, arch=arch), cache(name), data, stream_seed=0)

    def train(number: int) -> int:
        trainer._train_epoch()
        trainer.epoch += 1
        return len(data.train_images)

    return train


def teacher_loop(data: Dataset, model: Classifier, precision: str) -> Loop:
    """Return a loop of the teacher's forward passes on every view of an epoch, and nothing else."""
    fill = data.normalization.mean
    views = Views(data.train_images, data.train_labels, recipe(1).augment, stream_seed=0, fill=fill)
    answer = ForwardTeacher(model, precision)

    def forward(number: int) -> int:
        for view in views.epoch(number, BATCH):
            answer(view)
        return len(views)

    return forward


def measure(loops: dict[str, Loop], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the images per second of each loop in each round, after a first one to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        for name, loop in loops.items():
            started = clock()
            images = loop(number)
            if number:
                rates[name].append(images / (clock() - started))
    return rates


def mean_of_trials(filled: float, empty: float) -> float:
    """Return the images per second of a study's trials, of which the first fills the cache."""
    return TRIALS / ((TRIALS - 1) / filled + 1 / empty)


def compare(options: argparse.Namespace, arch: str, store: StageStore) -> list[dict[str, Any]]:
    """Return the rows of one student."""
    rounds = options.rounds + 1
    images = max(int(options.images * SHARES[arch]), 2 * BATCH)
    data, model = dataset(options.data_dir, store, images), teacher(options.data_dir)
    loops = {"plain loop": plain_loop(data, teacher(options.data_dir), arch), "bare loop": bare_loop(data, arch)}
    for precision in PRECISIONS:
        ours = partial(our_loop, data, model, arch, store, rounds, precision)
        loops |= {
            f"ours, cache filled, {precision}": ours(fill_first=True),
            f"ours, cache empty, {precision}": ours(fill_first=False),
            f"teacher, {precision}": teacher_loop(data, model, precision),
        }
    rates = measure(loops, rounds, time.process_time if options.processor_time else time.perf_counter)
    for precision in PRECISIONS:
        pairs = zip(rates[f"ours, cache filled, {precision}"], rates[f"ours, cache empty, {precision}"], strict=True)
        rates[f"ours, a trial of {TRIALS}, {precision}"] = [mean_of_trials(*pair) for pair in pairs]
    chosen = choose("cpu").precision
    rates |= {
        loop.replace(f", {chosen}", f", auto: {chosen}"): rates[loop] for loop in list(rates) if loop.endswith(chosen)
    }
    return [{"student": arch, **row} for row in rows(rates)]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    unit = "images/s of processor time" if options.processor_time else "images/s"
    chosen = choose("cpu")
    print(f"auto: {chosen.precision}, since {chosen.reason}")
    head = {"unit": unit, "auto": chosen.reason, **circumstances(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(Path(folder))
        found = [row for arch in options.students for row in compare(options, arch, store)]
    publish("train_speed-processor_time" if options.processor_time else "train_speed", head, found)


def rows(rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row for each loop; the ratios are of medians in this run."""
    found = {name: summary(values) for name, values in rates.items()}
    return [
        {
            "loop": name,
            **row,
            "x plain": row["median"] / found["plain loop"]["median"],
            "x bare": row["median"] / found["bare loop"]["median"],
        }
        for name, row in found.items()
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--images", type=int, default=2560, help="images of an epoch (default: 2560)")
    parser.add_argument("--students", nargs="+", choices=SHARES, default=list(SHARES), help="default: both")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each loop (default: 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    parser.add_argument("--processor-time", action="store_true", help="measure processor time, with one thread")
    options = parser.parse_args()
    if options.processor_time and options.threads != 1:
        parser.error("--processor-time: needs --threads 1")
    return options


if __name__ == "__main__":
    main()
