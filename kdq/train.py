"""The one training loop, of students under every method and of teachers trained here."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdq.augment import AugmentConfig, View, Views
from kdq.data import Dataset
from kdq.errors import UserError, unknown
from kdq.evaluate import accuracy, logits
from kdq.methods import MethodConfig, Terms
from kdq.models import Classifier

TeacherLogits = Callable[[View], Tensor]
"""What a teacher says about a view: float [B, classes], without gradient, in the order of the view."""

CHECK_EVERY = 50  # steps between two looks at the losses: a look makes a GPU wait

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
}
"""Name -> factor of the learning rate; x in [0, 1) is the share done of the steps after the warm-up."""


class Diverged(RuntimeError):  # noqa: N818 - it ends a trial, as `completed` and `stopped` do
    """Training left the finite numbers in this epoch and step, both counted from 1."""

    def __init__(self, epoch: int, step: int, reason: str) -> None:
        super().__init__(epoch, step, reason)  # so that it survives pickling
        self.epoch, self.step, self.reason = epoch, step, reason

    def __str__(self) -> str:
        return f"diverged in epoch {self.epoch}, step {self.step}: {self.reason}"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training recipe: SGD with Nesterov momentum, a linear warm-up, then `schedule`.

    lr: the highest learning rate; warmup_epochs: length of the warm-up; weight_decay: of the weights of
    convolutions and linear layers only. Raises UserError for a value that is not allowed.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 0.0
    schedule: str = "cosine"
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "a number above 0"),
            "momentum": (0 < self.momentum < 1, "above 0 and below 1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "a number that is at least 0"),
            "warmup_epochs": (0 <= self.warmup_epochs <= self.epochs, f"from 0 to epochs ({self.epochs})"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise UserError(f"{name} = {getattr(self, name)}: must be {rule}")
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over the whole training."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * min((step + 1) / warmup, 1.0)
    total = config.epochs * steps_per_epoch
    return config.lr * SCHEDULES[config.schedule]((step - warmup) / (total - warmup))


def forward_teacher(teacher: Classifier) -> TeacherLogits:
    """A teacher that looks at every view itself. It is frozen and put into evaluation mode for good."""
    teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def answer(view: View) -> Tensor:
        logits_teacher: Tensor = teacher(view.images)
        return logits_teacher

    return answer


class Trainer:
    """Trains `student` in place, an epoch a call. All randomness is in the student's weights and the views.

    data: on the student's device; teacher: may be None for a method that needs none; stream_seed: determines
    the views (see kdq.augment). Raises UserError if the method needs a teacher and there is none.
    """

    def __init__(
        self,
        config: TrainConfig,
        method: MethodConfig,
        student: Classifier,
        teacher: TeacherLogits | None,
        data: Dataset,
        *,
        stream_seed: int,
    ) -> None:
        if method.method.needs_teacher and teacher is None:
            raise UserError(f"method {method.name!r} needs a teacher; give one, or use the method 'ce'")
        self.config = config
        self.method = method
        self.student = student.to(memory_format=torch.channels_last)
        self.teacher = teacher if method.method.needs_teacher else None
        self.data = data
        self.views = Views(
            data.train_images,
            data.train_labels,
            config.augment,
            stream_seed=stream_seed,
            fill=data.normalization.mean,
            mixup_alpha=method.params["mixup_alpha"],
        )
        self.optimizer = sgd(student, config)
        self.epoch = 0
        """Epochs done."""

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self.views.steps(self.config.batch_size)

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and measure the student on the validation images.

        Returns `epoch` (epochs done), `train_loss` and its terms as `train_<term>` (means over the epoch),
        `lr` (of the last step), `val_top1` (percent), `seconds` (all of it), `images_per_s` (training alone).
        Raises Diverged if a loss or a validation logit is not finite.
        """
        assert self.epoch < self.config.epochs
        start = time.perf_counter()
        means = self._train_epoch()
        trained = time.perf_counter()
        self.epoch += 1
        val_top1 = self._validate()
        return {
            "epoch": self.epoch,
            "train_loss": sum(means.values()),
            **{f"train_{name}": mean for name, mean in means.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "val_top1": val_top1,
            "seconds": time.perf_counter() - start,
            "images_per_s": len(self.views) / (trained - start),
        }

    def _train_epoch(self) -> dict[str, float]:
        """One pass over the views; returns the mean of each term of the loss."""
        self.student.train()
        sums: list[Tensor] = []  # of each term over a batch; they stay on the device until they are checked
        names: list[str] = []
        for step, view in enumerate(self.views.epoch(self.epoch, self.config.batch_size), 1):
            terms = self._step(step, view)
            names = list(terms)
            sums.append(torch.stack([term.detach().sum() for term in terms.values()]))
            if step % CHECK_EVERY == 0 or step == self.steps:
                self._check_losses(sums)
        total = torch.stack(sums).double().sum(0) / len(self.views)
        return dict(zip(names, total.tolist(), strict=True))

    def _step(self, step: int, view: View) -> Terms:
        """One update of the student, the `step`-th of the epoch; returns the terms of the loss before it."""
        done = self.epoch * self.steps + step - 1
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, done, self.steps)
        logits_teacher = self.teacher(view) if self.teacher else None
        logits_student = self.student(view.images)
        progress = done / (self.config.epochs * self.steps)
        terms = view_terms(self.method, logits_student, logits_teacher, view, progress)
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum(0).mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return terms

    def _check_losses(self, sums: list[Tensor]) -> None:
        finite = torch.stack(sums).isfinite().all(1).tolist()
        if not all(finite):
            raise Diverged(self.epoch + 1, finite.index(False) + 1, "the loss is not finite")

    def _validate(self) -> float:
        """Top-1 on the validation images. A last step can spoil the weights without any loss to show it."""
        answers = logits(self.student, self.data.val_images)
        if not answers.isfinite().all():
            raise Diverged(self.epoch, self.steps, "the validation logits are not finite")
        return accuracy(answers, self.data.val_labels)

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to go on as if never interrupted, fit for `torch.load(weights_only=True)`.

        The tensors are the living ones: save them before the next epoch. There is no random state in it
        because there is none: the views are a function of the epoch.
        """
        return {
            "epoch": self.epoch,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a trainer with the same configuration, method, data and seeds."""
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]


def view_terms(
    method: MethodConfig, logits_student: Tensor, logits_teacher: Tensor | None, view: View, progress: float
) -> Terms:
    """The terms of the loss of a view, each [B].

    A mixed view has two targets: λ·L(·, labels) + (1 − λ)·L(·, labels_partner), so λ = 1 is the plain method.
    """
    loss = method.method.loss
    terms = loss(logits_student, logits_teacher, view.labels, method.params, progress)
    if view.mix is None or view.labels_partner is None:
        return terms
    partner = loss(logits_student, logits_teacher, view.labels_partner, method.params, progress)
    return {name: partner[name].lerp(terms[name], view.mix) for name in terms}


def sgd(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD with Nesterov momentum; batch norm and biases (the parameters of one dimension) do not decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True)
