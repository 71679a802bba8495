"""Which rule stops trials early, and how hard: the settings alone; the rules themselves know no YAML."""

from dataclasses import dataclass, fields
from typing import Any

from kdq.errors import UserError, unknown
from kdq.params import is_count, is_number
from study.schedulers.registry import SCHEDULERS, SchedulerKind


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """A scheduler by name. Its rungs are the epochs grace_period · reduction_factor^k; of n trials on a rung,
    n / reduction_factor go on. Raises UserError for a name or value not allowed."""

    name: str = "none"
    grace_period: int = 1
    reduction_factor: float = 3

    def __post_init__(self) -> None:
        if broken := [rule for key in KEYS if (rule := broken_rule(key, getattr(self, key)))]:
            raise UserError("; ".join(f"scheduler.{rule}" for rule in broken))

    @property
    def kind(self) -> SchedulerKind:
        """Its row in the table of schedulers."""
        return SCHEDULERS[self.name]


KEYS = tuple(field.name for field in fields(SchedulerConfig))


def broken_rule(key: str, value: Any) -> str | None:
    """The setting and the rule that it breaks; None if it is sound."""
    if key == "name":
        sound = isinstance(value, str) and value in SCHEDULERS
        return None if sound else f"name: {unknown('scheduler', str(value), SCHEDULERS)}"
    if key == "grace_period":
        return None if is_count(value) else f"{key} = {value!r}: must be a whole number of epochs, at least 1"
    sound = is_number(value) and value >= 2
    return None if sound else f"{key} = {value!r}: must be a number, at least 2; with 3, one trial in three goes on"
