"""The settings of a scheduler, as a space declares them."""

from dataclasses import dataclass, fields
from typing import Any

from kdq.errors import UserError, unknown
from kdq.params import is_count, is_number
from study.schedulers.registry import SCHEDULERS, SchedulerKind


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """A scheduler by name. Its rungs are the epochs grace_period · reduction_factor^k; of n trials at a rung,
    n / reduction_factor continue. Raises UserError for an unknown name or an invalid value."""

    name: str = "none"
    grace_period: int = 1
    reduction_factor: float = 3

    def __post_init__(self) -> None:
        if broken := [rule for key in KEYS if (rule := broken_rule(key, getattr(self, key)))]:
            raise UserError("; ".join(f"scheduler.{rule}" for rule in broken))

    @property
    def kind(self) -> SchedulerKind:
        """The row of the table of schedulers."""
        return SCHEDULERS[self.name]


KEYS = tuple(field.name for field in fields(SchedulerConfig))


def broken_rule(key: str, value: Any) -> str | None:
    """Return a setting and the rule that its value breaks; None if the value is valid."""
    if key == "name":
        valid = isinstance(value, str) and value in SCHEDULERS
        return None if valid else f"name: {unknown('scheduler', str(value), SCHEDULERS)}"
    if key == "grace_period":
        return None if is_count(value) else f"{key} = {value!r}: must be a whole number of epochs, at least 1"
    valid = is_number(value) and value >= 2
    return None if valid else f"{key} = {value!r}: must be a number, at least 2; with 3, one trial in three continues"
