"""Points as stages: quantized together, measured, packed, and found again."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdq.bits import Allocation
from kdq.correctness import decode
from kdq.correctness import top1 as percent
from kdq.data.dataset import Dataset
from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import logits, top1
from kdq.models.metrics import measure_logits
from kdq.pack.file import load, payload_bytes
from kdq.pipeline import accuracy
from kdq.pipeline.accuracy import evaluate, read_correct, read_evaluation
from kdq.pipeline.point import LAYERS_FILE, PACKED_FILE, POINT_VERSION, PointSpec, measure, measured
from kdq.quantize.config import QuantizerSpec
from kdq.quantize.model import layer_names
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

WIDTHS = (32, 2, 8)


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 3
    parts = (images[:20], labels[:20], images[20:38], labels[20:38], images[38:], labels[38:])
    return Dataset("made", ("a", "b", "c"), Normalization((0.5,), (0.3,)), *parts, fingerprint="made")


@pytest.fixture(scope="module")
def model(data: Dataset) -> Classifier:
    return build("resnet8", classes=3, normalization=data.normalization, seed=0).eval()


def specs(*allocations: int | Allocation) -> list[PointSpec]:
    given = [bits if isinstance(bits, Allocation) else Allocation.uniform(bits) for bits in allocations]
    return [PointSpec("model", "made", bits, QuantizerSpec(), 16, seed=0) for bits in given]


def mixed(model: Classifier, **changed: int) -> Allocation:
    """3 bits a layer but for these."""
    return Allocation.of({**dict.fromkeys(layer_names(model), 3), **changed})


def test_a_uniform_point_is_named_by_its_width_and_a_mixed_one_by_its_layers() -> None:
    quantizer = {"method": "least_squares", "params": {}, "activation_bits": None}
    rest = {"model": "model", "data": "made", "quantizer": quantizer, "calibration_images": 16, "seed": 0}
    for bits, document in ((Allocation.uniform(2), 2), (Allocation.of({"b": 2, "a": 2}), {"a": 2, "b": 2})):
        (spec,) = specs(bits)
        assert spec.stage().id == Stage("point", POINT_VERSION, {**rest, "bits": document}).id


def test_a_point_measures_its_own_packed_file(tmp_path: Path, model: Classifier, data: Dataset) -> None:
    for spec, folder in measure(StageStore(tmp_path), specs(*WIDTHS), lambda: model, lambda: data):
        found = measured(folder)
        packed = folder / PACKED_FILE
        assert found["total_bits"] == 8 * payload_bytes(packed)
        assert found["packed_bytes"] == packed.stat().st_size
        loaded = load(packed)
        assert loaded.signature == data.signature
        assert found["val_top1"] == top1(loaded, data.val_images, data.val_labels)
        assert found["test_top1"] == top1(loaded, data.test_images, data.test_labels)
        vectors = {part: decode(text) for part, text in read_correct(folder).items()}
        assert vectors["val"].tolist() == (logits(loaded, data.val_images).argmax(1) == data.val_labels).tolist()
        assert {f"{part}_top1": percent(vector) for part, vector in vectors.items()} == {
            name: found[name] for name in ("val_top1", "test_top1")
        }
        wanted = measure_logits(logits(loaded, data.test_images), data.test_labels)
        assert found["test_nll"] == pytest.approx(wanted.nll, rel=1e-6)
        assert {name for name in found if name.startswith("val_")} == {"val_top1", "val_balanced", "val_nll", "val_ece"}
        read = read_evaluation(folder)
        assert read.accuracies() == {name: found[name] for name in read.accuracies()}
        assert read.val.per_class == measure_logits(logits(loaded, data.val_images), data.val_labels).per_class
        assert read.agreement(read) == {"val_agreement": 100.0, "test_agreement": 100.0}
        layers = json.loads((folder / LAYERS_FILE).read_text())
        total = sum(row["codes"] + row["scales"] + row["leftovers"] for row in layers["size_breakdown"])
        assert total == found["total_bits"]
        assert {row["bits"] for row in layers["layers"]} == {spec.bits.document()} - {32}


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each evaluation of a model."""
    counts: list[int] = []

    def counted(model: Classifier, images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return logits(model, images)

    monkeypatch.setattr(accuracy, "logits", counted)
    return counts


def test_the_float_model_is_not_evaluated_again_if_its_evaluation_is_known(
    tmp_path: Path, model: Classifier, data: Dataset, evaluated: list[int]
) -> None:
    val, test = len(data.val_images), len(data.test_images)
    plain = measure(StageStore(tmp_path / "a"), specs(32, 2), lambda: model, lambda: data)
    wanted = [measured(folder) for _, folder in plain]
    assert evaluated == [val, test, val, test]
    evaluated.clear()
    known = evaluate(model, data)
    evaluated.clear()
    with_known = measure(StageStore(tmp_path / "b"), specs(32, 2), lambda: model, lambda: data, lambda: known)
    found = [measured(folder) for _, folder in with_known]
    assert evaluated == [val, test]
    for one, other in zip(found, wanted, strict=True):
        rounded = ("val_nll", "test_nll", "val_ece", "test_ece")  # of logits of a folded model, or of the plain one
        for name in rounded:
            assert one.pop(name) == pytest.approx(other.pop(name), rel=1e-5)
        assert {**one, "evaluate_seconds": 0} == {**other, "evaluate_seconds": 0}


@pytest.mark.parametrize("activation_bits", [None, 4])
def test_what_is_interrupted_keeps_the_points_stored_so_far(
    tmp_path: Path, model: Classifier, data: Dataset, evaluated: list[int], activation_bits: int | None
) -> None:
    store, quantizer = StageStore(tmp_path), QuantizerSpec(activation_bits=activation_bits)
    given = [replace(spec, quantizer=quantizer) for spec in specs(1, 2, 4)]
    with closing(measure(store, given, lambda: model, lambda: data)) as interrupted:
        next(interrupted)
    assert [store.find(spec.stage()) is not None for spec in given] == [True, False, False]
    evaluated.clear()
    for _, folder in measure(store, given, lambda: model, lambda: data):
        found, loaded = measured(folder), load(folder / PACKED_FILE)
        assert found["val_top1"] == top1(loaded, data.val_images, data.val_labels)
        assert found["test_top1"] == top1(loaded, data.test_images, data.test_labels)
    assert evaluated == 2 * [len(data.val_images), len(data.test_images)]


def test_the_order_is_kept_and_only_what_is_missing_is_made(tmp_path: Path, model: Classifier, data: Dataset) -> None:
    store = StageStore(tmp_path)
    loads: list[int] = []

    def load_model() -> Classifier:
        loads.append(1)
        return model

    (first,) = measure(store, specs(2), load_model, lambda: data)
    found = list(measure(store, specs(*WIDTHS), load_model, lambda: data))
    assert [spec.bits.document() for spec, _ in found] == list(WIDTHS)
    assert found[1] == first
    assert len(loads) == 2
    again = list(measure(store, specs(*WIDTHS), load_model, lambda: data))
    assert again == found
    assert len(loads) == 2


def test_widths_together_are_the_widths_alone(tmp_path: Path, model: Classifier, data: Dataset) -> None:
    together = list(measure(StageStore(tmp_path / "a"), specs(2, 3), lambda: model, lambda: data))
    ((_, alone),) = measure(StageStore(tmp_path / "b"), specs(3), lambda: model, lambda: data)
    assert (together[1][1] / PACKED_FILE).read_bytes() == (alone / PACKED_FILE).read_bytes()


def test_every_layer_of_a_mixed_point_has_its_own_width(tmp_path: Path, model: Classifier, data: Dataset) -> None:
    first, *_, last = layer_names(model)
    bits = mixed(model, **{first: 8, last: 32})
    together = specs(32, bits, 3, mixed(model))
    store = StageStore(tmp_path)
    points = {spec.bits: folder for spec, folder in measure(store, together, lambda: model, lambda: data)}
    layers = json.loads((points[bits] / LAYERS_FILE).read_text())
    widths = {row["layer"]: row["bits"] for row in layers["size_breakdown"]}
    assert widths == bits.document()
    assert measured(points[bits])["total_bits"] == 8 * payload_bytes(points[bits] / PACKED_FILE)
    assert load(points[bits] / PACKED_FILE).arch == "resnet8"
    uniform, same = (points[spec.bits] for spec in together[2:])
    assert uniform != same  # a mapping keeps its identity, though it computes the same
    assert (uniform / PACKED_FILE).read_bytes() == (same / PACKED_FILE).read_bytes()


def test_a_mixed_point_must_name_just_the_layers_of_the_model(tmp_path: Path, model: Classifier, data: Dataset) -> None:
    first, *rest = layer_names(model)
    for widths, message in (
        ({**dict.fromkeys(rest, 3), first + "x": 3}, f"unknown layer in bits '{first}x': did you mean '{first}'"),
        (dict.fromkeys(rest, 3), f"bits names no width for {first}: must name every layer"),
    ):
        with pytest.raises(UserError, match=message):
            list(measure(StageStore(tmp_path), specs(Allocation.of(widths)), lambda: model, lambda: data))
