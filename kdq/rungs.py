"""Early stopping: rules that say at each epoch whether a trial goes on. Plain objects, without Ray.

A rule is a priority (what trials are compared by, `kdq.priorities`) and a way of promotion: `Asynchronous` decides
at once against those that came before, `Synchronous` when all trials of the rung are there. A rule's state is a
function of what it was told, so a journal of that restores it: see `replay`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from itertools import count, takewhile
from typing import Any

import numpy as np

from kdq.errors import UserError, unknown
from kdq.priorities import FLOAT, PARETO, QUANTIZED, Priority, Rung, Values, dominates


class Decision(Enum):
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
class Rungs(ABC):
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


@dataclass
class Asynchronous(Rungs):
    """A trial goes on from a rung if it is at least as good as the 1 − 1/reduction_factor quantile of those before it.

    This is the stopping variant of ASHA (Li et al. 2018, arXiv:1810.05934), as in Ray Tune, so the first at a rung
    always goes on, and a trial that went on when little was known is not called back. In addition a trial
    that is dominated by one that this rung has stopped is stopped too, where the priority is ordinal.
    """

    def _judge(self, trial: str, epoch: int, values: Values) -> Decision:
        for level in self.levels:
            if level <= epoch and trial not in self.rungs[level] and not self._survives(trial, level, values):
                self.stops[trial] = level
                return Decision.STOP
        return Decision.CONTINUE

    def _survives(self, trial: str, level: int, values: Values) -> bool:
        rung = self.rungs[level]
        rung[trial] = values
        scores = self.priority.scores(rung)
        own = scores.pop(trial)
        if not scores:
            return True
        others = np.array(list(scores.values()))
        if self.priority.ordinal:
            own, others = 0.0, np.sign(others - own)
        cutoff = np.percentile(others, (1 - 1 / self.reduction_factor) * 100)
        return bool(own >= cutoff) and not self._is_outdone(level, values)

    def _is_outdone(self, level: int, values: Values) -> bool:
        """Whether this rung has stopped a trial that dominates these values."""
        lost = (self.rungs[level][trial] for trial, last in self.stops.items() if last == level)
        return self.priority.ordinal and any(dominates(other, values) for other in lost)


@dataclass
class Synchronous(Rungs):
    """All trials of a rung are compared before any goes on (successive halving, Jamieson and Talwalkar 2016).

    trials: how many meet at the first rung. One in reduction_factor of those expected at a rung survives it,
    rounded down but at least one; those that failed or diverged on the way are expected but cannot survive.
    Who survives does not depend on the order of arrival.
    """

    trials: int
    promoted: list[frozenset[str]] = field(init=False, default_factory=list)  # the survivors of each decided rung
    paused: dict[str, int] = field(init=False, default_factory=dict)  # trial -> the epoch after which it paused

    def leave(self, trial: str) -> None:
        super().leave(trial)
        self._settle()

    def resumable(self) -> list[str]:
        gone = self.stops.keys() | self.diverged | self.left
        waiting = ((trial, epoch) for trial, epoch in self.paused.items() if trial not in gone)
        return sorted(trial for trial, epoch in waiting if self._standing(trial, epoch) is Decision.CONTINUE)

    def _told(self, trial: str, epoch: int) -> Decision:
        told = super()._told(trial, epoch)
        return self._standing(trial, epoch) if told is Decision.PAUSE else told

    def _diverge(self, trial: str) -> None:
        super()._diverge(trial)
        self._settle()

    def _judge(self, trial: str, epoch: int, values: Values) -> Decision:
        self.paused.pop(trial, None)
        while (decision := self._standing(trial, epoch)) is Decision.PAUSE and trial not in self._open_rung():
            self._open_rung()[trial] = values
            self._settle()
        if decision is Decision.PAUSE:
            self.paused[trial] = epoch
        elif decision is Decision.STOP and trial not in self.stops:  # it came to a rung that was decided without it
            self.stops[trial] = next(
                n for n, best in zip(self.levels, self.promoted, strict=False) if trial not in best
            )
        return decision

    def _standing(self, trial: str, epoch: int) -> Decision:
        """What the rungs up to this epoch say of a trial."""
        due = [level for level in self.levels if level <= epoch]
        if not all(trial in best for best in self.promoted[: len(due)]):
            return Decision.STOP
        return Decision.CONTINUE if len(due) <= len(self.promoted) else Decision.PAUSE

    def _open_rung(self) -> dict[str, Values]:
        """The first rung that is not decided; no trial is beyond it."""
        return self.rungs[self.levels[len(self.promoted)]]

    def _settle(self) -> None:
        """Decide every rung at which all have arrived."""
        while len(self.promoted) < len(self.levels) and self._is_full():
            level, gone = self.levels[len(self.promoted)], self.left | self.diverged
            present = {trial: values for trial, values in self._open_rung().items() if trial not in gone}
            expected = len(self.promoted[-1]) if self.promoted else self.trials
            best = survivors(self.priority, present, self.reduction_factor, expected)
            self.stops |= dict.fromkeys(sorted(self._open_rung().keys() - best - self.diverged), level)
            self.promoted.append(best)

    def _is_full(self) -> bool:
        arrived = self._open_rung().keys() | self.left | self.diverged
        return self.promoted[-1] <= arrived if self.promoted else len(arrived) >= self.trials


def survivors(priority: Priority, rung: Rung, reduction_factor: float, expected: int | None = None) -> frozenset[str]:
    """The best 1/reduction_factor of a full rung, at least one; ties go to the lower trial id.

    expected: the number of trials that the share is of, if some of them are not in the rung.
    """
    count = max(1, int((len(rung) if expected is None else expected) / reduction_factor))
    scores = priority.scores(rung)
    return frozenset(sorted(rung, key=lambda trial: (-scores[trial], trial))[:count])


Factory = Callable[[RungConfig], Rungs]


def _asynchronous(priority: Priority, config: RungConfig) -> Rungs:
    return Asynchronous(priority, config.levels, config.reduction_factor)


def _synchronous(priority: Priority, config: RungConfig) -> Rungs:
    return Synchronous(priority, config.levels, config.reduction_factor, config.trials)


RULES: dict[str, Factory] = {
    "asha": partial(_asynchronous, FLOAT),
    "asha_quantized": partial(_asynchronous, QUANTIZED),
    "asha_pareto": partial(_asynchronous, PARETO),
    "halving": partial(_synchronous, FLOAT),
    "halving_quantized": partial(_synchronous, QUANTIZED),
    "halving_pareto": partial(_synchronous, PARETO),
}


def make_rule(name: str, config: RungConfig) -> Rungs:
    """The rule of this name in its first state. Raises UserError with the known names."""
    if name not in RULES:
        raise unknown("scheduler", name, RULES)
    return RULES[name](config)


def report_record(trial: str, epoch: int, values: Values, decision: Decision) -> dict[str, Any]:
    """A report and its decision as plain JSON; a number that is not finite is null."""
    shown = [[number if math.isfinite(number) else None for number in pair] for pair in values]
    return {"trial": trial, "epoch": epoch, "values": shown, "decision": decision.value}


def leave_record(trial: str) -> dict[str, Any]:
    """A trial's leaving as plain JSON."""
    return {"trial": trial, "epoch": None, "values": None, "decision": None}


def replay(rule: Rungs, records: Iterable[Mapping[str, Any]]) -> None:
    """Bring a new rule to the state in which a journal of records left another.

    Raises UserError if it decides otherwise than the journal says: it is not the rule that was in force.
    """
    for number, record in enumerate(records, 1):
        trial, epoch = record["trial"], record["epoch"]
        if epoch is None:
            rule.leave(trial)
            continue
        values = [(_number(accuracy), _number(bits)) for accuracy, bits in record["values"]]
        decision = rule.report(trial, epoch, values)
        if decision.value != record["decision"]:
            raise UserError(
                f"journal record {number}: trial {trial} was told {record['decision']!r} after epoch {epoch}, where "
                f"this scheduler says {decision.value!r}; the settings must be those that the study began with"
            )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
