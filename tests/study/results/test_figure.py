from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from kdq.bits import BIT_WIDTHS
from study.results.figure import accuracy_limits, draw_front
from study.results.front import seed_groups, with_front
from study.results.point import Point

POINT = Point("t1", "dkd", 1.0, 8.0, 4.0, None, 0, "resnet20", 3, 3.2, 900_000, 112_500, 85.0, 84.0)


def sweep(accuracies, **changes):
    return [
        replace(POINT, bits=bits, total_bits=bits * 300_000, val_top1=accuracy, test_top1=accuracy, **changes)
        for bits, accuracy in zip(BIT_WIDTHS, accuracies, strict=False)
    ]


def thousand():
    random = np.random.default_rng(0)
    return [
        replace(point, alpha=float(i), method=method, val_top1=float(np.clip(point.val_top1 + noise, 0, 100)))
        for i, noise in enumerate(random.normal(0, 1, 125))
        for method in (["ce", "vkd", "dkd", "mixup"][i % 4],)
        for point in sweep([12, 55, 85, 89, 90, 90.3, 90.3, 90.4])
    ]


SETS = {
    "none": [],
    "one": [POINT],
    "perfect": [replace(POINT, val_top1=100.0, test_top1=100.0)],
    "zero": [replace(POINT, val_top1=0.0, test_top1=0.0)],
    "equal": [POINT, POINT],
    "sweep": sweep([12, 55, 85, 89, 90, 90.3, 90.3, 90.4, 90.5]),
    "seeds": [point for seed in range(3) for point in sweep([12, 55, 85 + seed], seed=seed)],
    "methods": [point for method in "abcdefghijklm" for point in sweep([50, 60], method=method)],
    "thousand": thousand(),
    "mixed": [*sweep([12, 55, 85, 89]), *(replace(p, bits=f"mixed-0000000{p.bits}") for p in sweep([10, 60, 90]))],
    "wide": [replace(POINT, total_bits=10), replace(POINT, bits=8, total_bits=10**10, val_top1=90.0)],
}


@pytest.mark.parametrize("name", SETS)
def test_every_set_of_points_is_drawn(name, tmp_path):
    draw_front(SETS[name], tmp_path / "new" / "front.png", f"{name} $ _x^ ü")
    with Image.open(tmp_path / "new" / "front.png") as image:
        assert image.size == (1200, 800)
        assert len(image.convert("RGB").getcolors(maxcolors=2**20)) > 10
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["front.png"]


def test_the_same_points_give_the_same_picture(tmp_path):
    for name in ("a", "b"):
        draw_front(SETS["sweep"], tmp_path / f"{name}.png", "sweep")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_failed_write_leaves_the_old_figure(tmp_path, monkeypatch):
    path = tmp_path / "front.png"
    path.write_bytes(b"old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_front([POINT], path, "new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def limits(accuracies):
    groups = seed_groups(with_front(sweep(accuracies)))
    return accuracy_limits([group for group in groups if group.on_front], min(accuracies))


def test_the_axis_resolves_the_front_above_its_outliers():
    low, high = limits([12, 55, 85, 89, 90, 90.3, 90.3, 90.4])
    assert 80 < low < 85
    assert 90.4 < high < 92


@pytest.mark.parametrize("accuracies", [[50], [0], [100], [10, 90], [60, 80, 90], [85, 89, 90]])
def test_the_axis_shows_all_of_a_front_without_outliers(accuracies):
    low, high = limits(accuracies)
    assert low < min(accuracies) <= max(accuracies) < high


def test_the_axis_shows_what_lies_within_five_points_of_a_tight_front():
    front = seed_groups(with_front(sweep([49.0, 49.4])))
    low, _ = accuracy_limits(front, lowest_point=46.0)
    assert low < 46.0
    low, _ = accuracy_limits(front, lowest_point=20.0)
    assert 43 < low < 44.4


@pytest.mark.parametrize(("name", "begins"), [("f.png", b"\x89PNG"), ("f.svg", b"<?xml"), ("f.PDF", b"%PDF")])
def test_the_suffix_names_the_format(tmp_path, name, begins):
    files = [tmp_path / "1" / name, tmp_path / "2" / name]
    for file in files:
        draw_front([], file, "title")
    first, second = (file.read_bytes() for file in files)
    assert first.startswith(begins)
    assert first == second
