"""Importances and effects of parameters, on made-up points of which the cause is known."""

from dataclasses import replace

import pytest

from analysis.effect import effects
from analysis.importance import HYPERVOLUME, LEAST, importances
from analysis.optuna_study import as_optuna, parameters
from analysis.stored import StoredStudy
from kdq.errors import UserError
from study.results.objective import OBJECTIVES, TOP1
from study.results.point import Point
from study.results.status import StudyStatus

POINT = Point("t", "dkd", 1.0, 8.0, 4.0, 0.0, 0, "resnet20", 4, 4.2, 1000, 125, 50.0, 50.0)


class Made:
    """Results of points that are given."""

    def __init__(self, points):
        self.points, self.name = points, "made"
        self.study = StoredStudy("made", "1", StudyStatus.COMPLETED, None, 90.0)
        self.decides = OBJECTIVES[TOP1]
        self.groups = []


def grid(accuracy, methods=("dkd",)):
    """Points of alpha × beta × seed for dkd, of alpha × seed for vkd, at 4 bits."""
    found = []
    for method in methods:
        for alpha in (0.1, 0.5, 1.0, 2.0):
            for beta in (1.0, 2.0, 8.0) if method == "dkd" else (None,):
                for seed in (0, 1):
                    name = f"{method}{alpha}{beta}{seed}"
                    own = replace(POINT, trial_id=name, method=method, alpha=alpha, beta=beta, seed=seed)
                    found.append(replace(own, val_top1=accuracy(own)))
    return found


@pytest.mark.parametrize("evaluator", ["fanova", "mdi", "pedanova"])
def test_what_causes_the_accuracy_is_important_and_what_does_not_is_not(evaluator):
    made = Made(grid(lambda point: 80 + 2 * point.alpha))
    found = {each.parameter: each.importance for each in importances([made], evaluator)}
    assert set(found) == {"alpha", "beta"}
    assert found["alpha"] > 0.9
    assert sum(found.values()) == pytest.approx(1)
    assert [each.parameter for each in importances([made], evaluator)] == ["alpha", "beta"]


def test_the_same_points_give_the_same_importances():
    made = Made(grid(lambda point: 80 + point.alpha * point.beta))
    assert importances([made]) == importances([made])


def test_a_parameter_that_some_methods_have_is_told_among_them():
    made = Made(grid(lambda point: 80 + (point.beta or 0), ("dkd", "vkd")))
    found = {each.parameter: each for each in importances([made])}
    assert found["beta"].within == "dkd"
    assert found["beta"].n == 24
    assert found["beta"].importance > 0.9
    assert found["method"].within == ""
    assert found["method"].n == 32


def test_all_widths_together():
    points = grid(lambda point: 80 + 2 * point.alpha)
    wide = [replace(point, bits=8, total_bits=2000, val_top1=point.val_top1 + 1) for point in points]
    made = Made([*points, *wide])
    made.groups = [_group(point) for point in made.points]
    found = importances([made])
    assert {each.bits for each in found} == {4, 8, HYPERVOLUME}
    assert next(each for each in found if each.bits == HYPERVOLUME).parameter == "alpha"


def _group(point):
    from study.results.front import SeedGroup

    return SeedGroup((point,))


@pytest.mark.parametrize(
    "points", [[], grid(lambda point: 80.0), grid(lambda point: point.alpha)[: LEAST - 1]], ids=["none", "equal", "few"]
)
def test_where_nothing_can_be_told_there_is_none(points):
    assert importances([Made(points)]) == []


def test_optunas_trials_have_what_is_active():
    points = grid(lambda point: 80.0, ("dkd", "vkd"))
    found = as_optuna([*points, replace(POINT, options="handover=1")], "made", bits=4)
    for trial, point in zip(found.trials, points, strict=False):
        assert trial.params == parameters(point)
        assert ("beta" in trial.params) == (point.method == "dkd")
    assert found.trials[-1].params["handover"] == 1.0
    with pytest.raises(UserError, match=r"no point of study made has bits=7: use one of 4$"):
        as_optuna(points, "made", bits=7)
    assert as_optuna([], "made", bits=7).trials == []


def test_effects_are_means_over_all_others():
    made = Made(grid(lambda point: 80 + point.alpha + point.seed))
    found = effects([made], "alpha")
    assert [each.value for each in found] == [0.1, 0.5, 1.0, 2.0]
    for each in found:
        assert each.mean == pytest.approx(80.5 + each.value)
        assert each.n == 6
        assert each.best == pytest.approx(80.5 + each.value)
        assert each.low < each.mean < each.high


def test_the_best_of_a_value_is_no_survivor_of_early_stopping():
    """Of alpha 2 one seed is left, the luckiest of all; alpha 0.1 has both of its seeds."""
    points = [point for point in grid(lambda point: 80 + point.alpha + point.seed) if point.alpha != 2.0 or point.seed]
    assert {each.value: each.best is None for each in effects([Made(points)], "alpha")} == {
        0.1: False,
        0.5: False,
        1.0: False,
        2.0: True,
    }


def test_an_unknown_parameter_is_refused():
    with pytest.raises(UserError, match="no point has a parameter 'alhpa'"):
        effects([Made(grid(lambda point: 80.0))], "alhpa")
