"""The table of schedulers. `--help` reads it, so numpy is imported only when a scheduler is made."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kdq import plugins
from kdq.errors import UserError, unknown

if TYPE_CHECKING:
    from study.schedulers.scheduler import RungConfig, Scheduler

PriorityName = Literal["float", "quantized", "pareto"]
"""The keys of `study.schedulers.priorities.PRIORITIES`."""

Promotion = Literal["asynchronous", "synchronous"]
"""When a rung decides: at each arrival (`study.schedulers.asha`) or after the last (`study.schedulers.halving`)."""


@dataclass(frozen=True, slots=True)
class SchedulerKind:
    """A kind of scheduler: how and when it compares trials, both None if it stops none, and its line in `--help`.

    records: whether students are measured at every width after each epoch; make: of a plugin's scheduler, which may
    compare trials in its own way: its priority then tells only what trials report.
    """

    priority: PriorityName | None
    promotion: Promotion | None
    description: str
    records: bool = False
    make: "Callable[[RungConfig], Scheduler] | None" = None

    @property
    def needs_epochs(self) -> bool:
        """Whether it acts after epochs, and so needs trials that train."""
        return self.promotion is not None or self.records


SCHEDULERS: dict[str, SchedulerKind] = {
    "none": SchedulerKind(None, None, "every trial runs to its last epoch"),
    "asha": SchedulerKind("float", "asynchronous", "at each rung, the trials of best validation accuracy continue"),
    "asha_quantized": SchedulerKind(
        "quantized", "asynchronous", "the same on the accuracy of the student quantized at the trial's widths"
    ),
    "asha_pareto": SchedulerKind(
        "pareto", "asynchronous", "at each rung, the trials with the least dominated accuracies and total bits continue"
    ),
    "halving": SchedulerKind(
        "float", "synchronous", "all trials of a rung are compared before any continues, by validation accuracy"
    ),
    "halving_quantized": SchedulerKind("quantized", "synchronous", "the same by quantized accuracy"),
    "halving_pareto": SchedulerKind("pareto", "synchronous", "the same by accuracies and total bits"),
    "record": SchedulerKind(
        None,
        None,
        "every trial runs to its last epoch and is measured at every width after each, for `analysis replay`",
        records=True,
    ),
}


def stopping() -> tuple[str, ...]:
    """Return the schedulers that stop trials."""
    return tuple(name for name, kind in SCHEDULERS.items() if kind.promotion)


def register_scheduler(name: str, kind: SchedulerKind) -> None:
    """Add a scheduler, from a plugin; `kind.make` makes it. Raises UserError for a name that is taken."""
    if kind.make is None or kind.promotion is None or kind.priority is None:
        raise UserError(f"scheduler {name!r}: its SchedulerKind needs a priority, a promotion and make")
    plugins.add("scheduler", SCHEDULERS, name, kind, "study.conformance.schedulers")


def make_scheduler(name: str, config: "RungConfig") -> "Scheduler":
    """Return the scheduler of this name in its initial state. Raises UserError with the known names."""
    from study.schedulers.asha import Asha
    from study.schedulers.halving import Halving
    from study.schedulers.priorities import PRIORITIES

    if name not in stopping():
        raise unknown("scheduler", name, stopping())
    kind = SCHEDULERS[name]
    assert kind.priority
    if kind.make:
        return kind.make(config)
    priority = PRIORITIES[kind.priority]
    if kind.promotion == "synchronous":
        return Halving(priority, config.levels, config.reduction_factor, config.trials)
    return Asha(priority, config.levels, config.reduction_factor)


def by_configuration(scheduler: "Scheduler") -> "Scheduler":
    """Return the scheduler that compares configurations by all their seeds, as the given one compares trials."""
    from study.schedulers.by_configuration import ByConfiguration

    return ByConfiguration(scheduler.priority, scheduler.levels, scheduler.reduction_factor, scheduler)
