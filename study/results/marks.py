"""What the figure of the front shows: studies, a mark for each configuration, lines of reference models, a caption."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kdq.bits import FLOAT_BITS
from study.results.compare import Interval
from study.results.front import SeedGroup, on_front, seed_groups
from study.results.point import TEACHER, Point
from study.results.style import shorten


def _unknown(group: SeedGroup) -> Interval | None:
    return None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A study in the figure. teacher: its objective, None if unknown; interval: of the mean of the objective."""

    name: str
    points: Sequence[Point]
    teacher: float | None = None
    interval: Callable[[SeedGroup], Interval | None] = _unknown


@dataclass(frozen=True, slots=True)
class Mark:
    """A configuration in the figure. is_compared: it has as many seeds as any other of its study."""

    study: Drawn
    group: SeedGroup
    is_compared: bool
    is_on_front: bool = False

    @property
    def bits(self) -> float:
        return self.group.mean("total_bits")

    @property
    def score(self) -> float:
        return self.group.score

    @property
    def test_score(self) -> float:
        return self.group.decides.score(self.group.mean(self.group.decides.test_column))

    @property
    def ends(self) -> tuple[float, float] | None:
        """The scores between which the interval of its mean is, None if it is unknown."""
        if (interval := self.study.interval(self.group)) is None:
            return None
        low, high = sorted(map(self.group.decides.score, (interval.low, interval.high)))
        return low, high

    @property
    def method(self) -> str:
        return self.group.points[0].method


class Line(NamedTuple):
    """A horizontal line. score: of the model, see `Objective.score`; style: matplotlib's."""

    name: str
    score: float
    style: str


def marks_of(studies: Iterable[Drawn]) -> list[Mark]:
    """Return the configurations of studies, those on the front of all together last, smallest first."""
    marks = []
    for each in studies:
        groups = seed_groups(each.points)
        most = max((group.n for group in groups), default=0)
        marks += [Mark(each, group, group.n == most) for group in groups]
    compared = [mark for mark in marks if mark.is_compared]
    chosen = on_front(mark.group for mark in compared)
    others = [mark for mark, is_on in zip(compared, chosen, strict=True) if not is_on]
    front = [Mark(m.study, m.group, True, True) for m, is_on in zip(compared, chosen, strict=True) if is_on]
    return [*(m for m in marks if not m.is_compared), *others, *sorted(front, key=lambda mark: mark.bits)]


def front_of(marks: Iterable[Mark]) -> list[Mark]:
    return [mark for mark in marks if mark.is_on_front]


def reference_lines(studies: Sequence[Drawn], marks: Iterable[Mark]) -> list[Line]:
    """Return the lines of the best teacher and the best float student."""
    lines = []
    marks = list(marks)
    teachers = {
        each.name: each.points[0].decides.score(each.teacher)
        for each in studies
        if each.teacher is not None and each.points
    }
    if teachers:
        name = max(teachers, key=lambda name: teachers[name])
        of = f" of {shorten(name, 12)}" if len(set(teachers.values())) > 1 else ""
        lines.append(Line(f"teacher{of}", teachers[name], "--"))
    students = (mark for mark in marks if mark.is_compared and mark.method != TEACHER)
    floats = [mark.score for mark in students if mark.group.bits == FLOAT_BITS]
    return [*lines, Line("best float student", max(floats), ":")] if floats else lines


def caption(marks: Sequence[Mark]) -> str:
    """Return what the marks and the line are, so that no dot above the line is unexplained."""
    seeds = sorted({mark.group.n for mark in marks if mark.is_compared})
    over = f"a mean over {'–'.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds"
    what = f"A mark is a configuration at one width, {over if seeds[-1] > 1 else 'of one seed'}."
    line = f"The line joins those that no other one beats in both {marks[0].group.decides.title} and size."
    above = ["single seeds"] * (seeds[-1] > 1) + ["marks with missing seeds"] * any(not m.is_compared for m in marks)
    can = f" {' and '.join(above).capitalize()} can be above it: their luck is not averaged." if above else ""
    return "\n".join(textwrap.wrap(f"{what} {line}{can}", 150))
