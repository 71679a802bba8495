"""The values that parameters of methods and quantizers may take."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, TypeGuard

from kdq.errors import UserError

Params = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Interval:
    """The finite numbers from `low` to `high`, both included; `above` excludes `low`."""

    low: float
    high: float = inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high and value < inf

    def __str__(self) -> str:
        least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        return least + (f" and at most {self.high:g}" if self.high < inf else "")


@dataclass(frozen=True, slots=True)
class Switch:
    """0 (off) or 1 (on)."""

    def __contains__(self, value: float) -> bool:
        return value in (0, 1)

    def __str__(self) -> str:
        return "that is 0 (off) or 1 (on)"


NON_NEGATIVE, POSITIVE, SHARE = Interval(0), Interval(0, above=True), Interval(0, 1)


def check_number(name: str, value: Any, allowed: Interval | Switch, whose: str) -> None:
    """Raise UserError unless `value` is a number that `allowed` contains; whose: the owner named in the message."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in allowed:
        raise UserError(f"{name} = {value!r}: for {whose} it must be a number {allowed}")


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value of a document is a finite number within the range of a float; booleans are not numbers."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:
        return False


def is_count(value: Any) -> TypeGuard[int]:
    """Return whether a value of a document is a whole number of at least 1; booleans are not numbers."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
