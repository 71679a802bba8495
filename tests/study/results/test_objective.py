"""The metric that decides: a new one joins the conformance by itself."""

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.results.figure import draw_front
from study.results.front import best, front_hypervolume, on_front, seed_groups, with_front
from study.results.objective import OBJECTIVES, TOP1
from study.results.point import COLUMNS, Point
from study.results.tables import front_columns, front_table

SIZES = (400_000, 600_000, 600_000, 900_000, 1_300_000)
METRICS = {
    f"{part}_{name}": value
    for part, (name, value) in product(("val", "test"), {"top5": 99.0, "balanced": 70.0, "agreement": 80.0}.items())
}


def point(size: int, value: float, objective: str, seed: int = 0) -> Point:
    """A point with this value of the objective, and the same of all other metrics."""
    own = {**METRICS, "val_nll": 1.0, "test_nll": 1.0, "val_ece": 5.0, "test_ece": 5.0, "val_top1": 70.0}
    own |= {OBJECTIVES[objective].column: value}
    return Point(
        trial_id=f"{size}-{value}", method="dkd", alpha=float(size), beta=1.0, temperature=4.0, mixup_alpha=None,
        seed=seed, student="resnet8", bits=4, avg_bits=4.2, total_bits=size, packed_bytes=size // 8, test_top1=69.0,
        objective=objective, **own,
    )  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
class TestEveryObjective:
    def test_it_is_a_column_on_both_sets_of_images(self, name: str) -> None:
        assert {OBJECTIVES[name].column, OBJECTIVES[name].test_column} <= {*COLUMNS}
        assert {OBJECTIVES[name].column, "val_top1"} <= {*front_columns(OBJECTIVES[name])}
        assert len({*front_columns(OBJECTIVES[name])}) == len(front_columns(OBJECTIVES[name]))

    @given(st.floats(0, 10), st.floats(0, 10))
    def test_a_better_value_has_the_higher_score(self, name: str, one: float, other: float) -> None:
        metric = OBJECTIVES[name]
        assert metric.value(metric.score(one)) == pytest.approx(one, abs=1e-9)
        assert metric.score(metric.worst) == 0
        better = one > other if metric.is_higher_better else one < other
        assert (metric.score(one) > metric.score(other)) <= better
        assert metric.difference(metric.score(one) - metric.score(other)) == pytest.approx(one - other, abs=1e-9)

    @given(st.lists(st.floats(0, 10), min_size=1, max_size=5))
    def test_the_front_and_the_best_are_by_it(self, name: str, values: list[float]) -> None:
        points = [point(size, value, name) for size, value in zip(SIZES, values, strict=False)]
        scores = [(each.score, each.total_bits) for each in points]

        def is_dominated(score: float, size: int) -> bool:
            return any(s >= score and b <= size and (s, b) != (score, size) for s, b in scores)

        assert [each.on_front for each in with_front(points)] == [not is_dominated(*pair) for pair in scores]
        assert best(points, math.inf).score == max(score for score, _ in scores)
        assert front_hypervolume(points) > 0 or max(score for score, _ in scores) == 0

    def test_the_seed_whose_model_stands_for_all_is_the_best_by_it(self, name: str) -> None:
        values = [5.0, 4.0, 6.0]
        (group,) = seed_groups(point(SIZES[0], value, name, seed) for seed, value in enumerate(values))
        assert group.value == 5.0
        assert group.best_point.value == (max if OBJECTIVES[name].is_higher_better else min)(values)

    def test_the_figure_names_it_and_is_the_same_each_time(self, name: str, tmp_path) -> None:
        points = [point(size, value, name) for size, value in zip(SIZES, (1.0, 2.0, 1.5, 1.2, 0.5), strict=True)]
        for file in ("a.svg", "b.svg"):
            draw_front(points, tmp_path / file, "title")
        drawn = (tmp_path / "a.svg").read_text()
        assert drawn == (tmp_path / "b.svg").read_text()
        assert f"validation {OBJECTIVES[name].title} ({OBJECTIVES[name].unit}" in drawn

    def test_a_point_without_it_is_refused(self, name: str) -> None:
        if name == TOP1:
            return
        for column in (OBJECTIVES[name].column, OBJECTIVES[name].test_column):
            with pytest.raises(ValueError, match=f"^{column} = None: must be measured"):
                replace(point(SIZES[0], 1.0, name), **{column: None})


def test_another_metric_can_prefer_what_accuracy_does_not() -> None:
    sure, calibrated = (
        replace(point(SIZES[0], nll, "nll"), val_top1=top1, alpha=top1) for nll, top1 in ((0.9, 80.0), (0.4, 75.0))
    )
    assert best([sure, calibrated], 1e9).points == (calibrated,)
    assert on_front(seed_groups([sure, calibrated])) == [False, True]
    table = front_table([sure, calibrated])
    assert [*table["val_nll"]] == [0.4]
    plain = [replace(each, objective=TOP1) for each in (sure, calibrated)]
    assert best(plain, 1e9).parameters["alpha"] == 80.0
    assert "val_nll" not in front_table(plain)


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^objective = loss: must be top1, top5, balanced, agreement, nll, ece$"):
        replace(point(SIZES[0], 1.0, TOP1), objective="loss")
