"""The paper's question in numbers: differences paired over seeds, with Student's t, and orders of rows."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from statistics import fmean, stdev
from typing import TypeVar

from scipy import stats

from benchmarks.paper.cells import TEACHER, Accuracies, Cells, mean_over, subtract
from kdq.bits import FLOAT_BITS

LEVEL = 0.95

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of a difference over seeds, in points of accuracy, its `LEVEL` t-interval [low, high], p and n.

    p: of the paired, two-sided t-test that the mean is 0. One seed has neither interval nor p: NaN.
    """

    mean: float
    half: float
    p: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0; False for one seed."""
        return self.low > 0 or self.high < 0


def difference(by_seed: Accuracies) -> Difference | None:
    """Return the difference of the values (seed -> difference in points), None without any.

    Equal values have an interval of width 0: p is 1 if they are 0, else 0.
    """
    values, n = list(by_seed.values()), len(by_seed)
    if n < 2:
        return Difference(values[0], math.nan, math.nan, n) if values else None
    mean, error = fmean(values), stdev(values) / math.sqrt(n)
    t = abs(mean) / error if error else math.inf if mean else 0.0
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return Difference(mean, half, float(2 * stats.t.sf(t, n - 1)), n)


def holm(differences: Mapping[Key, Difference | None]) -> dict[Key, float]:
    """Return the p of each difference, adjusted for all of them (Holm 1979): p ≤ 0.05 has a family-wise error of 5 %.

    The k-th smallest of m is multiplied by m − k + 1, and is at least the one before. Those without p are left out.
    """
    found = [(name, each.p) for name, each in differences.items() if each and not math.isnan(each.p)]
    adjusted, least = dict[Key, float](), 0.0
    for k, (name, p) in enumerate(sorted(found, key=lambda pair: pair[1])):
        least = max(least, min(1.0, (len(found) - k) * p))
        adjusted[name] = least
    return adjusted


def extra_drop(cells: Cells, base: str, row: str, bits: int) -> dict[int, float]:
    """Return how many points more than `base` (CE or the teacher) a row loses from float to a width: seed -> points."""
    return subtract(cells.drops(row, bits), cells.drops(base, bits))


def ahead_of_teacher(cells: Cells, row: str, bits: int) -> dict[int, float]:
    """Return the accuracy of a row minus that of the teacher at the same total bits, for each seed whose teacher has
    both a smaller and a larger model."""
    return subtract(cells.accuracies(row, bits), cells.accuracies_at(TEACHER, cells.sizes(row, bits)))


def gain(one: Cells, other: Cells, row: str, bits: int) -> dict[int, float]:
    """Return the accuracy of a row at a width in `one` minus that in `other`, of the same student: seed -> points."""
    return subtract(one.accuracies(row, bits), other.accuracies(row, bits))


def gain_at_equal_bits(one: Cells, other: Cells, row: str, bits: int) -> dict[int, float]:
    """Return the accuracy of a row at a width in `one` minus that in `other` at the same total bits."""
    return subtract(one.accuracies(row, bits), other.accuracies_at(row, one.sizes(row, bits)))


def average(rows: Sequence[Accuracies]) -> Difference | None:
    """Return the mean over rows (seed -> points), those that have any, and over the seeds that these have in common."""
    return difference(mean_over([row for row in rows if row]))


@dataclass(frozen=True, slots=True)
class Order:
    """The students at one width, best first, over the seeds that all have. n: the number of these seeds.

    adjacent: the difference of each to the next. tau: Kendall's τ-b with the order at float, NaN for fewer than two.
    reversed: the pairs whose order at float is the opposite; proved: those whose intervals exclude 0 at both.
    """

    rows: tuple[str, ...]
    n: int
    adjacent: tuple[Difference, ...]
    tau: float
    reversed: tuple[tuple[str, str], ...]
    proved: tuple[tuple[str, str], ...]

    @property
    def separated(self) -> int:
        """How many neighbours differ beyond their interval."""
        return sum(each.excludes_zero for each in self.adjacent)


def order(cells: Cells, bits: int) -> Order | None:
    """Return the order of the students at a width; None if they are fewer than two, or no seed has all of them at this
    width and at float."""
    here, floats = (
        {row: found for row in cells.rows if row != TEACHER and (found := cells.accuracies(row, width))}
        for width in (bits, FLOAT_BITS)
    )
    rows = [row for row in here if row in floats]
    seeds = set.intersection(*({*here[row]} & {*floats[row]} for row in rows)) if rows else set()
    if len(rows) < 2 or not seeds:
        return None
    here, floats = ({row: {seed: of[row][seed] for seed in seeds} for row in rows} for of in (here, floats))
    means, at_float = ([fmean(of[row].values()) for row in rows] for of in (here, floats))
    best_first = tuple(sorted(rows, key=lambda row: -fmean(here[row].values())))
    pairs = [(one, other) for one, other in combinations(best_first, 2) if _gap(floats, one, other).mean < 0]
    reversed_ = tuple((one, other) for one, other in pairs if _gap(here, one, other).mean > 0)
    return Order(
        best_first,
        len(seeds),
        tuple(_gap(here, one, other) for one, other in pairwise(best_first)),
        _tau(means, at_float),
        reversed_,
        tuple(pair for pair in reversed_ if all(_gap(of, *pair).excludes_zero for of in (here, floats))),
    )


def _gap(accuracies: Mapping[str, Accuracies], one: str, other: str) -> Difference:
    gap = difference(subtract(accuracies[one], accuracies[other]))
    assert gap
    return gap


def _tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Kendall's τ-b, NaN where it is undefined: fewer than two values, or one side all equal."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return math.nan
    return float(stats.kendalltau(one, other).statistic)


def is_known(each: Difference | None, adjusted: float | None = None) -> bool:
    """Return whether a difference can be told from 0: by its interval and, of several, by its adjusted p."""
    return each is not None and each.excludes_zero and (adjusted is None or adjusted <= 1 - LEVEL)
