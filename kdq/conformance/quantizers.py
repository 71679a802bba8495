"""What every quantizer keeps: its levels, its parameters, what a packed file holds, equal models for equal seeds."""

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kdq.conformance.check import Check, noise, require, require_close
from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import logits
from kdq.pack.file import load, pack
from kdq.pack.size import total_bits
from kdq.quantize.algorithms import QUANTIZERS
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize
from kdq.quantize.result import Quantized

BITS = (1, 3, 8)
IMAGES = 32


@cache
def _model() -> Classifier:
    return build("resnet8", classes=4, normalization=Normalization((0.5,) * 3, (0.25,) * 3), seed=0).eval()


def _images() -> Tensor:
    return noise(IMAGES, 0, channels=3)[0]


def _made(name: str, bits: int) -> Quantized:
    return quantize(_model(), _images(), QuantizeConfig(bits, name))


def has_at_most_the_declared_levels(name: str) -> None:
    for bits in BITS:
        quantizer, made = QUANTIZERS[name], _made(name, bits)
        levels = quantizer.alphabet(bits, QuantizeConfig(bits, name).parameters).levels
        for key, layer in made.layers.items():
            count = len(set(layer.codes.flatten().tolist()))
            require(count <= levels, f"layer {key} at {bits} bits has {count} different codes, at most {levels}")


def comes_closer_with_more_bits(name: str) -> None:
    expected = logits(_model(), _images())
    errors = [(logits(_made(name, bits).model, _images()) - expected).square().mean().item() for bits in (2, 8)]
    require(errors[1] < errors[0], f"the logits' squared error is {errors[0]:g} at 2 bits and {errors[1]:g} at 8")


def comes_back_from_a_packed_file(name: str) -> None:
    for bits in BITS:
        made = _made(name, bits)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            pack(made, path)
            found = logits(load(path), _images())
        require(torch.equal(found, logits(made.model, _images())), f"other predictions after loading, at {bits} bits")
        require(total_bits(made) > 0, "a model of no bits")


def follows_its_seed(name: str) -> None:
    first, second = (logits(_made(name, 4).model, _images()) for _ in range(2))
    require(torch.equal(first, second), "equal seeds give other models; use Problem.generator for random numbers")


def leaves_its_inputs_alone(name: str) -> None:
    before = {key: value.clone() for key, value in _model().state_dict().items()}
    _made(name, 3)
    for key, value in _model().state_dict().items():
        require(torch.equal(value, before[key]), f"{key} of the float model has changed")


def survives_layers_that_do_not_vary(name: str) -> None:
    constant = torch.full((8, 3, 8, 8), 128, dtype=torch.uint8)
    made = quantize(_model(), constant, QuantizeConfig(4, name))
    require(
        bool(logits(made.model, constant).isfinite().all()), "logits that are not finite, from images without contrast"
    )


def refuses_values_that_are_not_allowed(name: str) -> None:
    for key, (default, allowed) in QUANTIZERS[name].params.items():
        require(default in allowed, f"{key}: its default {default} must be {allowed}")
        for bad in (float("nan"), float("inf"), "4", None):
            try:
                QuantizeConfig(4, name, {key: bad})  # type: ignore[dict-item]
            except UserError:
                continue
            require(False, f"{key} = {bad!r} is not refused")


def keeps_the_mean_scale(name: str) -> None:
    expected, found = logits(_model(), _images()), logits(_made(name, 8).model, _images())
    spread = float(expected.std())
    require_close(found / spread, expected / spread, "logits at 8 bits, in standard deviations", rtol=0, atol=1.0)


CHECKS: Mapping[str, Check] = {
    "b bits have at most the levels of the alphabet": has_at_most_the_declared_levels,
    "more bits come closer to the float model": comes_closer_with_more_bits,
    "at 8 bits the logits are near those of the float model": keeps_the_mean_scale,
    "a packed file gives the same predictions": comes_back_from_a_packed_file,
    "equal seeds give equal models": follows_its_seed,
    "the float model is left alone": leaves_its_inputs_alone,
    "layers whose inputs do not vary are quantized": survives_layers_that_do_not_vary,
    "values that are not allowed are refused": refuses_values_that_are_not_allowed,
}
