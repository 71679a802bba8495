"""The average of the weights that a space asks for in epochs, as the decay of a workload's recipe."""

from collections.abc import Collection
from dataclasses import replace

from kdq.data.sources import DATASETS
from study.space.space import Space
from study.space.workload import Workload

DIGITS = 5  # decimals of a decay


def averaged(workload: Workload, space: Space, given: Collection[str]) -> Workload:
    """Return the workload with the average that its space asks for, unless it has one, or `train.ema` is given."""
    if space.ema_epochs is None or workload.train.ema or "train.ema" in given:
        return workload
    return replace(workload, train=replace(workload.train, ema=decay(workload, space.ema_epochs)))


def decay(workload: Workload, epochs: float) -> float:
    """Return the decay of an average over the steps of about so many epochs: 1 − 1 / steps."""
    shape = DATASETS[workload.dataset].shape
    images = workload.train_images or shape.train - workload.val_images
    steps = epochs * -(-images // workload.train.batch_size)
    return round(min(max(0.0, 1 - 1 / steps), 1 - 10**-DIGITS), DIGITS) if steps > 0 else 0.0
