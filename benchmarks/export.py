"""Size, accuracy and speed of exported ONNX models against the packed ones.

    python -m benchmarks.export --data-dir DIR

The published ResNet-20 at several widths. Sizes are those of the files. Accuracies are of the 10,000 test images.
Milliseconds are those of one thread's processor time for a batch, by kdq, by onnxruntime as it starts by default, and
with `session.disable_quant_qdq`, which converts the weights once; the three take turns.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from benchmarks.cifar import dataset
from benchmarks.report import circumstances, publish, summary
from kdq.distill.teachers import find_checkpoint
from kdq.export import Exported, export
from kdq.models.checkpoint import IMAGENET, Checkpoint, load
from kdq.models.images import as_float
from kdq.pack.file import load as load_packed
from kdq.pack.file import pack
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import choose_calibration, quantize_many
from kdq.store.folder_store import StageStore

CONFIGS = [QuantizeConfig(bits, activation_bits=inputs) for bits, inputs in
           ((2, None), (3, None), (4, None), (8, None), (4, 4), (8, 8))]  # fmt: skip
BATCHES = (1, 64)
REPEATS = {1: 20, 64: 2}
"""Calls in a row that are timed together."""

Run = Callable[[Tensor], object]


def runs(packed: Path, exported: Exported) -> dict[str, Run]:
    """Return what computes logits of a batch of float images, by name."""
    model = load_packed(packed)

    def by_onnxruntime(converts_once: bool) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.disable_quant_qdq", str(int(converts_once)))
        session = onnxruntime.InferenceSession(exported.path, options, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"image": images.contiguous().numpy()})

    return {
        "kdq": model,
        "onnxruntime": by_onnxruntime(converts_once=False),
        "onnxruntime, converts once": by_onnxruntime(converts_once=True),
    }


@torch.inference_mode()
def measure(ways: dict[str, Run], images: Tensor, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of a batch by each of the ways, in each round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    repeats = REPEATS[len(images)]
    for number in range(rounds + 1):
        for name, run in ways.items():
            started = time.process_time()
            for _ in range(repeats):
                run(images)
            if number:  # the first round warms up
                found[name].append(1000 * (time.process_time() - started) / repeats)
    return found


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = dataset(options.data_dir, StageStore(folder / "store"), 45_000)
        path = find_checkpoint(options.data_dir, "resnet20*.th")
        model = load(Checkpoint("resnet20", path), classes=10, normalization=IMAGENET)
        for quantized in quantize_many(model, choose_calibration(data.train_images, seed=0), CONFIGS):
            packed = folder / "packed"
            pack(quantized, packed, data.signature)
            exported = export(packed, "onnx", folder / "model.onnx", data.test_images, data.test_labels)
            row: dict[str, object] = {
                "bits": quantized.config.bits,
                "activations": quantized.config.activation_bits or "float",
                "packed bytes": exported.packed_bytes,
                "exported bytes": exported.exported_bytes,
                "packed top-1": exported.check.packed_top1,
                "exported top-1": exported.check.exported_top1,
            }
            ways = runs(packed, exported)
            for batch in BATCHES:
                found = measure(ways, as_float(data.test_images[:batch]), options.rounds)
                rows += [row | {"batch": batch, "by": way, **summary(values)} for way, values in found.items()]
    head = {"unit": "ms of processor time a batch", "onnxruntime": onnxruntime.__version__, **circumstances(1)}
    publish("export", head, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--rounds", type=int, default=10, help="timings of each way (default: 10)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
