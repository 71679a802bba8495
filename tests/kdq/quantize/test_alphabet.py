import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from kdq.bits import check_bits
from kdq.errors import UserError
from kdq.quantize.alphabet import Alphabet

SCALES = st.floats(-100, 100, width=16).filter(lambda s: abs(s) > 1e-3)


def levels(alphabet: Alphabet, scale: float = 1.0) -> list[float]:
    codes = torch.arange(alphabet.levels, dtype=alphabet.dtype)
    return alphabet.values(codes, torch.tensor(scale, dtype=torch.float64)).tolist()


def test_levels_are_those_of_the_definition() -> None:
    assert levels(Alphabet(1)) == [-0.5, 0.5]
    assert levels(Alphabet(2)) == [-2, -1, 0, 1]
    assert levels(Alphabet(3), -0.5) == [2, 1.5, 1, 0.5, 0, -0.5, -1, -1.5]


@given(bits=st.integers(1, 8), data=st.data(), scale=SCALES)
def test_a_zero_point_is_the_code_of_zero(bits: int, data: st.DataObject, scale: float) -> None:
    zero = data.draw(st.integers(0, 2**bits - 1))
    alphabet, codes = Alphabet(bits), torch.arange(2**bits, dtype=torch.uint8)
    s, z = torch.tensor(scale, dtype=torch.float64), torch.tensor(zero, dtype=torch.uint8)
    values = alphabet.values(codes, s, z)
    assert values.tolist() == [(code - zero) * scale for code in range(2**bits)]
    assert torch.equal(alphabet.nearest(values, s, z), codes)
    assert alphabet.nearest(torch.zeros(1), s, z).item() == zero


@pytest.mark.parametrize("bits", range(1, 9))
def test_b_bits_are_2_to_the_b_levels(bits: int) -> None:
    assert len(set(levels(Alphabet(bits)))) == 2**bits


def test_levels_of_the_papers() -> None:
    assert levels(Alphabet.symmetric(1)) == [-1, 0, 1]
    assert levels(Alphabet.symmetric(2)) == [-2, -1, 0, 1, 2]
    assert levels(Alphabet.sparse(2, 0.25)) == [-2.25, -1.25, -0.25, 0, 0.25, 1.25, 2.25]
    assert levels(Alphabet.sparse(1, 1.5), -2) == [5, 3, 0, -3, -5]


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_are_charged_what_their_number_costs(bits: int) -> None:
    assert Alphabet(bits).code_bits == bits
    for alphabet in (Alphabet.symmetric(bits), Alphabet.sparse(bits, 0.5)):
        assert 2**bits < alphabet.levels == len(set(levels(alphabet))) <= 2**alphabet.code_bits
        assert alphabet.code_bits == (3 if (bits, alphabet.extra) == (1, 3) else bits + 1)


@given(bits=st.integers(1, 8), value=st.floats(-300, 300), gap=st.just(1.0) | st.floats(0.1, 3), scale=SCALES)
def test_hard_thresholding_is_that_of_the_paper(bits: int, value: float, gap: float, scale: float) -> None:
    """Zero within the threshold λ = gap·scale, else sign(z)(λ + scale·min(⌊(|z| − λ)/scale + 1/2⌋, K))."""
    size, s = abs(scale), torch.tensor(abs(scale), dtype=torch.float64)
    alphabet, z = Alphabet.sparse(bits, gap), value * abs(scale) / 4
    steps = (abs(z) - gap * size) / size
    assume(min(abs(steps), abs(steps % 1 - 0.5)) > 1e-9)  # ties may go either way
    wanted = math.copysign(gap * size + size * min(math.floor(steps + 0.5), 2 ** (bits - 1)), z) if steps > 0 else 0
    code = alphabet.nearest(torch.tensor(z, dtype=torch.float64), s)
    assert alphabet.values(code, s).item() == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@given(bits=st.integers(1, 8), extra=st.integers(0, 1), value=st.floats(-500, 500), scale=SCALES)
def test_no_level_is_nearer_than_the_nearest(bits: int, extra: int, value: float, scale: float) -> None:
    alphabet, s = Alphabet(bits, extra), torch.tensor(scale, dtype=torch.float64)
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


def test_other_alphabets_are_refused() -> None:
    for extra, gap in ((-1, 1.0), (4, 1.0), (1.0, 1.0), (3, 0.0), (3, float("nan")), (3, float("inf"))):
        with pytest.raises(UserError, match="extra must be 0 to 3 levels, gap a finite number above 0"):
            Alphabet(2, extra, gap)
