from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kdq.errors import UserError
from kdq.models.classifier import Normalization, build
from kdq.models.evaluate import logits
from kdq.models.graph import fold
from kdq.quantize.activations import InputQuantizer, InputRange, attach, check_activation_bits, find_range
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import layer_names, quantize

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def images(count: int = 32, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def levels(found: InputRange) -> Tensor:
    return (torch.arange(1 << found.bits) - found.zero_point) * torch.tensor(found.scale)


@given(bits=st.integers(4, 8), scale=st.floats(0.0625, 8, width=32), zero=st.integers(0, 15), seed=st.integers(0, 999))
def test_values_go_to_their_nearest_level(bits: int, scale: float, zero: int, seed: int) -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(seed)) * scale * 2**bits
    found = InputRange(bits, scale, zero)
    rounded = InputQuantizer(found)(values)
    distance = (values[:, None] - levels(found)).abs().min(1).values
    assert torch.allclose((rounded - values).abs(), distance, rtol=1e-4, atol=1e-4 * scale)
    assert InputQuantizer(found)(torch.zeros(1)).item() == 0


@pytest.mark.parametrize("zero", [0, 3, 4])
def test_the_middle_goes_to_an_even_multiple_of_the_scale_whatever_the_zero_point(zero: int) -> None:
    values = torch.tensor([-0.75, -0.25, 0.25, 0.75, 1.25])
    wanted = [-1.0, 0.0, 0.0, 1.0, 1.0] if zero else [0.0, 0.0, 0.0, 1.0, 1.0]
    assert InputQuantizer(InputRange(4, 0.5, zero))(values).tolist() == wanted


def batches(values: Tensor) -> Iterator[Tensor]:
    yield from values.split(7)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_range_beats_that_of_the_extremes(bits: int) -> None:
    for shift, positive in ((0.0, True), (0.0, False), (1.5, False)):
        values = torch.randn(500, generator=torch.Generator().manual_seed(bits)) + shift
        values = values.relu() if positive else values
        found = find_range(lambda values=values: batches(values), bits)
        low, high = min(0.0, values.min().item()), values.max().item()
        scale = (high - low) / (2**bits - 1)
        extremes = InputRange(bits, scale, round(-low / scale))
        errors = [(InputQuantizer(r)(values) - values).square().sum() for r in (found, extremes)]
        assert errors[0] <= errors[1] * 1.001
        assert not positive or found.zero_point == 0
        assert 0 <= found.zero_point < 2**bits


def test_rare_extremes_do_not_stretch_the_range() -> None:
    values = torch.cat([torch.rand(5000, generator=torch.Generator().manual_seed(0)), torch.tensor([2.0])])
    found = find_range(lambda: batches(values), 4)
    assert found.scale * 15 == pytest.approx(1, abs=0.05)


def test_constant_zero_inputs_have_a_range() -> None:
    found = find_range(lambda: batches(torch.zeros(20)), 4)
    assert InputQuantizer(found)(torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_layer_rounds_its_inputs() -> None:
    layer, x = nn.Linear(5, 3), torch.randn(4, 5)
    plain = nn.Linear(5, 3)
    plain.load_state_dict(layer.state_dict())
    found = InputRange(4, 0.3, 7)
    attach(layer, found)
    assert torch.equal(layer(x), plain(InputQuantizer(found)(x)))


@pytest.mark.parametrize("method", ["least_squares", "gpfq", "rtn"])
def test_inputs_of_all_quantized_layers_have_few_values(method: str) -> None:
    model = build("resnet8", classes=7, normalization=NORMALIZATION, seed=0)
    widths = {name: 32 if name == "linear" else 8 for name in layer_names(model)}
    made = quantize(model, images(), QuantizeConfig(widths, method, activation_bits=4))
    seen: dict[str, int] = {}
    for name in layer_names(model):
        module = made.model.net.get_submodule(name)
        forward = module.forward

        def look(x: Tensor, name: str = name, forward: object = forward) -> Tensor:
            seen[name] = len(x.unique())
            return forward(x)  # type: ignore[operator, no-any-return]

        module.forward = look
    logits(made.model, images(4, seed=1))
    assert seen.pop("linear") > 16
    assert all(2 <= count <= 16 for count in seen.values())


def test_more_bits_of_activations_bring_the_outputs_closer() -> None:
    model = build("resnet8", classes=7, normalization=NORMALIZATION, seed=0)
    truth = logits(fold(model), images(64, seed=1))
    errors = [
        (
            logits(quantize(model, images(), QuantizeConfig(8, activation_bits=a)).model, images(64, seed=1)) - truth
        ).norm()
        for a in (4, 5, 6, 8, None)
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("bits", [0, 3, 9, 16, 8.0, True, "8"])
def test_other_widths_are_refused(bits: object) -> None:
    with pytest.raises(UserError, match="must be a whole number from 4 to 8, or None"):
        check_activation_bits(bits)


def test_nan_in_the_images_is_refused() -> None:
    model = build("resnet8", classes=7, normalization=NORMALIZATION, seed=0)
    pictures = images().float() / 255
    pictures[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="calibration images: floating-point values from nan to nan"):
        quantize(model, pictures, QuantizeConfig(4, activation_bits=8))
