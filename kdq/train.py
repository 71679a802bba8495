"""The one training loop, of students under every method and of teachers trained here."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdq.augment import AugmentConfig, View, Views
from kdq.data import Dataset
from kdq.errors import UserError, unknown
from kdq.evaluate import accuracy, logits
from kdq.graph import fold
from kdq.methods import MethodConfig, Terms
from kdq.models import ARCHITECTURES, Classifier

TeacherLogits = Callable[[View], Tensor]
"""What a teacher says about a view: float [B, classes], without gradient, in the order of the view."""

DIGITS = 9  # of an epoch at which the learning rate drops: equal ones are to be equal whatever share they come from
CHECK_EVERY = 50  # steps between two looks at the losses: a look makes a GPU wait

PRECISIONS = ("float32", "bf16")
"""Of the forward passes of a training, by autocast; weights, losses, updates and validation are float32."""


class Diverged(RuntimeError):  # noqa: N818 - it ends a trial, as `completed` and `stopped` do
    """Training left the finite numbers in this epoch and step, both counted from 1."""

    def __init__(self, epoch: int, step: int, reason: str) -> None:
        super().__init__(epoch, step, reason)  # so that it survives pickling
        self.epoch, self.step, self.reason = epoch, step, reason

    def __str__(self) -> str:
        return f"diverged in epoch {self.epoch}, step {self.step}: {self.reason}"


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A training recipe: an optimizer of OPTIMIZERS, a linear warm-up, then a schedule of SCHEDULES.

    lr: the highest learning rate; momentum: that of SGD, the first β of Adam; weight_decay: of the weights of
    convolutions and linear layers only; warmup_epochs: length of the warm-up; milestones, step_factor: shares
    of the training at which `step` multiplies the learning rate, and by what; ema: decay of the average of
    the weights that is validated and kept instead of the last ones, 0 for none; precision: one of PRECISIONS;
    compile: by torch.compile, on a GPU. Raises UserError for a value that is not allowed.
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
            "epochs": (self.epochs >= 1, "at least 1"),
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
        choices: dict[str, Iterable[str]] = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
        for name, known in choices.items():
            if getattr(self, name) not in list(known):
                raise unknown(name, getattr(self, name), known)
        if self.schedule == "one_cycle" and not self.warmup_epochs:
            raise UserError("warmup_epochs = 0: must be above 0 for the schedule one_cycle, whose rising part it is")

    def identity(self) -> dict[str, Any]:
        """What decides the training, as JSON: fields that the chosen schedule does not use are left out."""
        fields = asdict(self)
        if self.schedule != "step":
            del fields["milestones"], fields["step_factor"]
        return fields

    @property
    def drops(self) -> tuple[float, ...]:
        """The milestones in epochs."""
        return tuple(round(share * self.epochs, DIGITS) for share in self.milestones)

    @property
    def looks_ahead(self) -> bool:
        """Whether its first epochs would be others if the training were longer: `step` alone does not need to know."""
        return self.schedule != "step"

    def start(self, epoch: int) -> dict[str, Any]:
        """What decides the first epochs of a training that does not look ahead, as JSON."""
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
2016), one-cycle (Smith and Topin 2018; of the learning rate only). done: share of all steps that is done; x: of
those after the warm-up; both in [0, 1)."""


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over the whole training."""
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
    """Of all parameters of the models; batch norm and biases (the parameters of one dimension) do not decay."""
    parameters = [parameter for model in models for parameter in model.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[config.optimizer](groups, config)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Average ← d·average + (1 − d)·model, after the model's update number `step`, counted from 1.

    Batch norm's running statistics are averaged like the weights that they belong to; its counters are copied.
    Early on the average looks back over a tenth of the training only: d = min(decay, (1 + step) / (10 + step)),
    or the first weights would stay in it for too long.
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


def forward_teacher(teacher: Classifier, precision: str = "float32") -> TeacherLogits:
    """A teacher that looks at every view itself. It is frozen and put into evaluation mode for good.

    What it says is that of `teacher` up to rounding: where batch norms can be folded away, they are.
    """
    teacher.eval().requires_grad_(False)
    frozen = (fold(teacher) if teacher.arch in ARCHITECTURES else teacher).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def answer(view: View) -> Tensor:
        with autocast(view.images.device, precision):
            logits_teacher: Tensor = frozen(view.images)
        return logits_teacher

    return answer


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a forward pass in one of PRECISIONS."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision != "float32")


class Trainer:
    """Trains `student`, and for a method that needs one its `peer`, in place, an epoch a call.

    All randomness is in the first weights and the views. data: on the students' device; teacher: may be None for
    a method that needs none; peer: a student with other first weights; stream_seed: determines the views (see
    kdq.augment). Raises UserError if the method needs a teacher and there is none, and for `compile` on a CPU.
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
        peer: Classifier | None = None,
    ) -> None:
        if method.method.needs_teacher and teacher is None:
            raise UserError(f"method {method.name!r} needs a teacher; give one, or use the method 'ce'")
        assert method.method.needs_peer == (peer is not None)
        self.config = config
        self.method = method
        self.device = data.train_images.device
        self.students = (student, peer) if peer else (student,)
        for model in self.students:
            model.to(memory_format=torch.channels_last)
        self.averages = tuple(copy.deepcopy(model).requires_grad_(False) for model in self.students if config.ema)
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
        self.optimizer = make_optimizer(self.students, config)
        self.epoch = 0
        """Epochs done."""
        self.val_top1 = [0.0 for _ in self.students]
        """Percent, of each student after the last epoch."""
        self._forwards = _forwards(self.students, config, self.device)

    @property
    def best(self) -> Classifier:
        """The student that is better on the validation images after the last epoch; averaged if `ema` is on."""
        models = self.averages or self.students
        return models[self.val_top1.index(max(self.val_top1))]

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self.views.steps(self.config.batch_size)

    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and measure the students on the validation images.

        Returns `epoch` (epochs done), `train_loss` and its terms as `train_<term>` (means over the epoch and the
        students), `lr` (of the last step), `val_top1` (percent; the better of two students, and then
        `val_top1_student` and `val_top1_peer`), `seconds` (all of it), `images_per_s` (training alone).
        Raises Diverged if a loss or a validation logit is not finite.
        """
        assert self.epoch < self.config.epochs
        start = time.perf_counter()
        means = self._train_epoch()
        trained = time.perf_counter()
        self.epoch += 1
        self.val_top1 = [self._validate(model) for model in self.averages or self.students]
        names = ("val_top1_student", "val_top1_peer") if len(self.students) > 1 else ()
        return {
            "epoch": self.epoch,
            "train_loss": sum(means.values()),
            **{f"train_{name}": mean for name, mean in means.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "val_top1": max(self.val_top1),
            **dict(zip(names, self.val_top1, strict=False)),
            "seconds": time.perf_counter() - start,
            "images_per_s": len(self.views) / (trained - start),
        }

    def _train_epoch(self) -> dict[str, float]:
        """One pass over the views; returns the mean of each term of the loss."""
        for student in self.students:
            student.train()
        sums: list[Tensor] = []  # of each term over a batch; they stay on the device until they are checked
        names: list[str] = []
        for step, view in enumerate(self.views.epoch(self.epoch, self.config.batch_size), 1):
            terms = self._step(self.epoch * self.steps + step, view)
            names = list(terms)
            sums.append(torch.stack([term.detach().sum() for term in terms.values()]))
            if step % CHECK_EVERY == 0 or step == self.steps:
                self._check_losses(sums)
        total = torch.stack(sums).double().sum(0) / (len(self.views) * len(self.students))
        return dict(zip(names, total.tolist(), strict=True))

    def _step(self, step: int, view: View) -> Terms:
        """The `step`-th update of the training, counted from 1.

        Returns the terms of the loss before it, each [B], summed over the students.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step - 1, self.steps)
        terms = self._terms(view, (step - 1) / (self.config.epochs * self.steps))
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum(0).mean().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for average, student in zip(self.averages, self.students, strict=False):
            update_average(average, student, self.config.ema, step)
        return terms

    def _terms(self, view: View, progress: float) -> Terms:
        """The terms of the loss of a view, each [B], summed over the students.

        A student's loss takes the logits of its peer as constants: no gradient passes from one to the other.
        """
        with autocast(self.device, self.config.precision):
            answers: list[Tensor] = [forward(view.images) for forward in self._forwards]
        teachers = answers[::-1] if self.method.method.needs_peer else [self._logits_teacher(view)]
        each = [
            view_terms(self.method, logits_student, logits_teacher, view, progress)
            for logits_student, logits_teacher in zip(answers, teachers, strict=True)
        ]
        return {name: reduce(torch.add, [terms[name] for terms in each]) for name in each[0]}

    def _logits_teacher(self, view: View) -> Tensor | None:
        if self.teacher is None:
            return None
        if not self.method.mixes_logits:
            return self.teacher(view)
        assert view.parts is not None
        assert view.mix is not None
        first, second = (self.teacher(part).float() for part in view.parts)
        return second.lerp(first, view.mix[:, None])

    def _check_losses(self, sums: list[Tensor]) -> None:
        finite = torch.stack(sums).isfinite().all(1).tolist()
        if not all(finite):
            raise Diverged(self.epoch + 1, finite.index(False) + 1, "the loss is not finite")

    def _validate(self, model: Classifier) -> float:
        """Top-1 on the validation images. A last step can spoil the weights without any loss to show it."""
        answers = logits(model, self.data.val_images)
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
            "val_top1": list(self.val_top1),
            "students": [model.state_dict() for model in self.students],
            "averages": [model.state_dict() for model in self.averages],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of a trainer with the same configuration, method, data and seeds."""
        for name, models in {"students": self.students, "averages": self.averages}.items():
            for model, weights in zip(models, state[name], strict=True):
                model.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.val_top1 = state["epoch"], list(state["val_top1"])


def _forwards(
    students: Sequence[Classifier], config: TrainConfig, device: torch.device
) -> Sequence[Callable[[Tensor], Tensor]]:
    """The students' forward passes, compiled if the recipe says so; batches have two sizes at most."""
    if not config.compile:
        return students
    if device.type == "cpu":
        raise UserError("compile = True: compiles for a GPU, and this training is on the CPU; leave it out")
    return [torch.compile(student, dynamic=False) for student in students]


def view_terms(
    method: MethodConfig, logits_student: Tensor, logits_teacher: Tensor | None, view: View, progress: float
) -> Terms:
    """The terms of the loss of a view, each [B].

    A mixed view has two targets: λ·L(·, labels) + (1 − λ)·L(·, the partner's labels), so λ = 1 is the plain method.
    """
    loss = method.method.loss
    terms = loss(logits_student, logits_teacher, view.labels, method.params, progress)
    if view.mix is None or view.parts is None:
        return terms
    partner = loss(logits_student, logits_teacher, view.parts[1].labels, method.params, progress)
    return {name: partner[name].lerp(terms[name], view.mix) for name in terms}
