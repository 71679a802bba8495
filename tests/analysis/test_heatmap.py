"""Means over grids of two parameters, of made-up studies of which the means are known, and their figures."""

import math
import time
from dataclasses import replace

import pytest

from analysis.effect import dots, effects
from analysis.figures.effect import draw_effect
from analysis.figures.heatmap import draw_heatmap
from analysis.figures.importance import draw_importance
from analysis.heatmap import BINS, heatmap
from analysis.importance import FANOVA, evaluator_for, importances
from analysis.stored import StoredStudy
from kdq.errors import UserError
from study.results.front import comparable
from study.results.objective import OBJECTIVES, TOP1
from study.results.point import Point
from study.results.status import StudyStatus

POINT = Point("t", "dkd", 1.0, 8.0, 4.0, 0.0, 0, "resnet20", 4, 4.2, 1000, 125, 50.0, 50.0)


class Made:
    """Results of points that are given."""

    def __init__(self, points, name="made"):
        self.points, self.name = points, name
        self.study = StoredStudy(name, "1", StudyStatus.COMPLETED, None, 50.0)
        self.decides = OBJECTIVES[TOP1]
        self.groups = comparable(points)
        self.trials = sorted({point.trial_id for point in points})


def trial(alpha, beta, seed, accuracies, method="dkd"):
    """The points of a trial at 1, 2, … bits, each twice as large as the one before."""
    own = replace(POINT, trial_id=f"{method}-{alpha}-{beta}-{seed}", method=method, alpha=alpha, beta=beta, seed=seed)
    sizes = enumerate(accuracies, 1)
    return [replace(own, bits=bits, total_bits=1000 * 2**bits, val_top1=accuracy) for bits, accuracy in sizes]


POINTS = [
    *trial(1.0, 4.0, 0, [20.0, 40.0, 50.0]),
    *trial(1.0, 4.0, 1, [30.0, 40.0, 50.0]),
    *trial(1.0, 8.0, 0, [10.0, 10.0, 50.0]),
    *trial(2.0, 8.0, 0, [50.0, 50.0, 50.0]),
    *trial(None, None, 0, [1.0, 1.0, 1.0], "ce"),
]


def table(grid):
    return {(cell.row, cell.column): (cell.mean, cell.deviation, cell.n) for cell in grid.cells}


def test_a_cell_is_the_mean_at_a_width_and_absent_combinations_have_none():
    grid = heatmap([Made(POINTS)], "alpha", "beta", 1)
    assert (grid.rows, grid.columns) == ([1.0, 2.0], [4.0, 8.0])
    assert table(grid) == {
        (1.0, 4.0): (25.0, pytest.approx(math.sqrt(50)), 2),
        (1.0, 8.0): (10.0, None, 1),
        (2.0, 8.0): (50.0, None, 1),
    }
    assert {cell.bits for cell in grid.cells} == {1}


def test_by_default_a_cell_is_the_mean_hypervolume_of_its_trials():
    """Two octaves, relative to 50 % at every size: the first two widths have an octave each."""
    assert table(heatmap([Made(POINTS)], "alpha", "beta")) == {
        (1.0, 4.0): (pytest.approx(100 * (25 + 40) / 100), pytest.approx(math.sqrt(50)), 2),
        (1.0, 8.0): (pytest.approx(100 * (10 + 10) / 100), None, 1),
        (2.0, 8.0): (pytest.approx(100), None, 1),
    }


def test_studies_have_cells_of_their_own_on_the_same_scale():
    better = [replace(point, val_top1=point.val_top1 / 2) for point in POINTS]
    cells = heatmap([Made(POINTS, "a"), Made(better, "b")], "alpha", "beta").cells
    assert [cell.study for cell in cells] == ["a"] * 3 + ["b"] * 3
    assert [cell.mean for cell in cells[3:]] == [pytest.approx(cell.mean / 2) for cell in cells[:3]]


def test_a_parameter_with_many_values_has_bins():
    points = [point for n in range(60) for point in trial(float(n), 8.0, 0, [float(n)])]
    grid = heatmap([Made(points)], "alpha", "method", 1)
    assert grid.rows == [f"{low} to {low + 9}" for low in range(0, 60, 10)]
    assert len(grid.rows) == BINS
    assert [(cell.mean, cell.n) for cell in grid.cells] == [(low + 4.5, 10) for low in range(0, 60, 10)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("alpha", "alpha"), "two different parameters"),
        (("alhpa", "beta"), "no point has a parameter 'alhpa': use one of alpha, beta, "),
        (("alpha", "beta", 8), "--bits 8: no point has 8 bits; use one of 1, 2, 3"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(arguments, message):
    with pytest.raises(UserError, match=message):
        heatmap([Made(POINTS)], *arguments)


def test_no_points_have_no_cells():
    assert heatmap([Made([])], "alpha", "beta").cells == []


def test_large_studies_have_the_faster_evaluator():
    def made(trials):
        return Made([replace(POINT, trial_id=str(n)) for n in range(trials)])

    assert evaluator_for([made(FANOVA)]) == "fanova"
    assert evaluator_for([made(FANOVA - 1), made(2)]) == "pedanova"


def test_ten_thousand_points_are_drawn(tmp_path):
    points = [
        point
        for n in range(2500)
        for point in trial(n % 97 / 10, float(n % 5), n, [20 + n % 30, 40 + n % 97 / 10, 50 + n % 7, 50.0])
    ]
    made = [Made(points)]
    assert len(points) == 10_000
    began = time.process_time()
    draw_effect(effects(made, "alpha"), dots(made, "alpha"), "alpha", OBJECTIVES[TOP1], tmp_path / "effect.png", "", "")
    draw_heatmap(
        heatmap(made, "alpha", "beta"), ("alpha", "beta"), OBJECTIVES[TOP1], tmp_path / "heatmap.png", "", "", ""
    )
    found = importances(made, evaluator_for(made))
    draw_importance(found, tmp_path / "importance.png", "", "")
    print(f"{time.process_time() - began:.1f} s of processor time")
    assert next(each.parameter for each in found if each.bits == 2) == "alpha"
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("effect", "heatmap", "importance"))
