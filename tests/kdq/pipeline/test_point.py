"""Points as stages: quantized together, measured, packed, and found again."""

import json
from pathlib import Path

import pytest
import torch

from kdq.data.dataset import Dataset
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import top1
from kdq.pack.file import load, payload_bytes
from kdq.pipeline.point import LAYERS_FILE, PACKED_FILE, PointSpec, measure, measured
from kdq.quantize.config import QuantizerSpec
from kdq.store.folder_store import StageStore

WIDTHS = (32, 2, 8)


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 3
    parts = (images[:20], labels[:20], images[20:40], labels[20:40], images[40:], labels[40:])
    return Dataset("made", ("a", "b", "c"), Normalization((0.5,), (0.3,)), *parts, fingerprint="made")


@pytest.fixture(scope="module")
def model(data: Dataset) -> Classifier:
    return build("resnet8", classes=3, normalization=data.normalization, seed=0).eval()


def specs(*widths: int) -> list[PointSpec]:
    return [PointSpec("model", "made", bits, QuantizerSpec(), 16, seed=0) for bits in widths]


def test_a_point_measures_its_own_packed_file(tmp_path: Path, model: Classifier, data: Dataset) -> None:
    for spec, folder in measure(StageStore(tmp_path), specs(*WIDTHS), lambda: model, lambda: data):
        found = measured(folder)
        packed = folder / PACKED_FILE
        assert found["total_bits"] == 8 * payload_bytes(packed)
        assert found["packed_bytes"] == packed.stat().st_size
        loaded = load(packed)
        assert found["val_top1"] == top1(loaded, data.val_images, data.val_labels)
        assert found["test_top1"] == top1(loaded, data.test_images, data.test_labels)
        layers = json.loads((folder / LAYERS_FILE).read_text())
        total = sum(row["codes"] + row["scales"] + row["leftovers"] for row in layers["size_breakdown"])
        assert total == found["total_bits"]
        assert {row["bits"] for row in layers["layers"]} == (set() if spec.bits == 32 else {spec.bits})


def test_the_order_is_kept_and_only_what_is_missing_is_made(tmp_path: Path, model: Classifier, data: Dataset) -> None:
    store = StageStore(tmp_path)
    loads: list[int] = []

    def load_model() -> Classifier:
        loads.append(1)
        return model

    (first,) = measure(store, specs(2), load_model, lambda: data)
    found = list(measure(store, specs(*WIDTHS), load_model, lambda: data))
    assert [spec.bits for spec, _ in found] == list(WIDTHS)
    assert found[1] == first
    assert len(loads) == 2
    again = list(measure(store, specs(*WIDTHS), load_model, lambda: data))
    assert again == found
    assert len(loads) == 2


def test_widths_together_are_the_widths_alone(tmp_path: Path, model: Classifier, data: Dataset) -> None:
    together = list(measure(StageStore(tmp_path / "a"), specs(2, 3), lambda: model, lambda: data))
    ((_, alone),) = measure(StageStore(tmp_path / "b"), specs(3), lambda: model, lambda: data)
    assert (together[1][1] / PACKED_FILE).read_bytes() == (alone / PACKED_FILE).read_bytes()
