"""Savings of the teacher-logits cache: mean time of an epoch in a dkd_grid study of 9 trials, with and without it.

    python -m benchmarks.teacher_logits --data-dir DIR

Both studies run in one process, trial by trial in alternation, so that other load on the machine affects both
alike. The time of an epoch includes training, the teacher, and validation. Then the effect of float16 on the
teacher's probabilities, the loss terms and the students' accuracy.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from benchmarks.cifar import dataset, recipe, student, teacher
from benchmarks.report import circumstances, publish, summary
from kdq.data.augment import Views
from kdq.data.dataset import Dataset
from kdq.distill.losses import kd
from kdq.distill.methods import MethodConfig
from kdq.distill.teacher_logits import ForwardTeacher, TeacherLogits, TeacherLogitsCache, compress
from kdq.distill.trainer import Trainer
from kdq.models.classifier import Classifier
from kdq.store.folder_store import StageStore

GRID = [{"method": "dkd", "alpha": a, "beta": b, "temperature": 4} for a in (0.5, 1, 2) for b in (4, 8, 10)]
SEED = 0


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    head = circumstances(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(Path(folder))
        data, model = dataset(options.data_dir, store, options.images, 500), teacher(options.data_dir)
        seconds: dict[str, list[float]] = {"without": [], "with": []}
        accuracy: dict[str, list[float]] = {"without": [], "with": []}
        for settings in GRID:
            for kind, source in (
                ("without", ForwardTeacher(model)),
                ("with", cache(store, model, data, options.epochs)),
            ):
                epochs = train(settings, source, data, options.epochs)
                seconds[kind] += [epoch["seconds"] for epoch in epochs]
                accuracy[kind].append(epochs[-1]["val_top1"])
        means = {kind: sum(times) / len(times) for kind, times in seconds.items()}
        rows = [
            {
                "study": f"{kind} cache",
                **summary(times),
                "mean": means[kind],
                "ratio of means": means[kind] / means["without"],
            }
            for kind, times in seconds.items()
        ]
        publish("teacher_logits", {"unit": f"s an epoch of {options.images} images", **head}, rows)
        precision(model, data, accuracy)


def cache(store: StageStore, model: Classifier, data: Dataset, epochs: int) -> TeacherLogitsCache:
    return TeacherLogitsCache(store, lambda: ForwardTeacher(model), "resnet56", data, views(data, epochs))


def views(data: Dataset, epochs: int) -> Views:
    augment = recipe(epochs).augment
    return Views(data.train_images, data.train_labels, augment, stream_seed=SEED, fill=data.normalization.mean)


def train(settings: Mapping[str, object], source: TeacherLogits, data: Dataset, epochs: int) -> list[dict[str, float]]:
    trainer = Trainer(recipe(epochs), MethodConfig.parse(settings), student(data), source, data, stream_seed=SEED)
    return [trainer.run_epoch() for _ in range(epochs)]


def precision(model: Classifier, data: Dataset, accuracy: dict[str, list[float]]) -> None:
    """Print what the float16 of the cache changes, except for speed."""
    answers = list(_answers(model, data))
    exact, kept = torch.cat(answers), torch.cat([compress(answer).float() for answer in answers])
    raw = torch.cat([answer.half().float() for answer in answers])
    for name, stored in (("as stored", kept), ("plain float16", raw)):
        for temperature in (1.0, 4.0):
            difference = (stored / temperature).softmax(1) - (exact / temperature).softmax(1)
            print(
                f"{name}, T = {temperature:g}, {len(exact)} views: largest change of a probability "
                f"{difference.abs().max():.1e}, mean T²·KL {kd(stored, exact, temperature).mean():.1e}"
            )
    changed = (kept.argmax(1) != exact.argmax(1)).sum()
    print(f"views whose best class changes: {changed}")
    pairs = torch.tensor([accuracy["with"], accuracy["without"]])
    difference = pairs[0] - pairs[1]
    print(
        f"validation top-1 of the {len(difference)} students: with {pairs[0].mean():.2f} %, without "
        f"{pairs[1].mean():.2f} %, difference {difference.mean():+.2f} ± {difference.std():.2f} (standard deviation)"
    )


def _answers(model: Classifier, data: Dataset) -> Iterator[torch.Tensor]:
    answer = ForwardTeacher(model)
    return (answer(view) for view in views(data, 1).epoch(0, 250))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teacher_logits", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--images", type=int, default=2000, help="training images (default: 2000)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of a trial (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads, as of a trial (default: 1)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
