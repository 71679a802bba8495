"""Domains of values: listed values, a range of real numbers, or a range of whole numbers.

Each domain has a size, maps a random number to a value, and takes suggestions from an Optuna trial; optuna itself is
not imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log
from typing import Any, Generic, Protocol, TypeVar

from kdq.store.stage import Json

T = TypeVar("T")
EXACT = 2**53
"""A float represents every whole number up to this one exactly."""


class Suggesting(Protocol):
    """The methods of an Optuna trial that a domain uses."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """Distinct values: a grid, a choice, or one fixed value."""

    values: tuple[T, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    @property
    def limits(self) -> tuple[T, ...]:
        """The values that must be valid for all to be valid."""
        return self.values

    def at(self, u: float) -> T:
        """Return the value at fraction u of the list, 0 ≤ u < 1."""
        return self.values[int(u * self.size)]

    def suggest(self, trial: Suggesting, label: str) -> T:
        """Return the trial's choice; a single value is returned without asking."""
        if self.size == 1:
            return self.values[0]
        choices = {plain(value): value for value in self.values}
        return choices[trial.suggest_categorical(label, list(choices))]

    def document(self) -> Json:
        return {"grid": list(self.values)} if self.size > 1 else {"value": self.values[0]}


@dataclass(frozen=True, slots=True)
class Reals:
    """A real number from `low` to `high`, uniform or log-uniform."""

    low: float
    high: float
    log: bool = False
    size = inf

    @property
    def limits(self) -> tuple[float, float]:
        return self.low, self.high

    def at(self, u: float) -> float:
        """Return the quantile u of the domain, 0 ≤ u < 1."""
        if self.log:
            # exp and log round: clip to the ends.
            return min(max(exp((1 - u) * log(self.low) + u * log(self.high)), self.low), self.high)
        return min(max((1 - u) * self.low + u * self.high, self.low), self.high)

    def suggest(self, trial: Suggesting, label: str) -> float:
        return trial.suggest_float(label, self.low, self.high, log=self.log)

    def document(self) -> Json:
        return {"loguniform" if self.log else "uniform": [self.low, self.high]}


@dataclass(frozen=True, slots=True)
class Integers:
    """A whole number from `low` to `high`, both included; neither beyond ±2^53."""

    low: int
    high: int

    @property
    def size(self) -> int:
        return self.high - self.low + 1

    @property
    def values(self) -> range:
        return range(self.low, self.high + 1)

    @property
    def limits(self) -> tuple[int, int]:
        return self.low, self.high

    def at(self, u: float) -> int:
        """Return the number at fraction u of the range, 0 ≤ u < 1."""
        return self.values[int(u * self.size)]

    def suggest(self, trial: Suggesting, label: str) -> int:
        return trial.suggest_int(label, self.low, self.high)

    def document(self) -> Json:
        return {"int": [self.low, self.high]}


Domain = Listed[Any] | Reals | Integers


def plain(value: Any) -> Any:
    """Return a value that Optuna can store: a tuple of widths as text."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
