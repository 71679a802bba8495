"""Cost in accuracy and savings in bits of storing scales and biases in float16 instead of float32.

    python -m benchmarks.float16_scales --data-dir DIR

Published CIFAR-10 checkpoints, 512 calibration images (chosen anew for each seed), top-1 on the test images. Rows:

- `float32`: quantized with scales and biases kept in float32
- `float32, then rounded`: the same codes, with scales and biases rounded to float16: the effect of rounding alone
- `float16`: quantized with scales and biases in float16, so that later layers compensate the rounding (the default)
- `float32, other images`: as the first, with other calibration images: the variation between choices of codes

`same class` is the percentage of test images with the same predicted class as `float32`, `change` the root mean
square change of the logits in units of the standard deviation of those of `float32`.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.cifar import dataset
from benchmarks.report import circumstances, publish
from kdq.data.dataset import Dataset
from kdq.distill.teachers import find_checkpoint
from kdq.models.checkpoint import IMAGENET, Checkpoint, load
from kdq.models.classifier import Classifier
from kdq.models.evaluate import accuracy, logits
from kdq.models.graph import layer
from kdq.models.prepare import PREFIX
from kdq.pack.size import total_bits
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import choose_calibration, quantize
from kdq.quantize.result import Quantized
from kdq.store.folder_store import StageStore

EXACT = "float32"
OTHER = 1000
"""The offset of the seed of the other calibration images."""


def rounded(made: Quantized) -> Quantized:
    """Return the same codes with scales and biases rounded to float16."""
    layers = {
        name: replace(stored, scale=stored.scale.half(), bias=stored.bias.half())
        for name, stored in made.layers.items()
    }
    model = copy.deepcopy(made.model)
    for name, stored in layers.items():
        module = layer(model, PREFIX + name)
        assert module.bias is not None
        module.weight.data, module.bias.data = stored.weight(), stored.bias.float()
    return replace(made, model=model, layers=layers)


def rows(model: Classifier, data: Dataset, bits: int, seed: int, images: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to store a quantized model."""
    calibration, other = (
        choose_calibration(data.train_images, seed=choice, count=images) for choice in (seed, OTHER + seed)
    )
    exact = quantize(model, calibration, QuantizeConfig(bits, stored="float32"))
    ways = {
        EXACT: exact,
        "float32, then rounded": rounded(exact),
        "float16": quantize(model, calibration, QuantizeConfig(bits)),
        "float32, other images": quantize(model, other, exact.config),
    }
    wanted = logits(exact.model, data.test_images)
    for name, made in ways.items():
        got = logits(made.model, data.test_images)
        row: dict[str, Any] = {"arch": model.arch, "bits": bits, "seed": seed, "stored": name}
        row |= {"total bits": total_bits(made), "x float32": total_bits(made) / total_bits(exact)}
        row |= {"test top-1": f"{accuracy(got, data.test_labels):.2f}"}
        row |= {"same class": f"{accuracy(got, wanted.argmax(1)):.2f}"}
        row |= {"change": (got - wanted).square().mean().sqrt().item() / wanted.std().item()}
        print(*row.values(), sep="  ", flush=True)
        yield row


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    head = circumstances(options.threads)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = dataset(options.data_dir, StageStore(Path(folder)), images=45_000, val_images=5_000)
        for arch in options.archs.split(","):
            checkpoint = Checkpoint(arch, find_checkpoint(options.data_dir, f"{arch}-*.th"))
            model = load(checkpoint, classes=data.classes, normalization=IMAGENET)
            for bits in _numbers(options.bits):
                for seed in _numbers(options.seeds):
                    found += rows(model, data, bits, seed, options.images)
    publish("float16_scales", {"images": str(options.images), **head}, found)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.float16_scales",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--archs", default="resnet20,resnet56", help="checkpoints (default: resnet20,resnet56)")
    parser.add_argument("--bits", default="2,4", help="widths (default: 2,4)")
    parser.add_argument("--seeds", default="0", help="seeds of the calibration images (default: 0)")
    parser.add_argument("--images", type=int, default=512, help="calibration images (default: 512)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
