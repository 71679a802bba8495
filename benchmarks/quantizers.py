"""Accuracy, size and time of every quantizer, at several widths of a published CIFAR-10 checkpoint.

    python -m benchmarks.quantizers --data-dir DIR [--arch resnet20] [--bits 2,3,4] [--seeds 0,1,2]

Every layer is quantized, the first and the last too; 512 calibration images of the training set (chosen anew for each
seed), top-1 on all test images. A row for each variant and width: all QUANTIZERS with their defaults, then `gpfq`,
`gptq` and `rtn` with the `quantizer.params` that the row names, then the default one with scales and biases in float32
instead of float16, and with activations of 8, 6 and 4 bits. `paper bits` is the study paper's own count, non-zero
weights times nominal bits; `total bits` is the size of the packed file. The variants of a width run directly after each
other, so that they find the machine in a similar state.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.cifar import dataset
from benchmarks.report import circumstances, publish
from kdq.data.dataset import Dataset
from kdq.distill.teachers import find_checkpoint
from kdq.models.checkpoint import IMAGENET, Checkpoint, load
from kdq.models.classifier import Classifier
from kdq.models.evaluate import top1
from kdq.pack.size import paper_bits, total_bits
from kdq.quantize.algorithms import QUANTIZERS
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import choose_calibration, quantize
from kdq.store.folder_store import StageStore

BASELINES = ("gpfq", "gptq", "rtn")
SWITCHES = (
    ("bias_correction",),
    ("brevitas_scale",),
    ("brevitas_scale", "bias_correction"),
    ("asymmetric",),
    ("asymmetric", "bias_correction"),
    ("asymmetric", "mse", "bias_correction"),
)


def variants(bits: int) -> dict[str, QuantizeConfig]:
    """Return the configurations compared at one width, by name."""
    named = {name: QuantizeConfig(bits, name) for name in QUANTIZERS}
    for name, switched in product(BASELINES, SWITCHES):
        named[", ".join((name, *switched))] = QuantizeConfig(bits, name, dict.fromkeys(switched, 1))
    named["least_squares, float32 scales"] = QuantizeConfig(bits, stored="float32")
    return named | {f"least_squares, activations {a}": QuantizeConfig(bits, activation_bits=a) for a in (8, 6, 4)}


def measure(model: Classifier, data: Dataset, config: QuantizeConfig, seed: int) -> dict[str, float]:
    """Quantize a model once, and return time, sizes and accuracy."""
    started = time.perf_counter()
    made = quantize(model, choose_calibration(data.train_images, seed=seed), config)
    return {
        "seconds": time.perf_counter() - started,
        "total bits": total_bits(made),
        "paper bits": paper_bits(made),
        "nonzero": fmean(row.nonzero for row in made.report),
        "test top-1": top1(made.model, data.test_images, data.test_labels),
    }


def rows(model: Classifier, data: Dataset, widths: list[int], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Yield a row for each variant and width: means over the seeds, and the range of the accuracy."""
    for bits in widths:
        for name, config in variants(bits).items():
            found = [measure(model, data, config, seed) for seed in seeds]
            means = {key: fmean(each[key] for each in found) for key in found[0]}
            accuracies = [each["test top-1"] for each in found]
            row: dict[str, Any] = {"quantizer": name, "bits": bits, "n": len(seeds)}
            row |= {"test top-1": f"{means['test top-1']:.2f}", "range": f"{max(accuracies) - min(accuracies):.2f}"}
            row |= {key: round(means[key]) for key in ("total bits", "paper bits")}
            row |= {"nonzero": f"{means['nonzero']:.3f}", "seconds": f"{means['seconds']:.1f}"}
            print(*row.values(), sep="  ", flush=True)
            yield row


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    head = {"arch": options.arch, **circumstances(options.threads)}
    with tempfile.TemporaryDirectory() as folder:
        data = dataset(options.data_dir, StageStore(Path(folder)), images=45_000, val_images=5_000)
        checkpoint = Checkpoint(options.arch, find_checkpoint(options.data_dir, f"{options.arch}-*.th"))
        model = load(checkpoint, classes=data.classes, normalization=IMAGENET)
        print(f"float: {top1(model, data.test_images, data.test_labels):.2f} %")
        found = list(rows(model, data, _numbers(options.bits), _numbers(options.seeds)))
    publish(f"quantizers-{options.arch}", head, found)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantizers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--arch", default="resnet20", help="a checkpoint's architecture (default: resnet20)")
    parser.add_argument("--bits", default="2,3,4", help="widths (default: 2,3,4)")
    parser.add_argument("--seeds", default="0", help="seeds of the calibration images (default: 0)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
