"""A point: one model at one allocation of bits, quantized, packed and evaluated, as a stage of the store."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

from kdq import plugins
from kdq.bits import Allocation
from kdq.data.dataset import Dataset
from kdq.models.classifier import Classifier
from kdq.pack.file import pack
from kdq.pack.size import avg_bits, paper_bits, size_breakdown, total_bits
from kdq.pipeline.accuracy import Evaluation, evaluate
from kdq.quantize.config import QuantizeConfig, QuantizerSpec
from kdq.quantize.model import choose_calibration, quantize_many
from kdq.quantize.result import Quantized
from kdq.store.damage import read_json
from kdq.store.folder_store import StageStore
from kdq.store.stage import Json, Stage

POINT_VERSION = 5
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
        own = plugins.identity(("quantizer", self.quantizer.method))
        return Stage("point", POINT_VERSION, {**asdict(self), "bits": self.bits.document(), **own})

    @property
    def config(self) -> QuantizeConfig:
        own = self.quantizer
        return QuantizeConfig(self.bits, own.method, own.params, own.activation_bits, seed=self.seed)


def measured(folder: Path) -> dict[str, Json]:
    """What the point in `folder` measured: total_bits, avg_bits, packed_bytes, val_top1, test_top1, val_nll, …"""
    measurement: dict[str, Json] = read_json(folder / MEASUREMENT_FILE)
    return measurement


def measure(
    store: StageStore,
    specs: Sequence[PointSpec],
    model: Callable[[], Classifier],
    data: Callable[[], Dataset],
    known: Callable[[], Evaluation | None] = lambda: None,
) -> Iterator[tuple[PointSpec, Path]]:
    """Every point and its folder, in the order asked for; those that the store lacks are made.

    They are quantized together, and evaluated and stored one by one: an interruption loses the points not stored yet.
    The specs differ in their bits only. `model`, `data` and `known` are called only if something has to be made;
    the first two must give the same device. known: the evaluation of the float model, which is not made again.
    """
    made: dict[Allocation, Quantized] = {}
    model = cache(model)
    for spec in specs:
        if spec.bits not in made and store.find(spec.stage()) is None:
            # The float point alone and first: it stands even if the model cannot be quantized.
            missing = [s for s in specs if s.bits.is_float == spec.bits.is_float and store.find(s.stage()) is None]
            made |= _quantize(missing, model(), data())
        if spec.bits in made:
            own = known if spec.bits.is_float else lambda: None
            yield spec, store.make(spec.stage(), partial(_write, quantized=made[spec.bits], data=data, known=own))
        else:
            yield spec, store.path(spec.stage())


def _quantize(specs: Sequence[PointSpec], model: Classifier, data: Dataset) -> dict[Allocation, Quantized]:
    images = choose_calibration(data.train_images, seed=specs[0].seed, count=specs[0].calibration_images)
    made = quantize_many(model, images, [spec.config for spec in specs])
    return {spec.bits: quantized for spec, quantized in zip(specs, made, strict=True)}


def _write(
    folder: Path, quantized: Quantized, data: Callable[[], Dataset], known: Callable[[], Evaluation | None]
) -> None:
    pack(quantized, folder / PACKED_FILE, data().signature)
    started = time.perf_counter()
    found = known() or evaluate(quantized.model, data())
    found.write(folder, data().class_names)
    measurement = {
        "total_bits": total_bits(quantized),
        "avg_bits": avg_bits(quantized),
        "paper_bits": paper_bits(quantized),
        "packed_bytes": (folder / PACKED_FILE).stat().st_size,
        **found.accuracies(),
        "evaluate_seconds": time.perf_counter() - started,
    }
    layers = {
        "size_breakdown": [asdict(row) for row in size_breakdown(quantized)],
        "layers": [asdict(row) for row in quantized.report],
    }
    (folder / MEASUREMENT_FILE).write_text(json.dumps(measurement, indent=1))
    (folder / LAYERS_FILE).write_text(json.dumps(layers, indent=1))
