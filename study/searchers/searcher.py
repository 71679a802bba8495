"""Searchers: what a study tries next. Each is asked for configurations and told what came of them."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Protocol

from kdq.bits import FLOAT_BITS
from study.results.point import Point
from study.results.status import TrialStatus
from study.space.configuration import Configuration

Objectives = tuple[float, float]
"""Validation accuracy in percent, to be high, and total bits, to be low: means over a configuration's points."""


def objectives(points: Sequence[Point]) -> Objectives:
    """Those of a trial's points: of its quantized models, or of the float one if there is no other."""
    mine = [point for point in points if point.bits != FLOAT_BITS] or points
    return fmean(point.val_top1 for point in mine), fmean(point.total_bits for point in mine)


class Search(Protocol):
    """Its answers depend only on its seed and on the order of what it was asked and told."""

    def ask(self) -> Configuration | None:
        """The next configuration, none twice; None: there is no other."""

    def again(self, identity: str) -> Configuration | None:
        """As `ask`, when it is known what came next before; None: it does not come next, or is not proposed at all."""

    def tell(self, configuration: Configuration, ends: Sequence[TrialStatus], objectives: Objectives | None) -> None:
        """How its trials ended, one for each seed, and what they reached, if all were completed."""


class Listed:
    """The configurations of a grid or a random draw, in their order."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._left = {configuration.identity: configuration for configuration in configurations}

    def ask(self) -> Configuration | None:
        return self._left.pop(next(iter(self._left))) if self._left else None

    def again(self, identity: str) -> Configuration | None:
        """Any of them: in a study that was extended since, others may have come before."""
        return self._left.pop(identity, None)

    def tell(self, configuration: Configuration, ends: Sequence[TrialStatus], objectives: Objectives | None) -> None:
        """It takes no interest."""
