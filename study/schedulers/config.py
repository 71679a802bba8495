"""The settings of a scheduler, as a space declares them."""

import math
from dataclasses import dataclass, fields
from typing import Any

from kdq.errors import UserError, unknown
from kdq.params import is_count, is_number
from study.schedulers.registry import SCHEDULERS, SchedulerKind

BY = ("trial", "configuration")
"""What a scheduler compares."""


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """A scheduler by name. Its rungs are the epochs grace_period · reduction_factor^k; of n trials at a rung,
    n / reduction_factor continue. A grace_period below 1 is a share of the training. Raises UserError for an unknown
    name or an invalid value.

    by: what is compared, single trials or whole configurations by the mean over their seeds."""

    name: str = "none"
    grace_period: float = 1
    reduction_factor: float = 3
    by: str = "trial"

    def __post_init__(self) -> None:
        if broken := [rule for key in KEYS if (rule := broken_rule(key, getattr(self, key)))]:
            raise UserError("; ".join(f"scheduler.{rule}" for rule in broken))

    def first_rung(self, epochs: int) -> int:
        """Return the epoch of the first rung in a training of so many epochs.

        Raises UserError if grace_period is a share of the training that ends with its last epoch.
        """
        if self.grace_period >= 1:
            return int(self.grace_period)
        first = max(1, math.ceil(round(self.grace_period * epochs, 9)))
        if first >= epochs:
            raise UserError(
                f"scheduler.grace_period = {self.grace_period!r}: of {epochs} epochs, that share ends with the last, "
                f"and no trial is ever compared; lower it, train longer, or use no scheduler"
            )
        return first

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
    if key == "by":
        valid = isinstance(value, str) and value in BY
        return None if valid else f"by: {unknown('unit of comparison', str(value), BY)}"
    if key == "grace_period":
        valid = is_count(value) or (is_number(value) and 0 < value < 1)
        rule = "must be a whole number of epochs, at least 1, or a share of the training, such as 0.5"
        return None if valid else f"{key} = {value!r}: {rule}"
    valid = is_number(value) and value >= 2
    return None if valid else f"{key} = {value!r}: must be a number, at least 2; with 3, one trial in three continues"
