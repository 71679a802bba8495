import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdq.errors import UserError
from kdq.export.integers import WIDTHS, integers
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.result import QuantizedLayer

CHANNELS = 6


def layer(alphabet: Alphabet, seed: int, *, one_scale: bool, asymmetric: bool, half: bool) -> QuantizedLayer:
    """A layer with random codes and scales of both signs, one of them 0."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, alphabet.levels, (CHANNELS, 2, 3, 3), generator=generator).to(alphabet.dtype)
    scale = torch.randn(1 if one_scale else CHANNELS, generator=generator)
    scale[0] = 0 if not one_scale else scale[0]
    zero_point = torch.randint(0, alphabet.levels, (CHANNELS,), generator=generator).to(torch.uint8)
    scale = scale.half() if half else scale
    return QuantizedLayer(alphabet, codes, scale, scale.new_zeros(CHANNELS), None, zero_point if asymmetric else None)


@given(
    bits=st.integers(1, 8),
    extra=st.sampled_from([0, 1, 3]),
    seed=st.integers(0, 99),
    one_scale=st.booleans(),
    asymmetric=st.booleans(),
    half=st.booleans(),
)
def test_they_are_the_weight_to_the_bit_with_positive_scales(
    bits: int, extra: int, seed: int, one_scale: bool, asymmetric: bool, half: bool
) -> None:
    alphabet = Alphabet(bits, extra)
    given_layer = layer(alphabet, seed, one_scale=one_scale, asymmetric=asymmetric and not extra, half=half)
    found = integers(given_layer, "conv")
    assert torch.equal(found.weight(), given_layer.weight())
    assert (found.scale > 0).all()
    for values in (found.codes, found.zero_point):
        assert values.min() >= 0
        assert values.max() < 1 << found.bits
    assert found.bits in WIDTHS
    assert found.bits == 4 or found.bits < 2 * alphabet.code_bits, "the narrowest that holds the codes"


@pytest.mark.parametrize(("bits", "extra", "wanted"), [(1, 0, 4), (4, 0, 4), (4, 1, 8), (8, 0, 8), (8, 1, 16)])
def test_widths_by_hand(bits: int, extra: int, wanted: int) -> None:
    found = integers(layer(Alphabet(bits, extra), 0, one_scale=False, asymmetric=False, half=True), "conv")
    assert found.bits == wanted


def test_one_bit_by_hand() -> None:
    codes = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    scale = torch.tensor([3.0, -5.0])
    found = integers(QuantizedLayer(Alphabet(1), codes, scale, torch.zeros(2)), "linear")
    assert (found.codes - found.zero_point[:, None]).tolist() == [[-1, 1], [-1, 1]]
    assert found.scale.tolist() == [1.5, 2.5]


def test_a_gap_around_zero_is_refused() -> None:
    sparse = layer(Alphabet.sparse(3, 0.25), 0, one_scale=True, asymmetric=False, half=False)
    with pytest.raises(UserError, match=r"layer conv7: its levels leave a gap of 0.25 steps around 0.*--to torch"):
        integers(sparse, "conv7")
