"""The training loop, for students under every method and for teachers trained here."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from kdq.data.augment import View, Views
from kdq.data.dataset import Dataset
from kdq.distill.features import FeatureLayers, choose_layers, with_features
from kdq.distill.methods import MethodConfig, Terms
from kdq.distill.recipe import (
    AUTO,
    TrainConfig,
    autocast,
    learning_rate,
    make_optimizer,
    update_average,
)
from kdq.distill.teacher_logits import ForwardTeacher, TeacherLogits
from kdq.errors import UserError
from kdq.models.classifier import Classifier
from kdq.models.evaluate import accuracy, logits
from kdq.models.float32 import exact_float32

CHECK_EVERY = 50  # steps between two checks of the losses: each check synchronizes with the GPU


class Diverged(RuntimeError):  # noqa: N818 - an end of a trial, like `completed` and `stopped`
    """Training produced NaN or infinity in this epoch and step, both counted from 1."""

    def __init__(self, epoch: int, step: int, reason: str) -> None:
        super().__init__(epoch, step, reason)  # so that it survives pickling
        self.epoch, self.step, self.reason = epoch, step, reason

    def __str__(self) -> str:
        return f"diverged in epoch {self.epoch}, step {self.step}: {self.reason}"


class Trainer:
    """Trains `student`, and `peer` for a method that needs one, in place, one epoch per call.

    All randomness is in the initial weights and the views. data: on the students' device; teacher: may be None for
    a method that needs none; peer: a student with other initial weights; stream_seed: determines the views (see
    kdq.data.augment); layers: those that a method with a feature loss compares, by default the stages of both networks.
    Raises UserError if a teacher is needed and missing, for a student of another number of classes or channels than the
    data's, for the precision AUTO, for `compile` on a CPU or with a feature loss, and for layers that do not exist.
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
        layers: FeatureLayers | None = None,
    ) -> None:
        if method.method.needs_teacher and teacher is None:
            raise UserError(f"method {method.name!r} needs a teacher; give one, or use the method 'ce'")
        assert method.method.needs_peer == (peer is not None)
        if config.precision == AUTO:
            raise UserError(f"precision = {AUTO!r}: must be chosen first; kdq.distill.precision.choose(device) does")
        self.config = config
        self.method = method
        self.device = data.device
        self.students = (student, peer) if peer else (student,)
        shape = data.classes, len(data.normalization.mean)
        if other := [found for model in self.students if (found := (model.classes, model.mean.numel())) != shape]:
            raise UserError(
                f"a student has {other[0][0]} classes and {other[0][1]} channels, the data set {data.name!r} has "
                f"{shape[0]} and {shape[1]}; build the student for this data set"
            )
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
        """Completed epochs."""
        self.val_top1 = [0.0 for _ in self.students]
        """Validation accuracy of each student after the last epoch, in percent."""
        self._forwards = _forwards(self.students, config, self.device)
        self._features = _Features(method, self.teacher, student, layers, config) if method.compares_features else None

    @property
    def best(self) -> Classifier:
        """The student with the higher validation accuracy after the last epoch; averaged if `ema` is on."""
        models = self.averages or self.students
        return models[self.val_top1.index(max(self.val_top1))]

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.views.steps(self.config.batch_size)

    @exact_float32()
    def run_epoch(self) -> dict[str, float]:
        """Train one epoch and evaluate the students on the validation images.

        Returns `epoch` (completed epochs), `train_loss` and its terms as `train_<term>` (means over the epoch and
        the students), `lr` (of the last step), `val_top1` (percent; of two students the better one's, with both as
        `val_top1_student` and `val_top1_peer`), `seconds` (in total), `images_per_s` (of training alone).
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
        """Train on every view once; return the mean of each term of the loss."""
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
        """Run update number `step` of the training, counted from 1.

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
        """Return the terms of the loss of a view, each [B], summed over the students.

        A student's loss treats the logits of its peer as constants: no gradient flows from one to the other.
        """
        if self._features:
            return self._features.terms(view, progress)
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
        """Return the validation accuracy in percent. The last step can spoil the weights without a loss to show it."""
        answers = logits(model, self.data.val_images)
        if not answers.isfinite().all():
            raise Diverged(self.epoch, self.steps, "the validation logits are not finite")
        return accuracy(answers, self.data.val_labels)

    def state_dict(self) -> dict[str, Any]:
        """Return all that training needs to resume as if never interrupted, for `torch.load(weights_only=True)`.

        The tensors are not copies: save them before the next epoch. No random state is included because there is
        none: the views are a function of the epoch.
        """
        return {
            "epoch": self.epoch,
            "val_top1": list(self.val_top1),
            "students": [model.state_dict() for model in self.students],
            "averages": [model.state_dict() for model in self.averages],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the `state_dict` of a trainer with the same configuration, method, data and seeds."""
        for name, models in {"students": self.students, "averages": self.averages}.items():
            for model, weights in zip(models, state[name], strict=True):
                model.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.val_top1 = state["epoch"], list(state["val_top1"])


class _Features:
    """The terms of a method with a feature loss: student and teacher give logits and features in one pass each."""

    def __init__(
        self,
        method: MethodConfig,
        teacher: TeacherLogits | None,
        student: Classifier,
        layers: FeatureLayers | None,
        config: TrainConfig,
    ) -> None:
        if not isinstance(teacher, ForwardTeacher):
            raise UserError(f"method {method.name!r} compares features, which no cache has: use ForwardTeacher(model)")
        if config.compile:
            raise UserError(f"compile = True: method {method.name!r} captures features by hooks; leave it out")
        self.method, self.teacher, self.student, self.precision = method, teacher, student, config.precision
        self.layers = choose_layers(layers, student, teacher.teacher)

    def terms(self, view: View, progress: float) -> Terms:
        assert self.method.method.feature_loss
        with autocast(view.images.device, self.precision):
            logits_student, features_student = with_features(self.student, self.layers.student, view.images)
        logits_teacher, features_teacher = self.teacher.with_features(view, self.layers.teacher)
        terms = view_terms(self.method, logits_student, logits_teacher, view, progress)
        return terms | self.method.method.feature_loss(features_student, features_teacher, self.method.params)


def _forwards(
    students: Sequence[Classifier], config: TrainConfig, device: torch.device
) -> Sequence[Callable[[Tensor], Tensor]]:
    """Return the students' forward passes, compiled if the recipe requests it; batches have at most two sizes."""
    if not config.compile:
        return students
    if device.type == "cpu":
        raise UserError("compile = True: needs a GPU, but this training runs on the CPU; leave it out")
    return [torch.compile(student, dynamic=False) for student in students]


def view_terms(
    method: MethodConfig, logits_student: Tensor, logits_teacher: Tensor | None, view: View, progress: float
) -> Terms:
    """Return the terms of the loss of a view, each [B].

    A mixed view has two targets: λ·L(·, labels) + (1 − λ)·L(·, the partner's labels), so λ = 1 is the plain method.
    """
    loss = method.method.loss
    terms = loss(logits_student, logits_teacher, view.labels, method.params, progress)
    if view.mix is None or view.parts is None:
        return terms
    partner = loss(logits_student, logits_teacher, view.parts[1].labels, method.params, progress)
    return {name: partner[name].lerp(terms[name], view.mix) for name in terms}
