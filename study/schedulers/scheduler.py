"""Schedulers for early stopping: they decide after each epoch whether a trial continues. Plain objects, without Ray.

A scheduler has a priority (how trials are compared, `study.schedulers.priorities`) and a kind of promotion: `Asha`
compares a trial on arrival with those before it, `Halving` waits for all trials of the rung. The state of a
scheduler is a function of the reports that it got, so `study.control.journal` restores it by replaying them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count, takewhile

from kdq.errors import UserError
from study.schedulers.priorities import Priority, Values


class Decision(StrEnum):
    """What a trial does after an epoch. PAUSE: it keeps its checkpoint and waits for the other trials of its rung."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class RungConfig:
    """When trials are compared: after grace_period × reduction_factor^k epochs, rounded up, below the last.

    epochs: of a complete training; trials: of the study; about one in reduction_factor survives a rung. There is no
    rung after the last epoch: a trial that survives all rungs is quantized. Raises UserError for a setting out of
    range, or if there would be no rung at all.
    """

    epochs: int
    trials: int
    grace_period: int = 1
    reduction_factor: float = 3

    def __post_init__(self) -> None:
        for name in ("epochs", "trials", "grace_period"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name} = {value!r}: must be a whole number, at least 1")
        factor = self.reduction_factor
        if not isinstance(factor, int | float) or not 2 <= factor < math.inf:
            raise UserError(
                f"reduction_factor = {factor!r}: must be a number, at least 2; with 3, one in three continues"
            )
        if self.grace_period >= self.epochs:
            raise UserError(
                f"grace_period = {self.grace_period}: must be below the number of epochs ({self.epochs}), or no trial "
                f"is ever compared; lower it, or use no scheduler"
            )

    @property
    def levels(self) -> tuple[int, ...]:
        """The epochs of the rungs, ascending."""
        exact = (self.grace_period * self.reduction_factor**power for power in count())
        return tuple(math.ceil(level) for level in takewhile(lambda level: math.ceil(level) < self.epochs, exact))


@dataclass
class Scheduler(ABC):
    """Takes the reports of all trials and returns decisions.

    levels: the epochs of the rungs, ascending. Two schedulers that got the same reports are equal.
    """

    priority: Priority
    levels: tuple[int, ...]
    reduction_factor: float
    rungs: dict[int, dict[str, Values]] = field(init=False)
    decisions: dict[tuple[str, int], Decision] = field(init=False, default_factory=dict)  # by trial and epoch
    stops: dict[str, int] = field(init=False, default_factory=dict)  # trial -> the rung that stopped it
    diverged: set[str] = field(init=False, default_factory=set)
    left: set[str] = field(init=False, default_factory=set)
    reasons: dict[str, str] = field(init=False, default_factory=dict)  # trial -> its value and the cut of that rung

    def __post_init__(self) -> None:
        self.rungs = {level: {} for level in self.levels}

    def report(self, trial: str, epoch: int, values: Values) -> Decision:
        """Decide on a trial after an epoch (counted from 1) for which it reported `values`.

        A trial reports its epochs in ascending order; one that missed a rung is compared there by its next
        report. A value that is not finite stops the trial for good and is compared with nothing. A repeated report,
        from a worker that was restarted, changes nothing: the decision is the former one, or the outcome of the
        rung if the trial was paused and the rung has been decided.
        """
        self.left.discard(trial)
        if (trial, epoch) in self.decisions:
            return self._repeated(trial, epoch)
        pairs = tuple((float(accuracy), float(bits)) for accuracy, bits in values)
        self.decisions[trial, epoch] = decision = self._decide(trial, epoch, pairs)
        return decision

    def group(self, trials: Sequence[str]) -> None:  # noqa: B027 (a scheduler that compares trials needs no groups)
        """Announce the trials of one configuration, one for each seed, before their first reports."""

    def leave(self, trial: str) -> None:
        """Remove a trial that failed or will never start: no rung waits for it.

        It returns with its next report; a rung that was decided in the meantime stops it.
        """
        if trial not in self.stops:
            self.left.add(trial)

    def stopped(self) -> dict[str, int]:
        """Return the trials that lost a comparison, running or paused, each with the epoch of that rung."""
        return {trial: level for trial, level in self.stops.items() if trial not in self.left}

    def resumable(self) -> list[str]:
        """Return the paused trials that may continue, sorted."""
        return []

    def _repeated(self, trial: str, epoch: int) -> Decision:
        return self.decisions[trial, epoch]

    def _decide(self, trial: str, epoch: int, values: Values) -> Decision:
        if trial in self.stops or trial in self.diverged:
            return Decision.STOP
        if not all(map(math.isfinite, (number for pair in values for number in pair))):
            self._diverge(trial)
            return Decision.STOP
        return self._judge(trial, epoch, values)

    def _diverge(self, trial: str) -> None:
        self.diverged.add(trial)

    def _stop(self, trial: str, level: int, reason: str) -> None:
        self.stops[trial], self.reasons[trial] = level, reason

    @abstractmethod
    def _judge(self, trial: str, epoch: int, values: Values) -> Decision:
        """Decide on a trial that still competes and reported finite values."""


def below(score: float, cut: float) -> str:
    """Return two accuracies in percent as text, with the digits that tell them apart."""
    if score == cut:
        return f"{score:.2f} % ties with the cut"
    digits = next((n for n in (2, 4, 8) if f"{score:.{n}f}" != f"{cut:.{n}f}"), 17)
    return f"{score:.{digits}f} % below the cut {cut:.{digits}f} %"
