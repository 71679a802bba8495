"""The average of the weights that a space asks for in epochs, as the decay of a workload's recipe."""

from collections.abc import Collection
from dataclasses import replace

from study.plan.plan import Plan

DIGITS = 5  # decimals of a decay


def averaged(plan: Plan, given: Collection[str]) -> Plan:
    """Return the plan with the average that its space asks for, unless it has one, or `train.ema` is given."""
    epochs, workload = plan.space.ema_epochs, plan.workload
    if epochs is None or workload.train.ema or "train.ema" in given:
        return plan
    return replace(plan, workload=replace(workload, train=replace(workload.train, ema=decay(plan, epochs))))


def decay(plan: Plan, epochs: float) -> float:
    """Return the decay of an average over the steps of about so many epochs: 1 − 1 / steps."""
    steps = epochs * -(-plan.train_images // plan.workload.train.batch_size)
    return round(min(max(0.0, 1 - 1 / steps), 1 - 10**-DIGITS), DIGITS) if steps > 0 else 0.0
