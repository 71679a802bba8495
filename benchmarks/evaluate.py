"""The cost of evaluating the points of a student: each model by itself, and all in one pass, by size of the batches.

    python -m benchmarks.evaluate --data-dir DIR

The published ResNet-20 at float and six widths, on test images, in seconds of one thread's processor time, so that
other load on the machine matters less. The ways take turns. `changed` counts the images, of all models, on which the
predicted class differs from that of the first way, which was ours before. The first row is the float model alone
before its batch norms are folded, as a student's last epoch and a teacher are evaluated.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cifar import dataset
from benchmarks.report import circumstances, publish, summary
from kdq.bits import FLOAT_BITS
from kdq.distill.teachers import find_checkpoint
from kdq.models.checkpoint import IMAGENET, Checkpoint, load
from kdq.models.classifier import Classifier
from kdq.models.evaluate import BATCH, logits, logits_many
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import choose_calibration, quantize, quantize_many
from kdq.store.folder_store import StageStore

WIDTHS = (FLOAT_BITS, 2, 3, 4, 5, 6, 8)
BATCHES = (16, 32, 64, 125)
BEFORE = 125

Way = Callable[[], list[Tensor]]
"""Returns the logits of every model on all images."""


def ways(models: Sequence[Classifier], images: Tensor) -> dict[str, Way]:
    """Return the ways of evaluation by name, the one of before first."""

    def each(size: int) -> Way:
        return lambda: [logits(model, images, size) for model in models]

    def together(size: int) -> Way:
        return lambda: logits_many(models, images, size)

    return (
        {f"each model, batches of {BEFORE}": each(BEFORE)}
        | {f"each model, batches of {BATCH}": each(BATCH)}
        | {f"one pass, batches of {size}": together(size) for size in BATCHES}
    )


def unfolded(model: Classifier, folded: Classifier, images: Tensor) -> dict[str, object]:
    """Return the row of the float model whose batch norms are not folded yet."""
    started = time.process_time()
    found = logits(model, images).argmax(1)
    seconds = time.process_time() - started
    changed = int((found != logits(folded, images).argmax(1)).sum())
    name = f"float model, not folded, batches of {BATCH}"
    return {"activations": "float", "evaluation": name, **summary([seconds]), "x before": "", "changed": changed}


def measure(models: Sequence[Classifier], images: Tensor, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds of each way in each round, and the number of predictions that it changes."""
    seconds: dict[str, list[float]] = {}
    changed: dict[str, int] = {}
    for _ in range(rounds):
        wanted: list[Tensor] = []
        for name, way in ways(models, images).items():
            started = time.process_time()
            found = [one.argmax(1) for one in way()]
            seconds.setdefault(name, []).append(time.process_time() - started)
            wanted = wanted or found
            changed[name] = sum(int((a != b).sum()) for a, b in zip(wanted, found, strict=True))
    return seconds, changed


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    head = {"images": str(options.images), "unit": "s of processor time", **circumstances(1)}
    with tempfile.TemporaryDirectory() as folder:
        data = dataset(options.data_dir, StageStore(Path(folder)), 45_000)
        path = find_checkpoint(options.data_dir, "resnet20*.th")
        model = load(Checkpoint("resnet20", path), classes=10, normalization=IMAGENET)
        calibration = choose_calibration(data.train_images, seed=0)
        images = data.test_images[: options.images]
        folded = quantize(model, calibration, QuantizeConfig(FLOAT_BITS)).model
        rows = [unfolded(model, folded, images)]
        for activation_bits in (None, 8):
            configs = [QuantizeConfig(bits, activation_bits=activation_bits) for bits in WIDTHS]
            models = [quantized.model for quantized in quantize_many(model, calibration, configs)]
            seconds, changed = measure(models, images, options.rounds)
            before = summary(next(iter(seconds.values())))["median"]
            for name, values in seconds.items():
                row: dict[str, object] = {
                    "activations": activation_bits or "float",
                    "evaluation": name,
                    **summary(values),
                }
                rows.append(row | {"x before": before / summary(values)["median"], "changed": changed[name]})
    publish("evaluate", head, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--images", type=int, default=10_000, help="test images (default: 10000)")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each way (default: 3)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
