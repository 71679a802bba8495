"""How accuracies change with one parameter, whatever the others are."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.optuna_study import parameters
from analysis.results import Results
from kdq.bits import Bits, display_order
from kdq.errors import UserError, quoted
from study.results.compare import paired
from study.results.front import seed_groups
from study.results.point import Point


@dataclass(frozen=True, slots=True)
class Effect:
    """The validation accuracy, in percent, of the points with a value of a parameter at a width.

    val_top1, deviation, low, high: their mean, sample standard deviation and 95 % t-interval, None for one point; best:
    the mean of the best configuration among them; n: how many points.
    """

    study: str
    bits: Bits
    value: str | float
    val_top1: float
    deviation: float | None
    low: float | None
    high: float | None
    best: float
    n: int


def effects(studies: Sequence[Results], parameter: str) -> list[Effect]:
    """Return the effects of a parameter in each study, by width and value.

    Raises UserError for a parameter that no point has.
    """
    known = {name for each in studies for point in each.points for name in parameters(point)}
    if known and parameter not in known:
        raise UserError(f"no point has a parameter {quoted(parameter)}: use one of {', '.join(sorted(known))}")
    return [effect for each in studies for effect in _of_study(each, parameter)]


def _of_study(results: Results, parameter: str) -> list[Effect]:
    cells: dict[tuple[Bits, str | float], list[Point]] = {}
    for point in results.points:
        if parameter in (own := parameters(point)):
            cells.setdefault((point.bits, own[parameter]), []).append(point)
    ordered = sorted(cells.items(), key=lambda cell: (display_order(cell[0][0]), _order(cell[0][1])))
    return [_effect(results.name, *key, points) for key, points in ordered]


def _order(value: str | float) -> tuple[bool, float, str]:
    return (True, 0.0, value) if isinstance(value, str) else (False, value, "")


def _effect(study: str, bits: Bits, value: str | float, points: Sequence[Point]) -> Effect:
    accuracies = [point.val_top1 for point in points]
    best = max(group.mean("val_top1") for group in seed_groups(points))
    if len(points) == 1:
        return Effect(study, bits, value, accuracies[0], None, None, None, best, 1)
    interval = paired(accuracies)
    ends = interval.low, interval.high
    return Effect(study, bits, value, interval.value, statistics.stdev(accuracies), *ends, best, len(points))
