"""Time to quantize complete models of the sizes that studies use, by quantizer.

    python -m benchmarks.whole_models [--archs resnet20,resnet56,resnet18,resnet50] [--bits 2]

Initial weights and 512 random images of 32 × 32: the time depends on neither, so no data is needed. Every layer is
quantized, the first and the last too; times are from the float model to the quantized one, over `n` rounds in which
the quantizers take turns.
"""

import argparse
import time

import torch

from benchmarks.report import circumstances, publish, summary
from kdq.models.checkpoint import IMAGENET
from kdq.models.classifier import Classifier, build
from kdq.pack.size import total_bits
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize

QUANTIZERS = ("least_squares", "gpfq", "gptq", "rtn")


def measure(model: Classifier, images: torch.Tensor, bits: int, rounds: int) -> list[dict[str, object]]:
    """Return a row for each quantizer; ratios are of medians."""
    seconds: dict[str, list[float]] = {name: [] for name in QUANTIZERS}
    for _ in range(rounds):
        for name, found in seconds.items():
            started = time.perf_counter()
            made = quantize(model, images, QuantizeConfig(bits, name))
            found.append(time.perf_counter() - started)
            print(f"{model.arch}  {name}  {found[-1]:.1f} s", flush=True)
    ours = summary(seconds["least_squares"])["median"]
    size = {"arch": model.arch, "bits": bits, "total bits": total_bits(made)}
    found_rows = {name: summary(times) for name, times in seconds.items()}
    return [
        {**size, "quantizer": name, **row, "x least_squares": row["median"] / ours} for name, row in found_rows.items()
    ]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    head = {"unit": "s", "images": str(options.images), **circumstances(options.threads)}
    images = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8)
    found: list[dict[str, object]] = []
    for arch in options.archs.split(","):
        model = build(arch, classes=10, normalization=IMAGENET, seed=0).eval()
        found += measure(model, images, options.bits, options.rounds)
    publish("whole_models", head, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whole_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--archs", default="resnet20,resnet56,resnet18,resnet50", help="default: all four")
    parser.add_argument("--bits", type=int, default=2, help="width (default: 2)")
    parser.add_argument("--images", type=int, default=512, help="calibration images (default: 512)")
    parser.add_argument("--rounds", type=int, default=1, help="timings of each (default: 1)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
