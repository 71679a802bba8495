"""Ways to quantize one layer: functions from a Problem to a Solution, by name in QUANTIZERS."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdq.alphabet import Alphabet
from kdq.calibrate import Moments
from kdq.gpfq import descend, diffuse, solve


@dataclass(frozen=True, slots=True)
class Problem:
    """One layer: W float64 [groups, m, d], bias [groups, m], and the moments of its inputs and outputs."""

    W: Tensor
    bias: Tensor
    moments: Moments
    alphabet: Alphabet


@dataclass(frozen=True, slots=True)
class Solution:
    """codes: uint8 [groups, m, d]; scale, storable, and bias: [groups, m]."""

    codes: Tensor
    scale: Tensor
    bias: Tensor


DAMPING = 0.01
"""Weight of staying near the float weights, in units of the mean diagonal of G."""
ROUNDING = 1e-6
"""Relative error of float32 sums: the centred G of d nearly constant inputs may be off by d times that."""
SWEEPS = 4
RATIOS = torch.logspace(-0.8, 0.05, 16, dtype=torch.float64)
"""Scales that are tried, in units of the one that spans a channel's largest weight."""


def storable(scale: Tensor) -> Tensor:
    """The scale as it will be stored: rounded to float16, in its own dtype."""
    return scale.clamp(-65504, 65504).half().to(scale.dtype)


def best_recipe(problem: Problem) -> Solution:
    """The most accurate recipe found.

    The wanted outputs are those of the float stream plus what the other branch of an addition lacks (see
    `quantize`). Their damped least-squares solution for the inputs of the quantized stream replaces the
    weights: (T + λW)(G + λI)⁻¹, moments centred. Error diffusion, strongest inputs first, rounds it for a grid
    of scales of either sign, of which each channel takes the one with the least output error; sweeps of
    coordinate descent follow.
    The bias keeps the mean of the outputs. Least-squares target and diffusion as in Qronos (2026).
    """
    centred = problem.moments.centred()
    damping = DAMPING * mean_diagonal(centred.G) + ROUNDING * centred.G.shape[-1] * mean_diagonal(problem.moments.G)
    damping = torch.where(damping > 0, damping, 1)
    G = centred.G + damping * torch.eye(centred.G.shape[-1], dtype=torch.float64, device=centred.G.device)
    W = torch.cholesky_solve((centred.T + damping * problem.W).mT, torch.linalg.cholesky(G)).mT.float()
    order = G.diagonal(dim1=-2, dim2=-1).argsort(stable=True, dim=-1, descending=True).unsqueeze(1)
    W, G = W.take_along_dim(order, -1), G.take_along_dim(order.mT, -2).take_along_dim(order, -1)
    codes, scale = search(W, G, problem.alphabet)
    for _ in range(SWEEPS):
        codes = descend(W, G.to(W), G.to(W), problem.alphabet, scale, codes)
    codes = codes.take_along_dim(order.argsort(-1), -1)
    Q = problem.alphabet.values(codes, scale.double().unsqueeze(-1))
    return Solution(codes, scale, problem.moments.bias(Q))


def search(W: Tensor, G: Tensor, alphabet: Alphabet) -> tuple[Tensor, Tensor]:
    """Codes and scale of each channel: the best of a grid of scales after error diffusion. G is float64."""
    groups, m, d = W.shape
    largest = W.abs().amax(-1, keepdim=True) / (alphabet.levels / 2)
    scales = storable(largest * torch.cat([RATIOS, -RATIOS]).to(W))  # [groups, m, candidates]
    flat = scales.view(groups, -1)
    rows = W.repeat_interleave(scales.shape[-1], 1)
    codes = diffuse(rows, G, alphabet, flat)
    error = squared_error(rows - alphabet.values(codes, flat.unsqueeze(-1)), G.to(W)).view_as(scales)
    best = error.argmin(-1, keepdim=True)
    codes = codes.view(groups, m, -1, d).take_along_dim(best.unsqueeze(-1), 2).squeeze(2)
    return codes, scales.take_along_dim(best, 2).squeeze(-1)


def mean_diagonal(G: Tensor) -> Tensor:
    """[groups, 1, 1]."""
    return G.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]


def squared_error(E: Tensor, G: Tensor) -> Tensor:
    """diag(E G Eᵀ): [groups, m] for E [groups, m, d]."""
    return (E @ G * E).sum(-1)


def plain_gpfq(problem: Problem) -> Solution:
    """The GPFQ recursion alone, one scale a channel from its largest weight, the bias as it was."""
    scale = widest_scale(problem.W, problem.alphabet)
    assert problem.moments.H is not None
    codes = solve(problem.W, problem.moments.H, problem.moments.G, problem.alphabet, scale)
    return Solution(codes, scale, problem.bias)


def round_to_nearest(problem: Problem) -> Solution:
    """Each weight to its nearest level, one scale a channel from its largest weight. Looks at no data."""
    scale = widest_scale(problem.W, problem.alphabet)
    return Solution(problem.alphabet.nearest(problem.W, scale.unsqueeze(-1)), scale, problem.bias)


def widest_scale(W: Tensor, alphabet: Alphabet) -> Tensor:
    """The scale at which the largest level of both signs is the channel's largest weight: [groups, m]."""
    return storable(W.abs().amax(-1) / (alphabet.levels - 1 - alphabet.offset))


QUANTIZERS: dict[str, Callable[[Problem], Solution]] = {
    "gpfq": best_recipe,
    "gpfq_plain": plain_gpfq,
    "rtn": round_to_nearest,
}
NEED_FLOAT_INPUTS = frozenset({"gpfq_plain"})
"""Those that need H = XᵀX̂, which costs another pass over the samples."""
