"""Which points to choose: configurations over their seeds, the front, the best under a budget."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from kdq.bits import Bits
from kdq.errors import UserError
from study.results.objective import Objective
from study.results.pareto import front, hypervolume
from study.results.point import COLUMNS, PARAMETERS, Point
from study.units import exact

# The worst score, such as 0 %, and 2^30 bits (128 MiB, more than a float32 ResNet-50): the same for every study of an
# objective, so that they are comparable.
REFERENCE = (0.0, 30.0)


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """The points of a configuration at one width, which differ only in their seeds; accuracies and sizes are means."""

    points: tuple[Point, ...]

    def __hash__(self) -> int:
        return hash(
            (self.points[0].trial_id, self.points[0].bits)
        )  # of all fields of all points it takes 10 times as long

    @property
    def n(self) -> int:
        return len(self.points)

    @property
    def bits(self) -> Bits:
        return self.points[0].bits

    @property
    def on_front(self) -> bool:
        return self.points[0].on_front

    @property
    def parameters(self) -> dict[str, str | float]:
        """Return the active parameters by name: method, alpha, …, options, student."""
        values = {name: getattr(self.points[0], name) for name in PARAMETERS}
        return {name: value for name, value in values.items() if value not in (None, "")}

    @property
    def settings(self) -> list[str]:
        """Return the active parameters as settings, such as `alpha=0.5`."""
        named = {name: value for name, value in self.parameters.items() if name != "options"}
        shown = [f"{name}={value if isinstance(value, str) else exact(value)}" for name, value in named.items()]
        return shown + self.points[0].options.split()

    @property
    def best_point(self) -> Point:
        """Return the point of the seed with the best objective, whose model stands for the configuration."""
        return max(self.points, key=lambda point: point.score)

    @property
    def decides(self) -> Objective:
        """The objective of its study."""
        return self.points[0].decides

    @property
    def value(self) -> float:
        """The mean of the objective, the validation accuracy unless the study has another."""
        return self.mean(self.decides.column)

    @property
    def score(self) -> float:
        """The mean of the objective as a score, see `Objective.score`: higher is better."""
        return self.decides.score(self.value)

    def mean(self, column: str) -> float:
        """Return the mean of a numeric column over the seeds; exact sums, so the order of points does not matter."""
        if self.n == 1:
            return float(getattr(self.points[0], column))
        return statistics.fmean(getattr(point, column) for point in self.points)

    def deviation(self, column: str) -> float | None:
        """Return the sample standard deviation of a column over the seeds; None for one seed."""
        return statistics.stdev(getattr(point, column) for point in self.points) if self.n > 1 else None

    def row(self) -> dict[str, Any]:
        """Return a row of a front table, without the inactive parameters."""
        row: dict[str, Any] = {**self.parameters, "bits": self.bits}
        row |= {name: self.mean(name) for name in ("avg_bits", "total_bits", "packed_bytes")}
        for name in dict.fromkeys((self.decides.column, self.decides.test_column, "val_top1", "test_top1")):
            row |= {name: self.mean(name), f"{name}_std": self.deviation(name)}
        return {**row, "n": self.n}


def seed_groups(points: Iterable[Point]) -> list[SeedGroup]:
    """Return the points grouped by their parameters and bits, in order of first appearance.

    Points that are equal except for their trial count once (where bits are searched, trials share students and so
    their float points). Other points with the same parameters, bits *and* seed differ in something that has no
    column; they are no repetitions, so each of them is a configuration of its own.
    """
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in {content(point): point for point in points}.values():
        key = (*(getattr(point, name) for name in PARAMETERS), point.bits)
        groups.setdefault(key, []).append(point)
    return [configuration for group in groups.values() for configuration in _repetitions(group)]


def comparable(points: Iterable[Point]) -> list[SeedGroup]:
    """Return the configurations with the most seeds, which alone are compared with each other.

    One whose other seeds failed, were stopped or have yet to run is left out: its mean over the seeds that are there is
    too high, since a scheduler stops the unlucky ones.
    """
    groups = seed_groups(points)
    most = max((group.n for group in groups), default=0)
    return [group for group in groups if group.n == most]


def missing_seeds(points: Iterable[Point], seeds: int = 0) -> str:
    """Return a line on the configurations that `comparable` leaves out, and on seeds that even those it has lack.

    seeds: of the study. Empty if nothing is missing.
    """
    points = list(points)
    compared = comparable(points)
    left = len(seed_groups(points)) - len(compared)
    lines = [f"not compared: {left} with fewer than {compared[0].n} seeds"] if left else []
    if compared and compared[0].n < seeds:
        lines.append(f"no configuration has all {seeds} seeds: those with the most, {compared[0].n}, are compared")
    return "; ".join(lines)


def content(point: Point) -> tuple[object, ...]:
    """Return what a point has beside its trial: equal for trials that share a student, which is measured once."""
    return _CONTENT(point)


_CONTENT: Callable[[Point], tuple[object, ...]] = attrgetter(*(c for c in COLUMNS if c not in ("trial_id", "on_front")))


def _repetitions(group: Sequence[Point]) -> list[SeedGroup]:
    if len({point.seed for point in group}) == len(group):
        return [SeedGroup(tuple(group))]
    return [SeedGroup((point,)) for point in group]


def with_front(points: Iterable[Point]) -> list[Point]:
    """Return the same points in the same order, with `on_front` set by the objective and total bits.

    The front is over the means of `comparable` configurations, so one lucky seed does not put a configuration on it;
    all points of a configuration on the front are marked.
    """
    points = list(points)
    groups = comparable(points)
    chosen = {content(p) for group, is_on in zip(groups, on_front(groups), strict=True) if is_on for p in group.points}
    marks = [content(point) in chosen for point in points]
    return [p if p.on_front == is_on else replace(p, on_front=is_on) for p, is_on in zip(points, marks, strict=True)]


def on_front(groups: Iterable[SeedGroup]) -> list[bool]:
    """Return which configurations are on their front by the mean of the objective and mean total bits."""
    return [bool(is_on) for is_on in front(_pairs(groups))]


def front_hypervolume(points: Iterable[Point]) -> float:
    """Return the absolute hypervolume of the `comparable` configurations' mean scores, as in percent × octaves.

    Bits count on a log2 scale; the reference is `REFERENCE` for every study, so that schedulers and replays compare the
    same areas. People read `relative_hypervolume`: most of this area is empty space up to 2^30 bits.
    """
    pairs = [(score, math.log2(bits)) for score, bits in _pairs(comparable(points))]
    return hypervolume(pairs, REFERENCE)


def relative_hypervolume(
    groups: Iterable[SeedGroup], reference: float, sizes: tuple[float, float] | None = None
) -> float:
    """Return the area under the front of configurations in percent of the area under a reference model.

    The area is that of mean scores over log2 of total bits, under the front's step function, between two sizes, by
    default the smallest and the largest of these configurations. reference: the score, above 0, that the reference
    model is taken to have at every size. 0 without configurations.
    """
    return sum(share * group.score for group, share in front_shares(groups, sizes)) / reference * 100


def front_shares(
    groups: Iterable[SeedGroup], sizes: tuple[float, float] | None = None
) -> list[tuple[SeedGroup, float]]:
    """Return the configurations on the front, smallest first, each with the share of the octaves between two sizes in
    which it is the best.

    The shares add up to 1 if the front begins at the smallest size, and all do where both sizes are equal. Of equal
    configurations the first has the share of all.
    """
    groups = list(groups)
    if not groups:
        return []
    smallest, largest = sizes or size_range(groups)
    marks = on_front(groups)
    steps: dict[float, SeedGroup] = {}
    for group in (group for group, is_on in zip(groups, marks, strict=True) if is_on):
        if group.mean("total_bits") <= largest:
            steps.setdefault(group.mean("total_bits"), group)
    ordered = sorted(steps)
    if smallest == largest:
        return [(steps[size], float(size == ordered[-1])) for size in ordered]
    edges = [math.log2(max(size, smallest)) for size in (*ordered, largest)]
    octaves = math.log2(largest) - math.log2(smallest)
    return [(steps[size], (end - begin) / octaves) for size, begin, end in zip(ordered, edges, edges[1:], strict=False)]


def size_range(groups: Iterable[SeedGroup]) -> tuple[float, float]:
    """Return the smallest and the largest mean total bits of configurations, of which there is at least one."""
    sizes = [group.mean("total_bits") for group in groups]
    return min(sizes), max(sizes)


def _pairs(groups: Iterable[SeedGroup]) -> list[tuple[float, float]]:
    return [(group.score, group.mean("total_bits")) for group in groups]


def best(points: Iterable[Point], max_bits: float) -> SeedGroup:
    """Return the `comparable` configuration of the best mean objective that fits into `max_bits`.

    Ties go to the smaller one, then by name. Raises UserError if nothing fits.
    """
    return most_valuable(fitting(points, max_bits))


def most_valuable(groups: Iterable[SeedGroup]) -> SeedGroup:
    """Return the configuration of the best mean objective; ties go to the smaller one, then by name."""
    return min(groups, key=lambda group: (-group.score, largest(group, "total_bits"), str(group.parameters)))


def fitting(points: Iterable[Point], limit: float, column: str = "total_bits") -> list[SeedGroup]:
    """Return the `comparable` configurations whose size is within a limit with every seed.

    column: total_bits or packed_bytes. Raises UserError if there is none.
    """
    points = list(points)
    found = within(comparable(points), limit, column)
    if not found:
        raise nothing_fits(points, limit, column)
    return found


def within(groups: Iterable[SeedGroup], limit: float, column: str = "total_bits") -> list[SeedGroup]:
    """Return the configurations whose size is within a limit with every seed."""
    return [group for group in groups if largest(group, column) <= limit]


def nothing_fits(points: Iterable[Point], limit: float, column: str = "total_bits") -> UserError:
    """Return the error that no `comparable` configuration is within a limit."""
    points = list(points)
    sizes = [largest(group, column) for group in comparable(points)]
    smallest = f"the smallest has {min(sizes):,}" if sizes else "there are no points at all"
    which = ", ".join(filter(None, [smallest, missing_seeds(points)]))
    return UserError(f"no configuration has at most {limit:,.10g} {column.replace('_', ' ')}: {which}")


def largest(group: SeedGroup, column: str) -> int:
    """Return the largest value of a column of sizes over the seeds."""
    return max(int(getattr(point, column)) for point in group.points)
