"""How a study's objective changes with one parameter, whatever the others are."""

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.optuna_study import Value, parameters
from analysis.results import Results
from kdq.bits import Bits, display_order
from kdq.errors import UserError, quoted
from study.results.compare import paired
from study.results.front import SeedGroup, comparable, most_valuable, seed_groups
from study.results.point import Point


@dataclass(frozen=True, slots=True)
class Effect:
    """The objective, such as validation accuracy in percent, of the points with a value of a parameter at a width.

    mean, deviation, low, high: their mean, sample standard deviation and 95 % t-interval, None for one point; best: the
    mean of the best configuration among them that has all seeds, None if there is none; n: how many points.
    """

    study: str
    bits: Bits
    value: Value
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    best: float | None
    n: int


class Dot(NamedTuple):
    """A point whose parameter has a value, and its objective."""

    study: str
    bits: Bits
    value: Value
    height: float


def effects(studies: Sequence[Results], parameter: str) -> list[Effect]:
    """Return the effects of a parameter in each study, by width and value.

    Raises UserError for a parameter that no point has.
    """
    check_parameters(studies, parameter)
    found = []
    for each in studies:
        compared = frozenset(comparable(each.points))
        cells = _cells(each, parameter).items()
        found += [_effect(each.name, *key, points, compared) for key, points in cells]
    return found


def dots(studies: Sequence[Results], parameter: str) -> list[Dot]:
    """Return the points over which `effects` are means, in the same order."""
    cells = ((each.name, key, points) for each in studies for key, points in _cells(each, parameter).items())
    return [Dot(name, *key, point.value) for name, key, points in cells for point in points]


def check_parameters(studies: Sequence[Results], *names: str) -> None:
    """Raise UserError for a parameter that no point has, unless there are no points."""
    known = {name for each in studies for point in each.points for name in parameters(point)}
    for name in names:
        if known and name not in known:
            raise UserError(f"no point has a parameter {quoted(name)}: use one of {', '.join(sorted(known))}")


def value_order(value: Value) -> tuple[bool, float, str]:
    """Return the sorting key of a parameter's value: numbers first."""
    return (True, 0.0, value) if isinstance(value, str) else (False, value, "")


def _cells(results: Results, parameter: str) -> dict[tuple[Bits, Value], list[Point]]:
    """Return the points by width and value, in order."""
    cells: dict[tuple[Bits, Value], list[Point]] = {}
    for point in results.points:
        if parameter in (own := parameters(point)):
            cells.setdefault((point.bits, own[parameter]), []).append(point)
    return dict(sorted(cells.items(), key=lambda cell: (display_order(cell[0][0]), value_order(cell[0][1]))))


def _effect(study: str, bits: Bits, value: Value, points: Sequence[Point], compared: Collection[SeedGroup]) -> Effect:
    values = [point.value for point in points]
    own = [group for group in seed_groups(points) if group in compared]
    best = most_valuable(own).value if own else None
    if len(points) == 1:
        return Effect(study, bits, value, values[0], None, None, None, best, 1)
    interval = paired(values)
    ends = interval.low, interval.high
    return Effect(study, bits, value, interval.value, statistics.stdev(values), *ends, best, len(points))
