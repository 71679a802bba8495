"""Our default quantizer compared with Brevitas: accuracy and time on a published CIFAR-10 checkpoint.

    pip install '.[benchmarks]'
    python -m benchmarks.brevitas_peer --data-dir DIR [--arch resnet20] [--bits 2,3,4] [--seeds 0]

The same model, the same 512 calibration images of the training set (chosen anew for each seed), weights only, every
layer, at most 2^b levels per channel (checked), top-1 on all test images. Brevitas is used as in its own
post-training example: `preprocess_for_quantize` merges the batch norms, `layerwise_quantize`, one forward pass, GPTQ,
GPFQ or Qronos in the order of the activations, bias correction; images in batches of 64. Weights are on its
per-channel asymmetric grid with an integer zero point, and scale and zero point of least squared error, the most
accurate grid of those tried. Times cover everything from the float model to the quantized one; accuracies are means
over the seeds, `range` is their largest minus their smallest. With one seed and three widths ResNet-20 takes about 6
minutes on 2 idle cores, ResNet-56 three times as long: give fewer widths to save time.
"""

import argparse
import copy
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cifar import dataset
from benchmarks.report import circumstances, publish, summary
from kdq.data.dataset import Dataset
from kdq.distill.teachers import find_checkpoint
from kdq.errors import UserError
from kdq.models.checkpoint import IMAGENET, Checkpoint, load
from kdq.models.classifier import Classifier
from kdq.models.evaluate import top1
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import choose_calibration, quantize
from kdq.store.folder_store import StageStore

BATCH = 64
"""Calibration images per batch: the default of Brevitas' example."""
OURS = "kdq least_squares"

Quantize = Callable[[Classifier, Tensor, int], Classifier]
"""Takes a float model, calibration images (uint8) and bits; returns the quantized model."""


def ours(model: Classifier, images: Tensor, bits: int) -> Classifier:
    return quantize(model, images, QuantizeConfig(bits)).model


def brevitas(solver: str, model: Classifier, images: Tensor, bits: int) -> Classifier:
    """Quantize with one of Brevitas' solvers: `gptq`, `gpfq` or `qronos`."""
    from brevitas.graph.calibrate import bias_correction_mode
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize

    made = copy.deepcopy(model).eval()
    batches = [(batch.float() / 255 - made.mean) / made.std for batch in torch.split(images, BATCH)]
    net = layerwise_quantize(preprocess_for_quantize(made.net), _layer_map(bits)).eval()
    net(batches[0])  # the first forward pass computes its scales
    with _mode(solver, net) as mode:
        for _ in range(mode.num_layers):
            for batch in batches:
                mode.model(batch)
            mode.update()
    with bias_correction_mode(net):
        for batch in batches:
            net(batch)
    made.net = net
    return made


def _layer_map(bits: int) -> dict[type[nn.Module], tuple[type[nn.Module], dict[str, Any]]]:
    import brevitas.nn
    from brevitas.core.scaling.standalone import ParameterFromStatsFromParameterScaling
    from brevitas.core.zero_point import ParameterFromStatsFromParameterZeroPoint
    from brevitas.quant.shifted_scaled_int import ShiftedUint8WeightPerChannelFloatMSE

    grid = ShiftedUint8WeightPerChannelFloatMSE.let(
        bit_width=bits,
        narrow_range=False,
        scaling_impl=ParameterFromStatsFromParameterScaling,
        zero_point_impl=ParameterFromStatsFromParameterZeroPoint,
    )
    options = {"weight_quant": grid, "input_quant": None, "bias_quant": None, "return_quant_tensor": False}
    layers = brevitas.nn.QuantConv2d, brevitas.nn.QuantLinear
    return {nn.Conv2d: (layers[0], options), nn.Linear: (layers[1], options)}


def _mode(solver: str, net: nn.Module) -> Any:
    """Return the context in which Brevitas quantizes layer by layer."""
    from brevitas.graph.gpfq import gpfq_mode
    from brevitas.graph.gptq import gptq_mode
    from brevitas.graph.qronos import Qronos

    if solver == "gptq":
        return gptq_mode(net, act_order=True, use_quant_activations=False)
    algorithm = {"algorithm_impl": Qronos} if solver == "qronos" else {}
    return gpfq_mode(net, act_order=True, **algorithm)


def check_levels(model: Classifier, bits: int) -> None:
    """Assert that every layer is quantized to at most 2^b levels per channel, and that no batch norm remains."""
    for module in model.modules():
        assert not isinstance(module, nn.BatchNorm2d)
        if isinstance(module, nn.Conv2d | nn.Linear):
            quantized: Any = getattr(module, "quant_weight", None)
            weight = module.weight if quantized is None else quantized().value
            assert max(len(row.unique()) for row in weight.flatten(1)) <= 1 << bits, module


QUANTIZERS: dict[str, Quantize] = {
    OURS: ours,
    "brevitas gptq": partial(brevitas, "gptq"),
    "brevitas gpfq": partial(brevitas, "gpfq"),
    "brevitas qronos": partial(brevitas, "qronos"),
}


def measure(name: str, model: Classifier, data: Dataset, images: int, bits: int, seed: int) -> tuple[float, float]:
    """Return the test top-1 in percent and the time in seconds."""
    calibration = choose_calibration(data.train_images, seed=seed, count=images)
    started = time.perf_counter()
    made = QUANTIZERS[name](model, calibration, bits)
    seconds = time.perf_counter() - started
    check_levels(made, bits)
    found = top1(made, data.test_images, data.test_labels), seconds
    print(f"{bits} bits  {name}  seed {seed}  {found[0]:.2f} %  {seconds:.1f} s", flush=True)
    return found


@torch.no_grad()
def rows(model: Classifier, data: Dataset, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each width and quantizer; ratios are of medians at the same width in this run."""
    found: list[dict[str, Any]] = []
    for bits in _numbers(options.bits):
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in QUANTIZERS}
        for seed in _numbers(options.seeds):
            for name, results in runs.items():
                results.append(measure(name, model, data, options.images, bits, seed))
        ours_took = median(seconds for _, seconds in runs[OURS])
        for name, results in runs.items():
            accuracies, times = zip(*results, strict=True)
            row: dict[str, Any] = {"quantizer": name, "bits": bits}
            row |= {"test top-1": f"{fmean(accuracies):.2f}", "range": f"{max(accuracies) - min(accuracies):.2f}"}
            row |= {**summary(times), "x ours": median(times) / ours_took}
            found.append(row)
    return found


def run(options: argparse.Namespace) -> None:
    if find_spec("brevitas") is None:
        raise UserError("Brevitas is not installed: pip install '.[benchmarks]' (you can use a separate environment)")
    warnings.filterwarnings("ignore")  # from Brevitas, about PyTorch versions
    torch.set_num_threads(options.threads)
    head = {"unit": "s", "arch": options.arch, **circumstances(options.threads), "brevitas": version("brevitas")}
    with tempfile.TemporaryDirectory() as folder:
        data = dataset(options.data_dir, StageStore(Path(folder)), images=45_000, val_images=5_000)
        checkpoint = Checkpoint(options.arch, find_checkpoint(options.data_dir, f"{options.arch}-*.th"))
        model = load(checkpoint, classes=data.classes, normalization=IMAGENET)
        print(f"float: {top1(model, data.test_images, data.test_labels):.2f} %")
        publish(f"brevitas_peer-{options.arch}", head, rows(model, data, options))


def main() -> int:
    try:
        run(_options())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.brevitas_peer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10 and checkpoints/")
    parser.add_argument("--arch", default="resnet20", help="a checkpoint's architecture (default: resnet20)")
    parser.add_argument("--bits", default="2,3,4", help="widths (default: 2,3,4)")
    parser.add_argument("--seeds", default="0", help="seeds of the calibration images, one round for each (default: 0)")
    parser.add_argument("--images", type=int, default=512, help="calibration images (default: 512)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
