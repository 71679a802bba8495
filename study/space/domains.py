"""What a value is drawn from: listed values, a range of real numbers, or a range of whole ones.

Each domain knows its size, draws by a random number, and asks an Optuna trial; optuna itself is not imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log
from typing import Any, Generic, Protocol, TypeVar

from kdq.store.stage import Json

T = TypeVar("T")
EXACT = 2**53
"""Up to here a float holds every whole number."""


class Suggesting(Protocol):
    """What is needed of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = ...) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """One of these values, all different: a grid or a choice, or a fixed value."""

    values: tuple[T, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    @property
    def limits(self) -> tuple[T, ...]:
        """The values that must be allowed for all to be allowed."""
        return self.values

    def at(self, u: float) -> T:
        """The value at share u of the list, 0 ≤ u < 1."""
        return self.values[int(u * self.size)]

    def suggest(self, trial: Suggesting, label: str) -> T:
        """The trial's choice; one that there is no choice about is not asked for."""
        if self.size == 1:
            return self.values[0]
        choices = {_plain(value): value for value in self.values}
        return choices[trial.suggest_categorical(label, list(choices))]

    def document(self) -> Json:
        return {"grid": list(self.values)} if self.size > 1 else {"value": self.values[0]}


@dataclass(frozen=True, slots=True)
class Reals:
    """A real number from `low` to `high`, uniform, or with a uniform logarithm."""

    low: float
    high: float
    log: bool = False
    size = inf

    @property
    def limits(self) -> tuple[float, float]:
        return self.low, self.high

    def at(self, u: float) -> float:
        """The number below which lies share u of the domain, 0 ≤ u < 1."""
        if self.log:
            # exp and log round: the ends are kept by hand.
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
        """The number at share u of the range, 0 ≤ u < 1."""
        return self.values[int(u * self.size)]

    def suggest(self, trial: Suggesting, label: str) -> int:
        return trial.suggest_int(label, self.low, self.high)

    def document(self) -> Json:
        return {"int": [self.low, self.high]}


Domain = Listed[Any] | Reals | Integers


def _plain(value: Any) -> Any:
    """A value as Optuna can store it: several widths as their text."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
