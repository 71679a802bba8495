"""Probes: what a student in training would be worth quantized, measured quickly and kept as a stage."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from kdq import plugins
from kdq.bits import FLOAT_BITS
from kdq.data.dataset import Dataset
from kdq.models.classifier import Classifier
from kdq.models.evaluate import accuracy, logits_many
from kdq.pack.size import total_bits
from kdq.quantize.config import QuantizeConfig, QuantizerSpec
from kdq.quantize.model import choose_calibration, quantize_many
from kdq.store.damage import read_json
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

PROBE_VERSION = 2
PROBE_FILE = "probe.json"
CALIBRATION_IMAGES = 64
VAL_IMAGES = 1000
"""So many of the validation images, the same ones for every probe, give an accuracy to 1.5 points (one deviation)."""

Probe = list[tuple[int, float, int]]
"""(bits, validation accuracy in percent, total bits): float first, then each width."""


def probe(
    store: StageStore,
    student: str,
    widths: Sequence[int],
    quantizer: QuantizerSpec,
    seed: int,
    model: Callable[[], Classifier] | None,
    data: Callable[[], Dataset],
) -> Probe | None:
    """What a student (the id of its stage at an epoch) shows at each width; None if that would need a model.

    model: it, on the data's device, or None if it is there no more; it is left as it was.
    """
    bits = tuple(dict.fromkeys((FLOAT_BITS, *widths)))
    sizes = {"calibration_images": CALIBRATION_IMAGES, "val_images": VAL_IMAGES}
    inputs = {"student": student, "bits": bits, "quantizer": asdict(quantizer), "seed": seed, **sizes}
    inputs |= plugins.identity(("quantizer", quantizer.method))
    stage = Stage("probe", PROBE_VERSION, inputs)
    if model is None and store.find(stage) is None:
        return None

    def write(folder: Path) -> None:
        assert model is not None
        found = _measure(model(), data(), bits, quantizer, seed)
        (folder / PROBE_FILE).write_text(json.dumps(found))

    folder = store.make(stage, write)
    return [(width, accuracy, size) for width, accuracy, size in read_json(folder / PROBE_FILE)]


def _measure(model: Classifier, data: Dataset, bits: Sequence[int], quantizer: QuantizerSpec, seed: int) -> Probe:
    images = choose_calibration(data.train_images, seed=seed, count=CALIBRATION_IMAGES)
    own = quantizer.method, quantizer.params, quantizer.activation_bits
    made = quantize_many(model, images, [QuantizeConfig(width, *own, seed=seed) for width in bits])
    found = logits_many([each.model for each in made], data.val_images[:VAL_IMAGES])
    accuracies = [accuracy(logits, data.val_labels[:VAL_IMAGES]) for logits in found]
    return [(width, top1, total_bits(each)) for width, top1, each in zip(bits, accuracies, made, strict=True)]
