"""The cost of a quantized probe at a rung, compared with the epochs between two rungs.

    python -m benchmarks.probe --data-dir DIR

CIFAR-10, students of a study on 45,000 images whose teacher logits are in the cache. `epoch` is the time of an epoch:
its validation as measured, and its training on `--images` images, scaled to 45,000, since all images cost the same.
`probe` quantizes the student at 2, 3, 4 and 8 bits and measures it, as `asha_quantized` and
`asha_pareto` do at a rung. Shares: of one epoch, and of all epochs up to and between the rungs at 1, 3, 9 of 27.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.cifar import METHOD, dataset, recipe
from benchmarks.report import circumstances, publish, summary
from kdq.data.dataset import Dataset
from kdq.distill.trainer import Trainer
from kdq.models.classifier import build
from kdq.pipeline.probe import probe
from kdq.quantize.config import QuantizerSpec
from kdq.store.folder_store import StageStore

WIDTHS = (2, 3, 4, 8)
IMAGES = 45_000
RUNGS, EPOCHS = (1, 3, 9), 27


def trainer(data: Dataset, arch: str, rounds: int) -> Trainer:
    """Return the trainer of a student whose teacher costs nothing, as with a filled cache."""
    student = build(arch, classes=data.classes, normalization=data.normalization, seed=0)
    teacher_logits = torch.randn(len(data.train_images), data.classes)
    return Trainer(recipe(rounds), METHOD, student, lambda view: teacher_logits[view.index], data, stream_seed=0)


def measure(data: Dataset, arch: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of an epoch and of a probe in each round, after a first one to warm up."""
    training = trainer(data, arch, rounds + 1)
    seconds: dict[str, list[float]] = {"epoch": [], "probe": []}
    with tempfile.TemporaryDirectory() as folder:
        store = StageStore(Path(folder))
        for number in range(rounds + 1):
            metrics = training.run_epoch()
            trained = len(data.train_images) / metrics["images_per_s"]
            epoch = trained * IMAGES / len(data.train_images) + metrics["seconds"] - trained
            started = time.perf_counter()
            probe(store, str(number), WIDTHS, QuantizerSpec(), 0, lambda: training.best, lambda: data)
            if number:
                seconds["epoch"].append(epoch)
                seconds["probe"].append(time.perf_counter() - started)
    return seconds


def rows(arch: str, seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row for the epoch and one for the probe."""
    epoch, cost = summary(seconds["epoch"]), summary(seconds["probe"])
    between = [later - earlier for earlier, later in zip((0, *RUNGS), RUNGS, strict=False)]
    shares = {
        f"% of the epochs to rung {rung}": 100 * cost["median"] / (gap * epoch["median"])
        for rung, gap in zip(RUNGS, between, strict=True)
    }
    whole = {f"% of all {EPOCHS} epochs": 100 * len(RUNGS) * cost["median"] / (EPOCHS * epoch["median"])}
    blank = dict.fromkeys([*shares, *whole], "")
    return [
        {"student": arch, "what": "epoch", **epoch, **blank},
        {"student": arch, "what": "probe", **cost, **shares, **whole},
    ]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        data = dataset(options.data_dir, StageStore(Path(folder)), options.images, val_images=5_000)
        data = replace(data, test_images=data.test_images[:0], test_labels=data.test_labels[:0])
        for arch in ("resnet8", "resnet20"):
            found += rows(arch, measure(data, arch, options.rounds))
    publish("probe", {"unit": "seconds", **circumstances(options.threads)}, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.probe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--images", type=int, default=2560, help="images of a timed epoch (default: 2560)")
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads, as of a trial (default: 1)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
