"""Ways to quantize one layer: functions from a Problem to a Solution, by name in QUANTIZERS."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kdq import plugins
from kdq.params import POSITIVE, Interval, Switch
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.gram import ROUNDING, GramStatistics, damped
from kdq.quantize.grid import GRID_PARAMS, Grid, find_grid, storable
from kdq.quantize.layout import AT_ONCE
from kdq.quantize.solvers import (
    Operator,
    descend,
    diffuse,
    diffuse_errors,
    diffusion,
    soft_threshold,
    solve,
    stochastic,
)

Params = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Problem:
    """One layer: W float64 [groups, m, d], bias [groups, m], and the statistics of its inputs and outputs.

    params: the quantizer's own, complete; stored: the floating dtype in which scales are kept; generator: the
    layer's random stream, on the CPU.
    """

    W: Tensor
    bias: Tensor
    statistics: GramStatistics
    alphabet: Alphabet
    params: Params
    stored: torch.dtype
    generator: torch.Generator


@dataclass(frozen=True, slots=True)
class Solution:
    """codes: [groups, m, d]; scale: storable, [groups, m], or [1, 1] if the layer has one; bias: [groups, m].

    zero_point: uint8 [groups, m] on an asymmetric grid, else None.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor
    zero_point: Tensor | None = None


DAMPING = 0.01
"""Weight of staying near the float weights, in units of the mean diagonal of G."""

SWEEPS = 4
RATIOS = torch.logspace(-0.8, 0.05, 16, dtype=torch.float64)
"""Scales that are tried, in units of the one that spans a channel's largest weight."""


def least_squares(problem: Problem) -> Solution:
    """The default, and the most accurate recipe found. It is our own, and none of the papers' algorithms.

    The wanted outputs are those of the float stream plus what the other branch of an addition lacks (see
    `quantize`). Their damped least-squares solution for the inputs of the quantized stream replaces the
    weights: (T + λW)(G + λI)⁻¹, statistics centred. Error diffusion, strongest inputs first, rounds it for a grid
    of scales of either sign, of which each channel takes the one with the least output error; sweeps of
    coordinate descent follow.
    The bias keeps the mean of the outputs. Least-squares target and diffusion as in Qronos (2026).
    """
    centred = problem.statistics.centred()
    damping = DAMPING * mean_diagonal(centred.G) + ROUNDING * centred.G.shape[-1] * mean_diagonal(problem.statistics.G)
    damping, G, factor = damped(centred.G, torch.where(damping > 0, damping, 1))
    W = torch.cholesky_solve((centred.T + damping * problem.W).mT, factor).mT.float()
    order = strongest_first(G)
    W, G = W.take_along_dim(order, -1), reordered(G, order)
    codes, scale = search(W, G, problem.alphabet, problem.stored)
    for _ in range(SWEEPS):
        codes = descend(W, G.to(W), G.to(W), problem.alphabet, scale, codes)
    codes = codes.take_along_dim(order.argsort(-1), -1)
    Q = problem.alphabet.values(codes, scale.double().unsqueeze(-1))
    return Solution(codes, scale, problem.statistics.bias(Q))


def search(W: Tensor, G: Tensor, alphabet: Alphabet, stored: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes and scale of each channel: the best of a grid of scales after error diffusion. G is float64.

    Wide layers are searched some channels at a time.
    """
    ratios, A, G = torch.cat([RATIOS, -RATIOS]).to(W), diffusion(G).to(W.dtype), G.to(W)
    groups, _, d = W.shape
    at_once = max(1, AT_ONCE // (groups * d * len(ratios)))
    found = [_search(part, A, G, alphabet, ratios, stored) for part in torch.split(W, at_once, 1)]
    return torch.cat([codes for codes, _ in found], 1), torch.cat([scale for _, scale in found], 1)


def _search(
    W: Tensor, A: Tensor, G: Tensor, alphabet: Alphabet, ratios: Tensor, stored: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The same for some of the channels. A: `diffusion` of G."""
    groups, m, d = W.shape
    largest = W.abs().amax(-1, keepdim=True) / (alphabet.levels / 2)
    scales = storable(largest * ratios, stored)  # [groups, m, candidates]
    flat = scales.view(groups, -1)
    rows = W.repeat_interleave(len(ratios), 1)
    codes = diffuse(rows, A, alphabet, flat)
    error = squared_error(rows - alphabet.values(codes, flat.unsqueeze(-1)), G).view_as(scales)
    best = error.argmin(-1, keepdim=True)
    codes = codes.view(groups, m, -1, d).take_along_dim(best.unsqueeze(-1), 2).squeeze(2)
    return codes, scales.take_along_dim(best, 2).squeeze(-1)


def mean_diagonal(G: Tensor) -> Tensor:
    """[groups, 1, 1]."""
    return G.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]


def squared_error(E: Tensor, G: Tensor) -> Tensor:
    """diag(E G Eᵀ): [groups, m] for E [groups, m, d]."""
    return (E @ G * E).sum(-1)


def gpfq(problem: Problem) -> Solution:
    """The GPFQ recursion (Lybrand and Saab 2021) on exactly 2^b levels, zero among them; grid and bias as asked.

    The step is that of their 2^b levels from −R to R, 2R / (2^b − 1), with R the largest weight of each channel; they
    have one R for a layer, a multiple of the median, that is tuned by validation. `authors_gpfq` has the later papers'.
    """
    grid, statistics = own_grid(problem), problem.statistics
    assert statistics.H is not None
    codes = solve(problem.W, statistics.H, statistics.G, problem.alphabet, grid.scale, zero_point=grid.zero_point)
    return on_grid(problem, codes, grid)


def authors_gpfq(problem: Problem, operator: Operator | None = None) -> Solution:
    """The recursion as in the experiments of GPFQ's authors (Zhang, Zhou and Saab 2023, section 6).

    A layer has one scale: `scalar` times the mean over its neurons of the `percentile` of their absolute weights,
    divided by K. Their published code keeps batch norms apart; here they are folded into the weights.
    """
    K = 1 << problem.alphabet.bits - 1
    radius = problem.params["scalar"] * problem.W.abs().quantile(problem.params["percentile"], dim=-1).mean()
    # Hard thresholding has its levels from the threshold to the same radius: K steps between ±λ and ±radius.
    share = 1 - problem.params["threshold"] / K if problem.alphabet.is_sparse else 1
    scale = storable((radius / K * share).view(1, 1), problem.stored)
    assert problem.statistics.H is not None
    every = scale.expand(problem.W.shape[:2])
    codes = solve(problem.W, problem.statistics.H, problem.statistics.G, problem.alphabet, every, operator)
    return Solution(codes, scale, problem.bias)


def stochastic_gpfq(problem: Problem) -> Solution:
    """SGPFQ: the same, rounded up or down at random without bias (Zhang and Saab 2023)."""
    return authors_gpfq(problem, stochastic(problem.generator))


def soft_gpfq(problem: Problem) -> Solution:
    """Sparse GPFQ by an L1 penalty: values shrink by `threshold` scales before they are rounded."""
    return authors_gpfq(problem, soft_threshold(problem.params["threshold"]))


def gptq(problem: Problem) -> Solution:
    """GPTQ (Frantar et al. 2023): error diffusion on the quantized stream's inputs, the strongest first (`act_order`).

    Damped by 1 % of the mean diagonal; grid and bias as asked, by default those of its reference code.
    """
    damping = DAMPING * mean_diagonal(problem.statistics.G)
    G = problem.statistics.G + torch.where(damping > 0, damping, 1) * torch.eye(problem.W.shape[-1]).to(damping)
    order, grid = strongest_first(G), own_grid(problem)
    W, G = problem.W.take_along_dim(order, -1), reordered(G, order)
    codes = diffuse_errors(W, G, problem.alphabet, grid.scale, grid.zero_point)
    return on_grid(problem, codes.take_along_dim(order.argsort(-1), -1), grid)


def strongest_first(G: Tensor) -> Tensor:
    """The inputs by falling energy: int64 [groups, 1, d]."""
    return G.diagonal(dim1=-2, dim2=-1).argsort(stable=True, dim=-1, descending=True).unsqueeze(1)


def reordered(G: Tensor, order: Tensor) -> Tensor:
    """G with rows and columns in that order."""
    return G.take_along_dim(order.mT, -2).take_along_dim(order, -1)


def round_to_nearest(problem: Problem) -> Solution:
    """Each weight to its nearest level. Looks at no data, but for `bias_correction`."""
    grid = own_grid(problem)
    codes = problem.alphabet.nearest(problem.W, *grid.columns())
    return on_grid(problem, codes, grid)


def own_grid(problem: Problem) -> Grid:
    """The grid that the quantizer's parameters ask for."""
    return find_grid(problem.W, problem.alphabet, problem.params, problem.stored)


def on_grid(problem: Problem, codes: Tensor, grid: Grid) -> Solution:
    """The solution with these codes; the bias as it was, or, by `bias_correction`, keeping the mean of the outputs.

    The correction is that of Nagel et al. (2019, section 4.2), measured on the calibration images.
    """
    bias = problem.bias
    if problem.params["bias_correction"]:
        bias = problem.statistics.bias(problem.alphabet.values(codes, *grid.columns()))
    return Solution(codes, grid.scale, bias, grid.zero_point)


def _exact(bits: int, params: Params) -> Alphabet:
    return Alphabet(bits)


def _symmetric(bits: int, params: Params) -> Alphabet:
    return Alphabet.symmetric(bits)


def _sparse(bits: int, params: Params) -> Alphabet:
    K = 1 << bits - 1
    return Alphabet.sparse(bits, gap=params["threshold"] / (1 - params["threshold"] / K))


@dataclass(frozen=True, slots=True)
class Quantizer:
    """A way to quantize. params: those it has, each with its default and what it allows.

    alphabet: of a width and the parameters; needs_float_inputs: it asks for H = XᵀX̂, another pass over the samples.
    """

    description: str
    solve: Callable[[Problem], Solution]
    params: Mapping[str, tuple[float, Interval | Switch]] = field(default_factory=dict)
    alphabet: Callable[[int, Params], Alphabet] = _exact
    needs_float_inputs: bool = False


BASELINE = GRID_PARAMS | {"bias_correction": (0.0, Switch())}
RADIUS = {"scalar": (1.16, POSITIVE), "percentile": (1.0, Interval(0, 1))}
THRESHOLD = {"threshold": (0.5, Interval(0, 0.9, above=True))}
_authors = partial(Quantizer, needs_float_inputs=True)
QUANTIZERS: dict[str, Quantizer] = {
    "least_squares": Quantizer("our own: least-squares target, scale search, error diffusion, descent", least_squares),
    "gpfq": _authors("the GPFQ recursion with 2^b levels and one scale a channel", gpfq, BASELINE),
    "gptq": Quantizer("error diffusion on the quantized inputs (Frantar et al. 2023)", gptq, BASELINE),
    "rtn": Quantizer("each weight to its nearest level", round_to_nearest, BASELINE),
    "gpfq_paper": _authors("the recursion on its authors' alphabet, 2^b + 1 levels", authors_gpfq, RADIUS, _symmetric),
    "sgpfq": _authors("the same with stochastic rounding (Zhang and Saab 2023)", stochastic_gpfq, RADIUS, _symmetric),
    "gpfq_l1": _authors("sparse: soft thresholding", soft_gpfq, RADIUS | THRESHOLD, _symmetric),
    "gpfq_l0": _authors("sparse: hard thresholding, 2^b + 3 levels", authors_gpfq, RADIUS | THRESHOLD, _sparse),
}


def register_quantizer(name: str, quantizer: Quantizer) -> None:
    """Add a quantizer, from a plugin. Raises UserError for a name that is taken."""
    plugins.add("quantizer", QUANTIZERS, name, quantizer, "kdq.conformance.quantizers")
