"""Our own members keep what plugins are checked for, and members that break a promise are found."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kdq.conformance import architectures, datasets, methods, quantizers
from kdq.conformance.check import ConformanceError
from kdq.data.sources import DATASETS
from kdq.distill.methods import METHODS, Method
from kdq.models.resnets import ARCHITECTURES
from kdq.quantize.algorithms import QUANTIZERS, Problem, Quantizer, Solution, round_to_nearest


@pytest.mark.parametrize("check", quantizers.CHECKS)
@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_keeps(name: str, check: str) -> None:
    quantizers.CHECKS[check](name)


@pytest.mark.parametrize("check", architectures.CHECKS)
@pytest.mark.parametrize("name", ["resnet8", "resnet14"])
def test_an_architecture_keeps(name: str, check: str) -> None:
    """The others are built in the same way, and are slow; tests/kdq/models/test_resnets.py has all."""
    architectures.CHECKS[check](name)


@pytest.mark.parametrize("check", datasets.CHECKS)
@pytest.mark.parametrize("name", [name for name, entry in DATASETS.items() if entry.is_embedded])
def test_every_embedded_data_set_keeps(name: str, check: str) -> None:
    datasets.CHECKS[check](name)


def changed(loss: Callable[..., dict[str, Tensor]], **fields: object) -> Method:
    """The method vkd with another loss, made of its own."""
    vkd = METHODS["vkd"]
    return replace(vkd, loss=lambda *args: loss(vkd.loss(*args), *args), **fields)  # type: ignore[arg-type]


def shuffled(terms: dict[str, Tensor], *args: object) -> dict[str, Tensor]:
    return {key: term.flip(0) for key, term in terms.items()}


BROKEN = {
    "one finite float32 value a sample and term": changed(lambda terms, *_: {"ce": terms["ce"].mean()}),
    "gradients reach the student only": changed(lambda terms, s, t, *_: {**terms, "kd": (s - t).square().mean(1)}),
    "a perfect student has nothing to learn from its teacher": changed(lambda terms, *_: {"kd": terms["kd"] + 1}),
    "finite for huge logits": changed(
        lambda terms, s, *_: {"ce": -s.float().softmax(1).log().sum(1), "kd": terms["kd"]}
    ),
    "logits of any dtype are computed in float32": changed(lambda terms, s, *_: {"ce": s.square().sum(1).float()}),
    "the order of the batch does not matter": changed(
        lambda terms, *_: {"kd": terms["kd"] * torch.arange(len(terms["kd"]))}
    ),
    "a shift of the teacher's logits does not matter": changed(
        lambda terms, s, t, *_: {"kd": (s.float() - t.detach().float()).square().mean(1)}
    ),
    "the terms have the same names throughout": changed(lambda terms, *args: {f"kd{args[-1] > 0.5}": terms["kd"]}),
    "a method without a teacher does not look at one": changed(lambda terms, *_: terms, needs_teacher=False),
    "it depends on the training's length only if declared": changed(
        lambda terms, *args: {"kd": terms["kd"] * args[-1]}
    ),
}


@pytest.mark.parametrize("check", BROKEN)
def test_a_method_that_breaks_a_promise_is_found(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "broken", BROKEN[check])
    with pytest.raises((ConformanceError, AssertionError)):
        methods.CHECKS[check]("broken")


def test_a_quantizer_of_too_many_levels_or_of_random_numbers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(problem: Problem) -> Solution:
        codes = problem.alphabet.nearest(problem.W + torch.rand_like(problem.W), *torch.ones(2, 1, 1, 1))
        return replace(round_to_nearest(problem), codes=codes)

    monkeypatch.setitem(QUANTIZERS, "broken", Quantizer("noisy", noisy, QUANTIZERS["rtn"].params))
    with pytest.raises(ConformanceError, match="equal seeds give other models"):
        quantizers.CHECKS["equal seeds give equal models"]("broken")


def test_an_architecture_with_an_idle_parameter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Idle(nn.Module):
        def __init__(self, classes: int, channels: int) -> None:
            super().__init__()
            self.conv, self.idle = nn.Conv2d(channels, classes, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3))  # type: ignore[no-any-return]

    monkeypatch.setitem(ARCHITECTURES, "idle", Idle)
    with pytest.raises(ConformanceError, match=r"no finite gradient for net\.idle\.weight"):
        architectures.gives_logits_and_gradients("idle")
