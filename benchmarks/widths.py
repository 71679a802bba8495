"""Several widths of a model quantized at once, compared with one after the other.

    python -m benchmarks.widths --data-dir DIR

A published CIFAR-10 checkpoint at 2, 3, 4, 5, 6 and 8 bits by the default quantizer, 512 calibration images: one
call of `quantize_many`, which computes once what the widths share, and one call of `quantize` for each. Both take
turns, and must return the same codes, scales and biases.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cifar import dataset
from benchmarks.report import circumstances, publish, summary
from kdq.distill.teachers import find_checkpoint
from kdq.models.checkpoint import IMAGENET, Checkpoint, load
from kdq.models.classifier import Classifier
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import choose_calibration, quantize, quantize_many
from kdq.quantize.result import Quantized
from kdq.store.folder_store import StageStore

TOGETHER, APART = "quantize_many", "quantize, one by one"


def measure(model: Classifier, images: Tensor, widths: list[int], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way in each round."""
    configs = [QuantizeConfig(bits) for bits in widths]
    ways: dict[str, Callable[[], list[Quantized]]] = {
        APART: lambda: [quantize(model, images, config) for config in configs],
        TOGETHER: lambda: quantize_many(model, images, configs),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        made = {}
        for name, way in ways.items():
            started = time.perf_counter()
            made[name] = way()
            seconds[name].append(time.perf_counter() - started)
        for one, other in zip(made[APART], made[TOGETHER], strict=True):
            assert same(one, other), one.config
    return seconds


def same(one: Quantized, other: Quantized) -> bool:
    """Return whether both store the same."""
    return list(one.layers) == list(other.layers) and all(
        torch.equal(getattr(layer, part), getattr(other.layers[name], part))
        for name, layer in one.layers.items()
        for part in ("codes", "scale", "bias")
    )


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    head = {"unit": "s", "arch": options.arch, "bits": options.bits, **circumstances(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        data = dataset(options.data_dir, StageStore(Path(folder)), images=45_000, val_images=5_000)
        images = choose_calibration(data.train_images, seed=0, count=options.images)
    checkpoint = Checkpoint(options.arch, find_checkpoint(options.data_dir, f"{options.arch}-*.th"))
    model = load(checkpoint, classes=data.classes, normalization=IMAGENET)
    seconds = measure(model, images, [int(part) for part in options.bits.split(",")], options.rounds)
    found = {name: summary(times) for name, times in seconds.items()}
    rows = [
        {"way": name, "images": len(images), **row, "x one by one": found[APART]["median"] / row["median"]}
        for name, row in found.items()
    ]
    publish("widths", head, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.widths", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--arch", default="resnet20", help="a checkpoint's architecture (default: resnet20)")
    parser.add_argument("--bits", default="2,3,4,5,6,8", help="widths (default: 2,3,4,5,6,8)")
    parser.add_argument("--images", type=int, default=512, help="calibration images (default: 512)")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
