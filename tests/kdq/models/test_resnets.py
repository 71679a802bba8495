from itertools import pairwise

import pytest
import torch
from torch import nn

from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.resnets import ARCHITECTURES, ShortcutA

RGB = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
GREY = Normalization((0.3,), (0.4,))

# Name -> (parameters, multiply-accumulates of convolutions and linear layer on a 3x32x32 image), ten classes.
# He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85, 1.7 million parameters for 20 to 110 layers.
COSTS = {
    "resnet8": (75_290, 12_239_488),
    "resnet14": (172_506, 26_395_264),
    "resnet20": (269_722, 40_551_040),
    "resnet32": (464_154, 68_862_592),
    "resnet44": (658_586, 97_174_144),
    "resnet56": (853_018, 125_485_696),
    "resnet110": (1_727_962, 252_887_680),
    "resnet18": (11_173_962, 555_422_720),
    "resnet34": (21_282_122, 1_159_402_496),
    "resnet50": (23_520_842, 1_297_829_888),
}


def macs(model: nn.Module, image: torch.Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers: outputs times the weights each one reads."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model.eval()(image)
    return total


def test_every_architecture_has_its_costs_listed():
    assert COSTS.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("arch", COSTS)
def test_parameters_and_macs(arch):
    model = build(arch, classes=10, normalization=RGB, seed=0)
    assert sum(p.numel() for p in model.parameters()) == COSTS[arch][0]
    assert macs(model, torch.zeros(1, 3, 32, 32)) == COSTS[arch][1]


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_parameters_of_a_cifar_resnet_in_closed_form(depth):
    n = (depth - 2) // 6
    widths = [3, 16, *[16] * (2 * n), *[32] * (2 * n), *[64] * (2 * n)]
    convolutions = 9 * sum(a * b for a, b in pairwise(widths))
    expected = convolutions + 2 * sum(widths[1:]) + 64 * 10 + 10
    model = build(f"resnet{depth}", classes=10, normalization=RGB, seed=0)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("normalization", [RGB, GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_conformance(arch, normalization):
    model = build(arch, classes=7, normalization=normalization, seed=1)
    images = torch.rand(3, len(normalization.mean), 8, 8, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()
    assert logits.std(0).min() > 0  # the image matters
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(key.startswith("net.") for key in model.state_dict())
    assert (model.arch, model.classes, model.normalization) == (arch, 7, normalization)


@pytest.mark.parametrize("arch", ["resnet8", "resnet18"])
def test_the_seed_alone_decides_the_weights(arch):
    def weights(seed: int) -> torch.Tensor:
        model = build(arch, classes=10, normalization=RGB, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    before = torch.get_rng_state()
    first = weights(0)
    torch.rand(5)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))
    torch.set_rng_state(before)
    weights(2)
    assert torch.equal(before, torch.get_rng_state())  # the global generator is left alone


def test_a_classifier_normalises_its_images():
    model = build("resnet8", classes=10, normalization=RGB, seed=0).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    normalised = torch.stack([(images[:, c] - RGB.mean[c]) / RGB.std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(model(images), model.net(normalised))


def test_a_classifier_of_another_normalisation_takes_its_weights():
    a = build("resnet8", classes=10, normalization=RGB, seed=0)
    b = build("resnet8", classes=10, normalization=Normalization((0.0,) * 3, (1.0,) * 3), seed=1)
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.net.conv1.weight, b.net.conv1.weight)
    assert b.mean.flatten().tolist() == [0, 0, 0]


def test_shortcut_a_keeps_every_second_pixel_between_zero_channels():
    x = torch.arange(2 * 2 * 4 * 4, dtype=torch.float32).view(2, 2, 4, 4)
    out = ShortcutA(2, 4, 2)(x)
    assert out.shape == (2, 4, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, [0, 2]][..., [0, 2]])
    assert not out[:, [0, 3]].any()


@pytest.mark.parametrize("arch", ["resnet8", "resnet18"])
def test_channels_last_gives_the_same_logits(arch):
    model = build(arch, classes=10, normalization=RGB, seed=0).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = model(images)
    actual = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_an_unknown_architecture_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown architecture 'resnet_20': did you mean 'resnet20'\?"):
        build("resnet_20", classes=10, normalization=RGB, seed=0)


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (float("nan"),))])
def test_a_normalisation_that_is_none_is_refused(mean, std):
    with pytest.raises(ValueError, match="must be finite, of equal length, and std above 0"):
        Normalization(mean, std)


def test_classifier_moves_its_normalisation():
    model = Classifier("identity", nn.Identity(), 3, GREY).to(torch.float64)
    assert model.mean.dtype == torch.float64
    assert model(torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)).item() == pytest.approx(1, rel=1e-6)
