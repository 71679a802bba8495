import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdq.alphabet import Alphabet, check_bits
from kdq.errors import UserError

SCALES = st.floats(-100, 100, width=16).filter(lambda s: abs(s) > 1e-3)


def levels(alphabet: Alphabet, scale: float = 1.0) -> list[float]:
    codes = torch.arange(alphabet.levels, dtype=torch.uint8)
    return alphabet.values(codes, torch.tensor(scale, dtype=torch.float64)).tolist()


def test_levels_are_those_of_the_definition() -> None:
    assert levels(Alphabet(1)) == [-0.5, 0.5]
    assert levels(Alphabet(2)) == [-2, -1, 0, 1]
    assert levels(Alphabet(3), -0.5) == [2, 1.5, 1, 0.5, 0, -0.5, -1, -1.5]


@pytest.mark.parametrize("bits", range(1, 9))
def test_b_bits_are_2_to_the_b_levels(bits: int) -> None:
    assert len(set(levels(Alphabet(bits)))) == 2**bits


@settings(deadline=None)
@given(bits=st.integers(1, 8), value=st.floats(-500, 500), scale=SCALES)
def test_no_level_is_nearer_than_the_nearest(bits: int, value: float, scale: float) -> None:
    alphabet, s = Alphabet(bits), torch.tensor(scale, dtype=torch.float64)
    chosen = alphabet.values(alphabet.nearest(torch.tensor(value, dtype=torch.float64), s), s).item()
    best = min(abs(value - level) for level in levels(alphabet, scale))
    assert abs(value - chosen) <= best + 1e-9


def test_scale_zero_gives_zero() -> None:
    zero = torch.zeros(1)
    for bits in range(1, 9):
        alphabet = Alphabet(bits)
        assert alphabet.values(alphabet.nearest(torch.ones(1), zero), zero).item() == 0


@pytest.mark.parametrize("bits", [0, -1, 9, 16, 31, 33, 2.0, True, "2", None])
def test_other_widths_are_refused(bits: object) -> None:
    with pytest.raises(UserError, match="must be a whole number from 1 to 8, or 32"):
        check_bits(bits)
    with pytest.raises(UserError, match="1 to 8"):
        Alphabet(0)
