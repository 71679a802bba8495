"""Outputs of inner layers, captured by forward hooks, for methods that compare those of student and teacher."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdq.errors import UserError, unknown
from kdq.models.classifier import Classifier

Features = tuple[Tensor, ...]
"""The outputs of layers in one pass, in the order of their names, each float [B, …]."""


@dataclass(frozen=True, slots=True)
class FeatureLayers:
    """The layers that are compared in pairs, by their names in each network, such as `layer1` or `layer3.0.conv2`.

    Raises UserError unless each network has at least one, and both have equally many.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.student or len(self.student) != len(self.teacher):
            raise UserError(
                f"student_layers = {list(self.student)}, teacher_layers = {list(self.teacher)}: must name equally many "
                "layers, at least one, which are compared in pairs"
            )


def stages(model: Classifier) -> tuple[str, ...]:
    """Return the names of the stages of a ResNet, whose outputs are compared by default.

    Raises UserError for a network without children `layer1`, `layer2`, …
    """
    found = tuple(name for name, _ in model.net.named_children() if re.fullmatch(r"layer\d+", name))
    if not found:
        known = ", ".join(name for name, _ in model.net.named_children())
        raise UserError(
            f"architecture {model.arch!r} has no stages layer1, layer2, …: name the layers to compare by "
            f"student_layers and teacher_layers, such as one of {known}"
        )
    return found


def choose_layers(given: FeatureLayers | None, student: Classifier, teacher: Classifier) -> FeatureLayers:
    """Return the given layers, by default the stages of both networks.

    Raises UserError for names that a network lacks, and for stages of different numbers.
    """
    layers = given or FeatureLayers(stages(student), stages(teacher))
    for model, names in ((student, layers.student), (teacher, layers.teacher)):
        known = [name for name, _ in model.net.named_modules() if name]
        for name in names:
            if name not in known:
                raise unknown(f"layer of {model.arch}", name, known)
    return layers


def with_features(model: Classifier, layers: Sequence[str], images: Tensor) -> tuple[Tensor, Features]:
    """Return the logits of images, and the outputs of the named layers in the same pass.

    Raises UserError for a layer that is not called exactly once, or whose output is no tensor.
    """
    with _captured(model.net, layers) as outputs:
        logits: Tensor = model(images)
    for name, found in zip(layers, outputs, strict=True):
        if len(found) != 1 or not isinstance(found[0], Tensor):
            raise UserError(
                f"layer {name!r} of {model.arch}: is called {len(found)} times with outputs of type "
                f"{', '.join(type(output).__name__ for output in found) or 'none'}; name one that is called once and "
                "returns a tensor"
            )
    return logits, tuple(found[0] for found in outputs)


@contextmanager
def _captured(net: nn.Module, layers: Sequence[str]) -> Iterator[list[list[Tensor]]]:
    """Collect the outputs of each of the layers while the context lasts; the network is left without hooks."""
    outputs: list[list[Tensor]] = [[] for _ in layers]
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda module, inputs, output, found=found: found.append(output))
        for name, found in zip(layers, outputs, strict=True)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def check_shapes(layers: FeatureLayers, student: Classifier, teacher: Classifier, image: Tensor) -> None:
    """Raise UserError unless the compared layers have maps [C, H, W] of the same height and width.

    image: float [1, C, H, W] in [0, 1]. The number of channels may differ.
    """
    models = ((student, layers.student), (teacher, layers.teacher))
    found = [_shapes(model, names, image) for model, names in models]
    for one, other, mine, its in zip(*found, layers.student, layers.teacher, strict=True):
        if len(one) != 3 or len(other) != 3 or one[1:] != other[1:]:
            raise UserError(
                f"layer {mine!r} of the student {student.arch} has outputs {list(one)}, and {its!r} of the teacher "
                f"{teacher.arch} {list(other)}: both must be maps [C, H, W] of the same height and width; name others "
                "by student_layers and teacher_layers"
            )


def _shapes(model: Classifier, layers: Sequence[str], image: Tensor) -> list[torch.Size]:
    was_training = model.training
    try:
        _, features = with_features(model.eval(), layers, image)
    finally:
        model.train(was_training)
    return [feature.shape[1:] for feature in features]
