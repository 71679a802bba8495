"""The schedulers by name."""

from collections.abc import Callable
from functools import partial

from kdq.errors import unknown
from study.schedulers.asha import Asynchronous
from study.schedulers.halving import Synchronous
from study.schedulers.priorities import FLOAT, PARETO, QUANTIZED, Priority
from study.schedulers.scheduler import RungConfig, Rungs

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
