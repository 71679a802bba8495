"""The accuracy of students trained in bf16 beside float32, at equal seeds and epochs.

    python -m benchmarks.precision --data-dir DIR --store FOLDER

CIFAR-10, ResNet-56 teaches ResNet-20, vkd. Both precisions see the same views from the same initial weights, and the
teacher's forward pass has the student's precision, as in a study. Every epoch is kept in FOLDER: the same command
resumes what was interrupted. The seconds include the teacher's logits.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from benchmarks.cifar import dataset, recipe, teacher
from benchmarks.report import circumstances, publish
from kdq.data.augment import Views
from kdq.data.dataset import Dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import PRECISIONS
from kdq.distill.teacher_logits import ForwardTeacher, TeacherLogits, TeacherLogitsCache
from kdq.models.classifier import Classifier
from kdq.models.evaluate import top1
from kdq.pipeline.student import StudentSpec, distill, load_student
from kdq.store.folder_store import StageStore

METHOD = MethodConfig.parse({"method": "vkd"})
TEACHER = "resnet56"


def train(store: StageStore, spec: StudentSpec, data: Dataset, model: Classifier) -> dict[str, Any]:
    """Return the row of a student, trained unless the store has it."""
    history = list(distill(store, spec, lambda: data, partial(cache, store, spec, data, model)))
    student = load_student(store.path(spec.stage()), spec, data)
    return {
        "precision": spec.train.precision,
        "seed": spec.seed,
        "val_top1": history[-1].metrics["val_top1"],
        "test_top1": top1(student, data.test_images, data.test_labels),
        "train_loss": history[-1].metrics["train_loss"],
        "seconds": sum(epoch.metrics["seconds"] for epoch in history),
    }


def cache(store: StageStore, spec: StudentSpec, data: Dataset, model: Classifier) -> TeacherLogits:
    augment, fill, precision = spec.train.augment, data.normalization.mean, spec.train.precision
    views = Views(data.train_images, data.train_labels, augment, stream_seed=spec.seed, fill=fill)
    teach = partial(ForwardTeacher, model, precision)
    return TeacherLogitsCache(store, teach, TEACHER, data, views, precision=precision)


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """Return the difference of the accuracies of bf16 and float32, paired by seed."""
    lines = []
    for column in ("val_top1", "test_top1"):
        found = {(row["precision"], row["seed"]): row[column] for row in rows}
        pairs = [found["bf16", seed] - found["float32", seed] for seed in sorted({row["seed"] for row in rows})]
        spread = f" ± {stdev(pairs):.2f} (standard deviation)" if len(pairs) > 1 else ""
        lines.append(f"{column}: bf16 − float32 {mean(pairs):+.2f}{spread}, {len(pairs)} seeds")
    return "\n".join(lines)


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    store = StageStore(options.store)
    data, model = dataset(options.data_dir, store, options.images, options.val_images), teacher(options.data_dir)
    rows = []
    for seed in options.seeds:
        for precision in PRECISIONS:
            config = replace(recipe(options.epochs), precision=precision)
            spec = StudentSpec(data.fingerprint, TEACHER, "resnet20", METHOD, config, seed)
            rows.append(train(store, spec, data, model))
            print(rows[-1], file=sys.stderr)
    head = {"images": str(options.images), "epochs": str(options.epochs), **circumstances(options.threads)}
    publish("precision", head, rows)
    print(describe(rows))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--store", type=Path, required=True, help="folder of the stages, to resume from")
    parser.add_argument("--images", type=int, default=45_000, help="training images (default: 45000)")
    parser.add_argument("--val-images", type=int, default=5000, help="validation images (default: 5000)")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of a training (default: 30)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--threads", type=int, default=1, help="threads, as of a trial (default: 1)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
