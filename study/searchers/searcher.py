"""Searchers: they propose the configurations that a study tries, and learn how these ended."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Protocol

from kdq.bits import FLOAT_BITS
from study.results.point import Point
from study.results.status import TrialStatus
from study.space.configuration import Configuration

Objectives = tuple[float, float]
"""The score of the study's objective, maximised, and total bits, minimised: means over a configuration's points."""


def objectives(points: Sequence[Point]) -> Objectives:
    """Return the objectives of a trial: over its quantized points, or over the float one if it has no other."""
    mine = [point for point in points if point.bits != FLOAT_BITS] or points
    return fmean(point.score for point in mine), fmean(point.total_bits for point in mine)


class Searcher(Protocol):
    """Proposes configurations; a deterministic function of its seed and of the order of all calls."""

    def ask(self) -> Configuration | None:
        """Return the next configuration, each at most once; None if there is none left."""

    def replay(self, identity: str) -> Configuration | None:
        """Return the configuration of this identity, proposed in an earlier run; None if it is not proposed here."""

    def tell(self, configuration: Configuration, ends: Sequence[TrialStatus], objectives: Objectives | None) -> None:
        """Take the results of a configuration: the end of each seed's trial; the objectives if all completed."""


class ListSearcher:
    """Proposes the configurations of a grid or a random draw in their order."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._left = {configuration.identity: configuration for configuration in configurations}

    def ask(self) -> Configuration | None:
        return self._left.pop(next(iter(self._left))) if self._left else None

    def replay(self, identity: str) -> Configuration | None:
        """Return any configuration not yet proposed: if the study was extended since, the order may have changed."""
        return self._left.pop(identity, None)

    def tell(self, configuration: Configuration, ends: Sequence[TrialStatus], objectives: Objectives | None) -> None:
        """Ignore the results: the list is fixed."""
