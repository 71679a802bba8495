"""Whether a GPU computes what the CPU does, on a published ResNet-20: accuracy, codes, one short epoch.

`evidence` runs on both; the CPU's is made beforehand, so that a GPU does not wait for it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kdq.data.augment import AugmentConfig
from kdq.data.dataset import Dataset, open_dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.distill.trainer import Trainer
from kdq.models.checkpoint import IMAGENET, Checkpoint, load
from kdq.models.classifier import build
from kdq.models.evaluate import top1
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import choose_calibration, quantize_many
from kdq.quantize.result import Quantized

EXPECTED = "expected.npz"
IMAGES, BATCH, CALIBRATION, BITS = 1280, 128, 128, 4
ALLOWED = {"top1": 0.05, "rtn": 1e-4, "least_squares_top1": 0.5, "least_squares_error": 0.02, "loss": 5e-3}
"""Differences: accuracies in points, a share of codes, and relative ones of the layers' mean error and of the loss.

They are guesses, made without a GPU: the study continues with more, but not with GROSS times as much. Codes of
`least_squares` are not compared one by one: each depends on the rounding of all before it. On a CPU without oneDNN,
whose convolutions sum in another order, the differences are 0, 0, 0.11, 0.0026 and 0.0003.
"""

GROSS = 20

Evidence = dict[str, NDArray[np.float64] | NDArray[np.uint8]]


def evidence(checkpoint: Path, stage: Path, device: str) -> Evidence:
    """Accuracy of the checkpoint on the test images, what two quantizers make of it, the loss of a short epoch.

    checkpoint: a file `ARCH.th`; stage: the folder of the data.
    """
    arch, data = checkpoint.stem, open_dataset(stage, train_images=None, val_images=1)
    model = load(Checkpoint(arch, checkpoint), classes=data.classes, normalization=IMAGENET).to(device)
    data = replace(
        data, train_images=data.train_images[:IMAGES].clone(), train_labels=data.train_labels[:IMAGES].clone()
    ).to(device)
    images = choose_calibration(data.train_images, seed=0, count=CALIBRATION)
    rtn, ours = quantize_many(model, images, [QuantizeConfig(BITS, method) for method in ("rtn", "least_squares")])
    return {
        "top1": np.array(top1(model, data.test_images, data.test_labels)),
        "rtn": _codes(rtn),
        "least_squares_top1": np.array(top1(ours.model, data.test_images, data.test_labels)),
        "least_squares_error": np.array([row.error for row in ours.report]).mean(keepdims=True),
        "loss": np.array(_loss(arch, data)),
    }


def _codes(quantized: Quantized) -> NDArray[np.uint8]:
    return torch.cat([layer.codes.flatten().cpu() for layer in quantized.layers.values()]).numpy()


def _loss(arch: str, data: Dataset) -> float:
    config = TrainConfig(epochs=1, batch_size=BATCH, lr=0.02, ema=0.9, augment=AugmentConfig(crop_padding=4, flip=True))
    student = build(arch, classes=data.classes, normalization=data.normalization, seed=0)
    student.to(data.train_images.device)
    trainer = Trainer(config, MethodConfig.parse({"method": "ce"}), student, None, data, stream_seed=0)
    return trainer.run_epoch()["train_loss"]


def compare(found: Evidence, wanted: Evidence) -> list[dict[str, str | float | bool]]:
    """A row for each kind of evidence: the difference, what is allowed, whether it holds, and whether it is gross."""
    rows: list[dict[str, str | float | bool]] = []
    for name, allowed in ALLOWED.items():
        here, there = found[name], wanted[name]
        if name == "rtn":
            difference = float((here != there).mean())
        else:
            scale = 1.0 if name.endswith("top1") else float(np.abs(there).mean())
            difference = float(np.abs(here - there).mean()) / scale
        holds, is_gross = difference <= allowed, not difference <= GROSS * allowed  # of NaN: False and True
        rows.append({"check": name, "difference": difference, "allowed": allowed, "holds": holds, "gross": is_gross})
    return rows
