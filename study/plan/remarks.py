"""Remarks on a plan that is allowed, but likely not what its user wants; printed before the study starts."""

from study.plan.averaging import decay
from study.plan.plan import Plan

EARLIEST = 0.5
"""The share of the training before which no rung should be. In the records of docs/results, rungs at 1/27 and 9/27 of
the training lost half of the front or all of it under every scheduler, rungs at 14/27 next to nothing."""
AVERAGE = 3.0
"""Epochs to average the weights over; without an average, rungs at 14/27 lost half of the front, too."""


def remarks(plan: Plan) -> list[str]:
    """Return one line for each remark."""
    return [line for line in (plan.space.shortage, _early_rung(plan), _single_weights(plan), _seeds(plan)) if line]


def _early_rung(plan: Plan) -> str:
    scheduler, epochs = plan.space.scheduler, plan.workload.train.epochs
    if scheduler.kind.promotion is None or (first := scheduler.first_rung(epochs)) >= EARLIEST * epochs:
        return ""
    return (
        f"warning: {scheduler.name} stops trials after epoch {first} of {epochs}; before the middle of the training "
        f"their ranking is mostly chance (docs/search.md); raise scheduler.grace_period, for instance to {EARLIEST}, "
        f"half of the training"
    )


def _single_weights(plan: Plan) -> str:
    scheduler, train = plan.space.scheduler, plan.workload.train
    if scheduler.kind.promotion is None or train.ema:
        return ""
    return (
        f"warning: {scheduler.name} compares the weights of single epochs, which are mostly noise while the learning "
        f"rate is high (docs/search.md); average them over about {AVERAGE:g} epochs, with --set "
        f"train.ema={decay(plan, AVERAGE)}"
    )


def _seeds(plan: Plan) -> str:
    scheduler = plan.space.scheduler
    if scheduler.kind.promotion is None or len(plan.seeds) == 1 or scheduler.by == "configuration":
        return ""
    return (
        f"warning: {scheduler.name} stops the {len(plan.seeds)} seeds of a configuration one by one, and the front has "
        f"only configurations with all seeds; scheduler.by=configuration stops or promotes them together, by their mean"
    )
