"""Images per second of our training loop, of the loop that it replaces, and of the upper limit.

    python -m benchmarks.train_speed --data-dir DIR

CIFAR-10, ResNet-56 teaches ResNet-20, dkd, batches of 128. In one run, by turns, so that other load on
the machine affects all alike:

- `plain loop`: as in common scripts: a torchvision DataLoader with 2 workers, transforms of one PIL image at a
  time, NCHW, the teacher's forward pass in every step
- `bare loop`: the student's forward and backward pass on random tensors in memory, nothing else
- `ours, cache filled`: an epoch whose teacher logits are in the cache, as for all but the first trial of a study
- `ours, cache empty`: an epoch that computes the teacher logits, as in the first trial
- `ours, a trial of 9`: their mean over a study of 9 trials with the same views
- `ours, cache filled, bf16`, `teacher`, `teacher, bf16`: the gain of bf16 autocast on this machine
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
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
from kdq.distill.recipe import make_optimizer
from kdq.distill.teacher_logits import TeacherLogitsCache, forward_teacher
from kdq.distill.trainer import Trainer
from kdq.models.classifier import Classifier
from kdq.store.folder_store import StageStore

BATCH = 128
TRIALS = 9

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


def plain_loop(data: Dataset, model: Classifier) -> Loop:
    """Return the loop of the scripts that this platform replaces, as it is written there."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
        ]
    )
    loader = DataLoader(PilImages(data, transform), batch_size=BATCH, shuffle=True, num_workers=2)
    learner, teacher_model = student(data), model.eval()
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


def bare_loop(data: Dataset) -> Loop:
    """Return a loop of the student's forward and backward passes on one random batch, with the steps of an epoch."""
    learner: nn.Module = student(data).to(memory_format=torch.channels_last).train()
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
    data: Dataset, model: Classifier, store: StageStore, rounds: int, fill_first: bool, precision: str = "float32"
) -> Loop:
    """Return the training part of our epoch, with teacher logits from the cache (`fill_first`) or computed."""
    config = replace(recipe(rounds), precision=precision)
    answer = forward_teacher(model)

    def cache(name: str) -> TeacherLogitsCache:
        fill = data.normalization.mean
        views = Views(data.train_images, data.train_labels, config.augment, stream_seed=0, fill=fill)
        return TeacherLogitsCache(store, lambda: answer, name, data, views)

    name = "filled" if fill_first else "empty"
    if fill_first:
        for epoch in range(rounds):
            filled = cache(name)
            filled(next(filled.views.epoch(epoch, BATCH)))
    trainer = Trainer(config, METHOD, student(data), cache(name), data, stream_seed=0)

    def train(number: int) -> int:
        trainer._train_epoch()
        trainer.epoch += 1
        return len(data.train_images)

    return train


def teacher_loop(data: Dataset, model: Classifier, precision: str) -> Loop:
    """Return a loop of the teacher's forward passes on every view of an epoch, and nothing else."""
    fill = data.normalization.mean
    views = Views(data.train_images, data.train_labels, recipe(1).augment, stream_seed=0, fill=fill)
    answer = forward_teacher(model, precision)

    def forward(number: int) -> int:
        for view in views.epoch(number, BATCH):
            answer(view)
        return len(views)

    return forward


def measure(loops: dict[str, Loop], rounds: int) -> dict[str, list[float]]:
    """Return the images per second of each loop in each round, after a first one to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        for name, loop in loops.items():
            started = time.perf_counter()
            images = loop(number)
            if number:
                rates[name].append(images / (time.perf_counter() - started))
    return rates


def mean_of_trials(filled: float, empty: float) -> float:
    """Return the images per second of a study's trials, of which the first fills the cache."""
    return TRIALS / ((TRIALS - 1) / filled + 1 / empty)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    head = {"unit": "images/s", **circumstances(options.threads)}
    rounds = options.rounds + 1
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(Path(folder))
        data, model = dataset(options.data_dir, store, options.images), teacher(options.data_dir)
        rates = measure(
            {
                "plain loop": plain_loop(data, teacher(options.data_dir)),
                "bare loop": bare_loop(data),
                "ours, cache filled": our_loop(data, model, store, rounds, fill_first=True),
                "ours, cache empty": our_loop(data, model, store, rounds, fill_first=False),
                "ours, cache filled, bf16": our_loop(data, model, store, rounds, True, "bf16"),
                "teacher": teacher_loop(data, model, "float32"),
                "teacher, bf16": teacher_loop(data, model, "bf16"),
            },
            rounds,
        )
    filled, empty = rates["ours, cache filled"], rates["ours, cache empty"]
    rates[f"ours, a trial of {TRIALS}"] = [mean_of_trials(*pair) for pair in zip(filled, empty, strict=True)]
    publish("train_speed", head, rows(rates))


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
    parser.add_argument("--rounds", type=int, default=5, help="timings of each loop (default: 5)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
