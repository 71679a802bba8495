"""Early stopping: rules that say at each epoch whether a trial goes on. Plain objects, without Ray.

A rule is a priority (what trials are compared by, `study.schedulers.priorities`) and a way of promotion:
`Asha` decides at once against those that came before, `Halving` when all trials of the rung are there. A
rule's state is a function of what it was told, so a journal of that restores it: see `replay`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count, takewhile

from kdq.errors import UserError
from study.schedulers.priorities import Priority, Values


class Decision(StrEnum):
    """What a trial does after an epoch. PAUSE: it keeps its checkpoint and waits for the others of its rung."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class RungConfig:
    """When trials are compared: after grace_period × reduction_factor^k epochs, rounded up, below the last.

    epochs: of a whole training; trials: of the study; about one in reduction_factor survives a rung. Nothing is
    compared after the last epoch: a trial that survives all rungs is quantized. Raises UserError for a setting
    out of range, and for one under which no trial would ever be compared.
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
                f"reduction_factor = {factor!r}: must be a number, at least 2; with 3, one in three goes on"
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
    """A rule: what every trial reports goes in, decisions come out.

    levels: the epochs of the rungs, ascending. Two rules that were told the same are equal.
    """

    priority: Priority
    levels: tuple[int, ...]
    reduction_factor: float
    rungs: dict[int, dict[str, Values]] = field(init=False)
    told: dict[tuple[str, int], Decision] = field(init=False, default_factory=dict)
    stops: dict[str, int] = field(init=False, default_factory=dict)  # trial -> the rung that stopped it
    diverged: set[str] = field(init=False, default_factory=set)
    left: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.rungs = {level: {} for level in self.levels}

    def report(self, trial: str, epoch: int, values: Values) -> Decision:
        """Decide on a trial after an epoch (counted from 1) at which it showed `values`.

        A trial reports its epochs in ascending order; one that missed a rung is compared there with what it
        shows next. A value that is not finite stops the trial for good, and is compared with nothing. A report
        of an epoch that is known already, from a worker that was started again, changes nothing: the decision
        is the former one, but a trial whose wait is over learns how it ended.
        """
        self.left.discard(trial)
        if (trial, epoch) in self.told:
            return self._told(trial, epoch)
        shown = tuple((float(accuracy), float(bits)) for accuracy, bits in values)
        self.told[trial, epoch] = decision = self._decide(trial, epoch, shown)
        return decision

    def leave(self, trial: str) -> None:
        """No rung waits any longer for this trial, which failed or will never start.

        It may come back by reporting again; a rung that was decided meanwhile has stopped it.
        """
        if trial not in self.stops:
            self.left.add(trial)

    def stopped(self) -> dict[str, int]:
        """The trials that lost a comparison, running or paused, each with the epoch of the rung where it did."""
        return {trial: level for trial, level in self.stops.items() if trial not in self.left}

    def resumable(self) -> list[str]:
        """The paused trials that may go on, sorted."""
        return []

    def _told(self, trial: str, epoch: int) -> Decision:
        return self.told[trial, epoch]

    def _decide(self, trial: str, epoch: int, values: Values) -> Decision:
        if trial in self.stops or trial in self.diverged:
            return Decision.STOP
        if not all(map(math.isfinite, (number for pair in values for number in pair))):
            self._diverge(trial)
            return Decision.STOP
        return self._judge(trial, epoch, values)

    def _diverge(self, trial: str) -> None:
        self.diverged.add(trial)

    @abstractmethod
    def _judge(self, trial: str, epoch: int, values: Values) -> Decision:
        """Decide on a trial that is in the race and showed finite values."""
