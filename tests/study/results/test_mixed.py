"""A point of mixed precision, from its specification to the tables: it goes everywhere by its label."""

import json
from pathlib import Path

import pytest
import torch

from kdq.bits import FLOAT, Allocation
from kdq.data.dataset import Dataset
from kdq.models.classifier import Normalization, build
from kdq.pipeline.point import PointSpec, measure, measured
from kdq.quantize.config import QuantizerSpec
from kdq.quantize.model import layer_names
from kdq.store.folder_store import StageStore
from study.results.figure import draw_front
from study.results.front import best, seed_groups, with_front
from study.results.point import METRICS, Point, from_row
from study.results.tables import as_table, as_text, from_csv, front_table, to_csv, to_json

NORMALIZATION = Normalization((0.5,), (0.3,))
MODEL = build("resnet8", classes=3, normalization=NORMALIZATION, seed=0).eval()
FIRST, *OTHERS = layer_names(MODEL)
MIXED = Allocation.of({FIRST: 8, **dict.fromkeys(OTHERS, 2)})


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[Point]:
    """A model that was not trained, at float, 4 bits and mixed."""
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(60) % 3
    parts = (images[:20], labels[:20], images[20:40], labels[20:40], images[40:], labels[40:])
    data = Dataset("made", ("a", "b", "c"), NORMALIZATION, *parts, fingerprint="made")
    specs = [PointSpec("m", "made", bits, QuantizerSpec(), 16, 0) for bits in (FLOAT, Allocation.uniform(4), MIXED)]
    store = StageStore(tmp_path_factory.mktemp("stages"))
    row = {"trial_id": "t", "method": "ce", "seed": 0, "student": "resnet8"}
    measurements = measure(store, specs, lambda: MODEL, lambda: data)
    return [from_row({**row, "bits": spec.bits.column, **measured(folder)}) for spec, folder in measurements]


def test_its_size_lies_between_those_of_its_widths(points: list[Point]) -> None:
    assert [point.bits for point in points] == [32, 4, MIXED.label]
    assert 2 < points[2].avg_bits < points[1].avg_bits
    assert points[2].total_bits < points[1].total_bits < points[0].total_bits


def test_csv_and_json_bring_it_back_with_its_label(points: list[Point]) -> None:
    assert f",resnet8,{MIXED.label},{points[2].avg_bits}," in to_csv(points)
    assert from_csv(to_csv(points)) == points
    assert [from_row(row) for row in json.loads(to_json(points))] == points
    parameters = {"trial_id": "t", "method": "ce", "seed": "0", "student": "resnet8", "bits": MIXED.label}
    measures = {n: getattr(points[2], n) for n in ("avg_bits", "total_bits", "packed_bytes", "val_top1", "test_top1")}
    measures |= {name: getattr(points[2], name) for name in METRICS}
    assert from_row({**parameters, **measures}) == points[2]  # as MLflow has it


def test_it_is_a_configuration_of_its_own_on_the_front(points: list[Point]) -> None:
    assert [group.bits for group in seed_groups(points)] == [32, 4, MIXED.label]
    marked = with_front(points)
    assert marked[2].on_front  # it is the smallest
    assert best(marked, points[2].total_bits).bits == MIXED.label
    assert best(marked, points[2].total_bits).row()["bits"] == MIXED.label
    assert front_table(marked)["bits"].tolist()[0] == MIXED.label


def test_tables_and_the_figure_name_it(points: list[Point], tmp_path: Path) -> None:
    assert as_table(points)["bits"].tolist() == [32, 4, MIXED.label]
    assert MIXED.label in as_text(as_table(points))
    assert MIXED.label in as_text(front_table(points))
    draw_front(points, tmp_path / "with.png", "front")
    draw_front(points[:2], tmp_path / "without.png", "front")
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()
