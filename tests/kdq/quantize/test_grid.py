"""Scales and zero points of the baselines, against their published definitions."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdq.quantize.algorithms import QUANTIZERS, Problem, Solution
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.gram import GramStatistics
from kdq.quantize.grid import GRID_PARAMS, Grid, find_grid

BASELINES = ("gpfq", "gptq", "rtn")
BITS = st.integers(1, 8)


def grid(W: Tensor, bits: int, **switched: float) -> Grid:
    """On float32 scales, not rounded any further."""
    params = {name: default for name, (default, _) in GRID_PARAMS.items()} | switched
    return find_grid(W[None], Alphabet(bits), params, torch.float32)


def gaussian(seed: int, m: int = 4, d: int = 50) -> Tensor:
    return torch.randn(m, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(W: Tensor, bits: int, *, sym: bool, mse: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """GPTQ's definition, channel by channel, each with weights of both signs: scale, zero point, rounded weights."""
    maxq, scales, zeros, rounded = 2**bits - 1, [], [], []
    for w in W:
        low, high = (-w.abs().max(), w.abs().max()) if sym else (w.min(), w.max())
        found = []
        for step in range(80 if mse else 1):
            share = 1 - step / 100
            scale = share * (high - low) / maxq
            zero = torch.tensor((maxq + 1) / 2, dtype=W.dtype) if sym else torch.round(-share * low / scale)
            q = scale * (torch.clamp(torch.round(w / scale) + zero, 0, maxq) - zero)
            found.append(((w - q).abs().pow(2.4).sum().item(), scale, zero, q))
        _, scale, zero, q = min(found, key=lambda one: one[0])
        scales.append(scale)
        zeros.append(zero)
        rounded.append(q)
    return torch.stack(scales), torch.stack(zeros), torch.stack(rounded)


@given(bits=st.integers(2, 8), sym=st.booleans(), mse=st.booleans(), seed=st.integers(0, 10**6))
def test_round_to_nearest_is_that_of_gptq(bits: int, sym: bool, mse: bool, seed: int) -> None:
    W, alphabet = gaussian(seed), Alphabet(bits)
    scale, zero, rounded = reference(W, bits, sym=sym, mse=mse)
    found = grid(W, bits, asymmetric=not sym, mse=mse)
    assert torch.allclose(found.scale[0], scale, rtol=1e-6)
    assert found.zero_point is None if sym else torch.equal(found.zero_point[0].double(), zero)  # type: ignore[index]
    Q = alphabet.values(alphabet.nearest(W, *found.columns()), *found.columns())[0]
    # A weight midway between two levels, as the largest on a symmetric grid, may go to either.
    distance = [(W - q).abs() for q in (Q, rounded)]
    assert torch.allclose(*distance, rtol=1e-4, atol=1e-6)


@given(bits=BITS, seed=st.integers(0, 10**6))
def test_the_scales_of_gptq_and_of_brevitas(bits: int, seed: int) -> None:
    W = gaussian(seed)
    largest = W.abs().amax(1)
    assert torch.allclose(grid(W, bits).scale[0], 2 * largest / (2**bits - 1), rtol=1e-6)
    assert torch.allclose(grid(W, bits, brevitas_scale=1).scale[0], largest / 2 ** (bits - 1), rtol=1e-6)
    spread = W.amax(1) - W.amin(1)
    for theirs in (0, 1):
        made = grid(W, bits, asymmetric=1, brevitas_scale=theirs)
        assert torch.allclose(made.scale[0], spread / (2**bits - 1), rtol=1e-6)


def test_grids_by_hand() -> None:
    W = torch.tensor([[-1.0, 0.25, 2.0]], dtype=torch.float64)
    assert grid(W, 2).scale.item() == pytest.approx(4 / 3)
    assert grid(W, 2, brevitas_scale=1).scale.item() == 1
    found = grid(W, 2, asymmetric=1)
    assert (found.scale.tolist(), found.zero_point.tolist()) == ([[1.0]], [[1]])  # type: ignore[union-attr]
    alphabet = Alphabet(2)
    codes = alphabet.nearest(W, *found.columns())
    assert codes.tolist() == [[[0, 1, 3]]]
    assert alphabet.values(codes, *found.columns()).tolist() == [[[-1, 0, 2]]]


@given(bits=BITS, shift=st.floats(-5, 5), asymmetric=st.booleans(), seed=st.integers(0, 10**6))
def test_no_weight_is_farther_than_half_a_step_and_zero_stays(
    bits: int, shift: float, asymmetric: bool, seed: int
) -> None:
    """Channels of one sign too: their range reaches to 0."""
    W, alphabet = gaussian(seed) + shift, Alphabet(bits)
    found = grid(W, bits, asymmetric=asymmetric)
    column, zero_point = found.columns()
    Q = alphabet.values(alphabet.nearest(W, column, zero_point), column, zero_point)
    assert ((W - Q).abs() <= column / 2 * (1 + 1e-4)).all()
    if asymmetric:
        none = alphabet.nearest(torch.zeros_like(W), column, zero_point)
        assert not alphabet.values(none, column, zero_point).any()


@given(bits=BITS, asymmetric=st.booleans(), seed=st.integers(0, 10**6))
def test_mse_cuts_off_the_tails_and_never_has_the_larger_error(bits: int, asymmetric: bool, seed: int) -> None:
    W, alphabet = gaussian(seed, d=1000), Alphabet(bits)
    errors, scales = [], []
    for mse in (1, 0):
        columns = grid(W, bits, asymmetric=asymmetric, mse=mse).columns()
        Q = alphabet.values(alphabet.nearest(W, *columns), *columns)
        errors.append((W - Q).abs().pow(2.4).sum(-1))
        scales.append(columns[0])
    assert (errors[0] <= errors[1] * (1 + 1e-9)).all()
    assert (scales[0] <= scales[1]).all()
    assert bits > 4 or (scales[0] < scales[1]).all()


@pytest.mark.parametrize("switched", [{}, {"asymmetric": 1}, {"mse": 1}, {"asymmetric": 1, "mse": 1}])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_channels_of_zeros_and_of_one_value(bits: int, switched: dict[str, float]) -> None:
    W = torch.tensor([[0.0, 0.0], [0.5, 0.5], [-0.5, -0.5], [1e-12, 0.0]], dtype=torch.float64)
    params = {name: default for name, (default, _) in GRID_PARAMS.items()} | switched
    found = find_grid(W[None], Alphabet(bits), params, torch.float16)
    alphabet = Alphabet(bits)
    Q = alphabet.values(alphabet.nearest(W, *found.columns()), *found.columns())[0]
    assert torch.isfinite(Q).all()
    assert not Q[0].any()
    assert not Q[3].any()  # its scale is 0 in float16
    assert Q[1, 0] == -Q[2, 0] or "asymmetric" not in switched
    assert bits < 8 or torch.allclose(Q[1:3], W[1:3], rtol=0.01)


def solved(method: str, bits: int, **switched: float) -> tuple[Problem, Solution]:
    """A layer of Gaussian weights whose inputs are correlated, as those of images are."""
    W, draw = gaussian(0, 16, 144), gaussian(1, 1000, 144)
    X = draw + 2 * draw.mean(1, keepdim=True) * 12 + 0.3
    quantizer = QUANTIZERS[method]
    params = {name: default for name, (default, _) in quantizer.params.items()} | switched
    bias = torch.linspace(-1, 1, 16, dtype=torch.float64)[None]
    statistics = GramStatistics.of(X[None], X[None] @ W.mT + bias, X[None], dtype=torch.float64)
    problem = Problem(W[None], bias, statistics, Alphabet(bits), params, torch.float16, torch.Generator())
    return problem, quantizer.solve(problem)


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize("switch", [None, "brevitas_scale", "asymmetric", "mse"])
def test_all_four_levels_of_2_bits_are_used(method: str, switch: str | None) -> None:
    """Of Gaussian weights. With GPTQ's scale the lowest, −4/3·max|w|, is beyond them all: only errors lead there."""
    _, solution = solved(method, 2, **({switch: 1} if switch else {}))
    shares = torch.bincount(solution.codes.flatten().long(), minlength=4) / solution.codes.numel()
    least = 0.01 if switch else 0.003 if method != "rtn" else 0
    assert shares[0] >= least
    assert (shares[1:] > 0.1).all()
    assert shares[2] < 0.7


@pytest.mark.parametrize(("method", "asymmetric"), list(product(BASELINES, (0, 1))))
def test_bias_correction_keeps_the_mean_of_the_outputs_and_the_codes(method: str, asymmetric: int) -> None:
    problem, plain = solved(method, 3, asymmetric=asymmetric)
    _, corrected = solved(method, 3, asymmetric=asymmetric, bias_correction=1)
    assert torch.equal(plain.codes, corrected.codes)
    assert torch.equal(plain.bias, problem.bias)
    columns = Grid(corrected.scale, corrected.zero_point).columns()
    Q = problem.alphabet.values(corrected.codes, *columns)
    mean = (Q @ problem.statistics.x.unsqueeze(-1)).squeeze(-1) / problem.statistics.count
    wanted = problem.statistics.y / problem.statistics.count
    assert torch.allclose(mean + corrected.bias, wanted, atol=1e-9)
    assert not torch.allclose(mean + plain.bias, wanted, atol=1e-3)
