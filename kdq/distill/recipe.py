"""The training recipe: schedules, optimizers, weight averaging, precision."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import nn

from kdq.data.augment import AugmentConfig
from kdq.errors import UserError, unknown

DIGITS = 9  # decimals of an epoch at which the learning rate drops, so that those from different shares compare equal
MOST_EPOCHS = 1_000_000  # more would fill the memory with lists of epochs, and never end
PRECISIONS = ("float32", "bf16")
"""Precisions of the forward passes in training, by autocast; weights, losses, updates and validation are float32."""
AUTO = "auto"
"""A recipe's precision that is still to be chosen of PRECISIONS, by `kdq.distill.precision.choose`."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training recipe: an optimizer of OPTIMIZERS, a linear warm-up, then a schedule of SCHEDULES.

    lr: peak learning rate; momentum: of SGD, or the first β of Adam; weight_decay: of the weights of convolutions
    and linear layers only; warmup_epochs: length of the warm-up; milestones, step_factor: shares of the training
    at which `step` multiplies the learning rate, and the factor; ema: decay of the average of the weights that is
    validated and kept instead of the last weights, 0 for none; precision: one of PRECISIONS, or AUTO, with which
    nothing can be trained yet; compile: use torch.compile, on a GPU. Raises UserError for a value that is not allowed.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epochs: int
    batch_size: int
    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    step_factor: float = 0.1
    ema: float = 0.0
    precision: str = "float32"
    compile: bool = False
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        rules = {
            "epochs": (1 <= self.epochs <= MOST_EPOCHS, f"at least 1 and at most {MOST_EPOCHS:,}"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "momentum": (0 < self.momentum < 1, "above 0 and below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number that is at least 0"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, f"from 0 to epochs ({self.epochs})"),
            "milestones": (_ascends(0, *self.milestones, 1), "shares of the training, ascending, above 0 and below 1"),
            "step_factor": (0 < self.step_factor < 1, "above 0 and below 1"),
            "ema": (0 <= self.ema < 1, "at least 0 (no average) and below 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise UserError(f"{name} = {getattr(self, name)}: must be {rule}")
        precisions = (*PRECISIONS, AUTO)
        choices: dict[str, Iterable[str]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": precisions}
        for name, known in choices.items():
            if getattr(self, name) not in list(known):
                raise unknown(name, getattr(self, name), known)
        if self.schedule == "one_cycle" and not self.warmup_epochs:
            raise UserError("warmup_epochs = 0: must be above 0 for the schedule one_cycle, whose rising phase it is")

    def identity(self) -> dict[str, Any]:
        """Return what determines the training, as JSON, without the fields that the schedule does not use."""
        assert self.precision in PRECISIONS, "a precision is chosen before anything is identified"
        fields = asdict(self) | {"augment": self.augment.identity()}
        if self.schedule != "step":
            del fields["milestones"], fields["step_factor"]
        return fields

    @property
    def drops(self) -> tuple[float, ...]:
        """The milestones in epochs."""
        return tuple(round(share * self.epochs, DIGITS) for share in self.milestones)

    @property
    def looks_ahead(self) -> bool:
        """Whether the first epochs of a longer training would differ: with every schedule but `step`."""
        return self.schedule != "step"

    def start(self, epoch: int) -> dict[str, Any]:
        """Return what determines the first `epoch` epochs of a training that does not look ahead, as JSON."""
        assert not self.looks_ahead
        fields = self.identity()
        del fields["epochs"]
        return fields | {"milestones": [drop for drop in self.drops if drop < epoch]}


def _ascends(*values: float) -> bool:
    return all(a < b for a, b in pairwise(values))


SCHEDULES: dict[str, Callable[[TrainConfig, float, float], float]] = {
    "cosine": lambda config, done, x: (1 + math.cos(math.pi * x)) / 2,
    "step": lambda config, done, x: (
        config.step_factor ** sum(round(done * config.epochs, DIGITS) >= drop for drop in config.drops)
    ),
    "one_cycle": lambda config, done, x: 1 - x,
}
"""Name -> factor of the learning rate after the warm-up: cosine (Loshchilov and Hutter 2017), step (He et al.
2016), one-cycle (Smith and Topin 2018; of the learning rate only). done: completed share of all steps; x: of
those after the warm-up; both in [0, 1)."""


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step, counted from 0 over the whole training."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * min((step + 1) / warmup, 1.0)
    total = config.epochs * steps_per_epoch
    return config.lr * SCHEDULES[config.schedule](config, step / total, (step - warmup) / (total - warmup))


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], TrainConfig], torch.optim.Optimizer]] = {
    "sgd": lambda groups, config: torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True),
    "adam": lambda groups, config: torch.optim.Adam(groups, lr=config.lr, betas=(config.momentum, 0.999)),
    "adamw": lambda groups, config: torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999)),
}
"""Name -> optimizer of groups of parameters: SGD with Nesterov momentum (Sutskever et al. 2013), Adam (Kingma and
Ba 2015; its weight decay is part of the gradient), AdamW (Loshchilov and Hutter 2019)."""


def make_optimizer(models: Iterable[nn.Module], config: TrainConfig) -> torch.optim.Optimizer:
    """Return an optimizer of all parameters of the models; one-dimensional ones (batch norm, biases) do not decay."""
    parameters = [parameter for model in models for parameter in model.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[config.optimizer](groups, config)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Average ← d·average + (1 − d)·model, after the model's update number `step`, counted from 1.

    Batch norm's running statistics are averaged like its weights; its counters are copied. Early on, the average
    spans only about a tenth of the steps so far: d = min(decay, (1 + step) / (10 + step)); otherwise the initial
    weights would remain in it for too long.
    """
    decay = min(decay, (1 + step) / (10 + step))
    averages, values = (list(module.state_dict().values()) for module in (average, model))
    floating = [value.is_floating_point() for value in values]
    torch._foreach_lerp_(
        [a for a, f in zip(averages, floating, strict=True) if f],
        [v for v, f in zip(values, floating, strict=True) if f],
        1 - decay,
    )
    for a, v, f in zip(averages, values, floating, strict=True):
        if not f:
            a.copy_(v)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a forward pass in one of PRECISIONS."""
    assert precision in PRECISIONS
    return torch.autocast(device.type, torch.bfloat16, enabled=precision != "float32")
