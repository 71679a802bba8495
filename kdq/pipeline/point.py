"""A point: one model at one allocation of bits, quantized, packed and evaluated, as a stage of the store."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from kdq.bits import Allocation
from kdq.data.dataset import Dataset
from kdq.models.classifier import Classifier
from kdq.models.evaluate import accuracy, logits_many
from kdq.pack.file import pack
from kdq.pack.size import avg_bits, paper_bits, size_breakdown, total_bits
from kdq.quantize.config import QuantizeConfig, QuantizerSpec
from kdq.quantize.model import choose_calibration, quantize_many
from kdq.quantize.result import Quantized
from kdq.store.damage import read_json
from kdq.store.folder_store import StageStore
from kdq.store.stage import Json, Stage

POINT_VERSION = 3
PACKED_FILE = "model.safetensors"
MEASUREMENT_FILE = "measurement.json"
LAYERS_FILE = "layers.json"


@dataclass(frozen=True, slots=True)
class PointSpec:
    """All that determines a point. model: id of the stage whose weights are quantized; data: a fingerprint."""

    model: str
    data: str
    bits: Allocation
    quantizer: QuantizerSpec
    calibration_images: int
    seed: int

    def stage(self) -> Stage:
        return Stage("point", POINT_VERSION, {**asdict(self), "bits": self.bits.document()})

    @property
    def config(self) -> QuantizeConfig:
        own = self.quantizer
        return QuantizeConfig(self.bits, own.method, own.params, own.activation_bits, seed=self.seed)


def measured(folder: Path) -> dict[str, Json]:
    """What the point in `folder` measured: total_bits, avg_bits, packed_bytes, val_top1, test_top1, …"""
    measurement: dict[str, Json] = read_json(folder / MEASUREMENT_FILE)
    return measurement


class Known(NamedTuple):
    """Top-1 accuracies in percent of the float model, as far as the stage that made it has measured them."""

    val: float | None = None
    test: float | None = None


def measure(
    store: StageStore,
    specs: Sequence[PointSpec],
    model: Callable[[], Classifier],
    data: Callable[[], Dataset],
    known: Callable[[], Known] = Known,
) -> Iterator[tuple[PointSpec, Path]]:
    """Every point and its folder, in the order asked for; those that the store lacks are made, together.

    The specs differ in their bits only. `model`, `data` and `known` are called only if something has to be made;
    the first two must give the same device. What is known of the float model is not measured again.
    """
    made: dict[Allocation, _Made] = {}
    model = cache(model)
    for spec in specs:
        if spec.bits not in made and store.find(spec.stage()) is None:
            # The float point alone and first: it stands even if the model cannot be quantized.
            is_float = spec.bits.is_float
            missing = [s for s in specs if s.bits.is_float == is_float and store.find(s.stage()) is None]
            made |= _quantize(missing, model(), data(), known() if is_float else Known())
        if spec.bits in made:
            yield spec, store.make(spec.stage(), partial(_write, bits=spec.bits, made=made[spec.bits]))
        else:
            yield spec, store.path(spec.stage())


class _Accuracies(NamedTuple):
    """Top-1 in percent, and the seconds of one model's share of the evaluation."""

    val: float
    test: float
    seconds: float


class _Made(NamedTuple):
    """A quantized model, and the function that evaluates it together with others, by their bits."""

    quantized: Quantized
    evaluate: Callable[[], Mapping[Allocation, _Accuracies]]


def _quantize(specs: Sequence[PointSpec], model: Classifier, data: Dataset, known: Known) -> dict[Allocation, _Made]:
    """The models by their bits. They are evaluated when the first is about to be stored, unless another process has."""
    images = choose_calibration(data.train_images, seed=specs[0].seed, count=specs[0].calibration_images)
    made = quantize_many(model, images, [spec.config for spec in specs])
    quantized = {spec.bits: one for spec, one in zip(specs, made, strict=True)}
    evaluate = cache(partial(_evaluate, {bits: one.model for bits, one in quantized.items()}, data, known))
    return {bits: _Made(one, evaluate) for bits, one in quantized.items()}


def _evaluate(models: Mapping[Allocation, Classifier], data: Dataset, known: Known) -> Mapping[Allocation, _Accuracies]:
    """Evaluate the models in one pass over the images; those of which the accuracy is not known."""
    started = time.perf_counter()
    parts = (known.val, data.val_images, data.val_labels), (known.test, data.test_images, data.test_labels)
    val, test = (
        [accuracy(found, labels) for found in logits_many(list(models.values()), images)]
        if given is None
        else [given] * len(models)
        for given, images, labels in parts
    )
    seconds = (time.perf_counter() - started) / len(models)
    return {bits: _Accuracies(v, t, seconds) for bits, v, t in zip(models, val, test, strict=True)}


def _write(folder: Path, bits: Allocation, made: _Made) -> None:
    quantized, accuracies = made.quantized, made.evaluate()[bits]
    pack(quantized, folder / PACKED_FILE)
    measurement = {
        "total_bits": total_bits(quantized),
        "avg_bits": avg_bits(quantized),
        "paper_bits": paper_bits(quantized),
        "packed_bytes": (folder / PACKED_FILE).stat().st_size,
        "val_top1": accuracies.val,
        "test_top1": accuracies.test,
        "evaluate_seconds": accuracies.seconds,
    }
    layers = {
        "size_breakdown": [asdict(row) for row in size_breakdown(quantized)],
        "layers": [asdict(row) for row in quantized.report],
    }
    (folder / MEASUREMENT_FILE).write_text(json.dumps(measurement, indent=1))
    (folder / LAYERS_FILE).write_text(json.dumps(layers, indent=1))
