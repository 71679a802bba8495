"""What every architecture keeps: finite logits of any classes and channels, gradients everywhere, and quantization."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from kdq.conformance.check import Check, noise, require
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import logits
from kdq.pack.file import load, pack
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize

RGB, GREY = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)), Normalization((0.3,), (0.4,))


def _model(name: str, normalization: Normalization = GREY, seed: int = 1) -> Classifier:
    return build(name, classes=7, normalization=normalization, seed=seed)


def gives_logits_and_gradients(name: str) -> None:
    for normalization in (RGB, GREY):
        model, channels = _model(name, normalization), len(normalization.mean)
        found = model(torch.rand(3, channels, 8, 8, generator=torch.Generator().manual_seed(0)))
        case = f"for images [3, {channels}, 8, 8]"
        require(found.shape == (3, 7), f"logits of shape {list(found.shape)} {case}, must be [3, 7]")
        require(bool(found.isfinite().all()), f"logits that are not finite {case}")
        require(bool(found.std(0).min() > 0), f"the same logits for different images {case}")
        found.square().sum().backward()
        idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        require(not idle, f"no finite gradient for {', '.join(idle[:3])} {case}")


def is_a_classifier_of_its_name(name: str) -> None:
    model = _model(name)
    require(
        (model.arch, model.classes, model.normalization) == (name, 7, GREY), "another name, classes or normalisation"
    )
    require(all(key.startswith("net.") for key in model.state_dict()), "weights outside of the network")


def follows_its_seed(name: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in _model(name, seed=seed).parameters()])

    first = weights(0)
    torch.rand(5)
    require(torch.equal(first, weights(0)), "equal seeds give other weights; use torch's random numbers only")
    require(not torch.equal(first, weights(1)), "other seeds give equal weights")


def is_quantized_and_packed(name: str) -> None:
    images = noise(32, 0, channels=3)[0]
    made = quantize(_model(name, RGB).eval(), images, QuantizeConfig(8, "rtn"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        pack(made, path)
        found = logits(load(path), images)
    require(torch.equal(found, logits(made.model, images)), "other predictions after packing and loading")


CHECKS: Mapping[str, Check] = {
    "finite logits of any classes and channels, and gradients everywhere": gives_logits_and_gradients,
    "a classifier of this name": is_a_classifier_of_its_name,
    "the seed alone decides the weights": follows_its_seed,
    "it is quantized at 8 bits, packed and loaded": is_quantized_and_packed,
}
