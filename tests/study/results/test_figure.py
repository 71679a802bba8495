import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from PIL import Image

from kdq.bits import BIT_WIDTHS
from kdq.errors import UserError
from study.results.compare import Interval
from study.results.figure import accuracy_limits, draw_front, draw_fronts
from study.results.front import seed_groups, with_front
from study.results.hues import COLUMNS, hues
from study.results.marks import Drawn
from study.results.point import Point
from study.results.style import CATEGORIES, MUTED

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


def texts(studies, tmp_path, **options):
    """The texts of a figure, which an SVG has as comments."""
    draw_fronts(studies, tmp_path / "f.svg", "title", **options)
    found = re.findall(r"<!--(.*?)-->", (tmp_path / "f.svg").read_text(), flags=re.DOTALL)
    return [unescape(text).strip() for text in found]


SEEDS = [point for seed in range(2) for point in sweep([12, 55, 85 + seed], seed=seed)]


def test_the_legend_explains_whatever_can_be_above_the_line(tmp_path):
    lacking = sweep([13, 56, 95], alpha=2.0)
    drawn = texts([Drawn("a", [*SEEDS, *lacking], 93.0)], tmp_path)
    assert {"single seeds", "seeds missing (3), not compared", "teacher: 93.00 %"} <= set(drawn)
    caption = " ".join(text for text in drawn if "luck" in text or "configuration" in text)
    assert "mean over 2 seeds" in caption
    assert "Single seeds and marks with missing seeds can be above it" in caption
    alone = texts([Drawn("a", sweep([12, 55, 85]))], tmp_path)
    assert not {"single seeds", "seeds missing (3), not compared", "95 % interval"} & set(alone)
    assert not any("above it" in text for text in alone)


def test_means_on_the_front_alone_have_intervals_and_none_lacks_seeds(tmp_path):
    asked = []

    def interval(group):
        asked.append(group)
        return Interval(group.mean("val_top1"), 80.0, 90.0, True)

    worse = [*sweep([11, 54, 60], alpha=3.0), *sweep([11, 54, 60], alpha=3.0, seed=1)]
    lacking = sweep([99, 99, 99], alpha=2.0)
    assert "95 % interval" in texts([Drawn("a", [*SEEDS, *worse, *lacking], None, interval)], tmp_path)
    assert {group.points[0].alpha for group in asked} == {1.0}


def test_several_studies_have_one_front_and_a_colour_each(tmp_path):
    studies = [Drawn("first", sweep([12, 55, 85]), 90.0), Drawn("_$second$", sweep([50, 60, 70]), 91.0)]
    drawn = texts(studies, tmp_path)
    assert {"first", "_$second$", "teacher of _$second$: 91.00 %"} <= set(drawn)
    one = hues("study", [(each.name, point) for each in studies for point in each.points])
    assert list(one.colours.items()) == [("first", CATEGORIES[0]), ("_$second$", CATEGORIES[1])]


def test_the_teacher_itself_is_no_student(tmp_path):
    student = replace(POINT, bits=32, total_bits=8_000_000, val_top1=90.0)
    teacher = replace(student, method="teacher", alpha=None, beta=None, temperature=None, val_top1=95.0)
    assert "best float student: 90.00 %" in texts([Drawn("a", [student, teacher])], tmp_path)


@pytest.mark.parametrize("by", COLUMNS)
def test_every_column_colours_points(by, tmp_path):
    draw_fronts([Drawn("a", SETS["seeds"]), Drawn("b", SETS["mixed"])], tmp_path / "f.png", "title", by)
    with Image.open(tmp_path / "f.png") as image:
        assert image.size == (1200, 800)


def test_few_numbers_have_a_legend_and_many_a_bar():
    def of(values):
        return hues("alpha", [("a", replace(POINT, alpha=value)) for value in values])

    assert list(of([2.0, 0.5, None]).legend) == ["alpha 0.5", "alpha 2", "no alpha"]
    many = of([float(value) for value in range(20)])
    assert many.legend == {}
    assert many.bar.get_clim() == (0.0, 19.0)
    assert len(set(many.colours.values())) == 20


def test_a_category_that_is_left_alone_is_named():
    def legend(count, *more):
        students = [f"net{number}" for number in range(count)]
        return list(hues("student", [("a", replace(POINT, student=student)) for student in (*students, *more)]).legend)

    assert legend(8) == [f"net{number}" for number in range(8)]
    assert legend(9)[7:] == ["2 others"]
    assert legend(8, "")[7:] == ["1 others", "no student"]  # both are grey


def test_the_most_frequent_categories_have_colours():
    points = [replace(POINT, student=f"net{n}") for n in range(12) for _ in range(n + 1)]
    found = hues("student", [("a", point) for point in points])
    assert set(found.colours) == {f"net{n}" for n in range(5, 12)}
    assert found.legend["5 others"] == MUTED
    assert found.colour("a", points[0]) == MUTED


def test_an_unknown_column_is_refused(tmp_path):
    with pytest.raises(UserError, match="unknown column to colour by 'metod': did you mean 'method'"):
        draw_fronts([Drawn("a", [POINT])], tmp_path / "f.png", "title", "metod")


def test_a_figure_without_points_says_why(tmp_path):
    assert "no points; trials: 2 failed" in texts(
        [Drawn("a", [])], tmp_path, by="student", nothing="no points; trials: 2 failed"
    )


def test_ten_thousand_points_are_drawn(tmp_path):
    points = [replace(p, trial_id=f"{n}", alpha=p.alpha + n) for n in range(10) for p in thousand()]
    assert len(points) == 10_000
    draw_front(points, tmp_path / "f.png", "many")
    with Image.open(tmp_path / "f.png") as image:
        assert len(image.convert("RGB").getcolors(maxcolors=2**20)) > 10
