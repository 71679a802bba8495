"""The solver: weights to codes, from two Gram matrices alone.

GPFQ (Lybrand & Saab 2021) quantizes a neuron w one weight at a time, with X the float network's inputs to
the layer and X̂ those of the network quantized so far, both [samples, d]:

    q_t = Q(⟨X̂_t, u_{t−1} + w_t X_t⟩ / ‖X̂_t‖²),   u_t = u_{t−1} + w_t X_t − q_t X̂_t,   u_0 = 0.

Written out, the data enters only through H = XᵀX̂ and G = X̂ᵀX̂:

    q_t = Q((Σ_{s≤t} w_s H_st − Σ_{s<t} q_s G_st) / G_tt),

so calibration data can be streamed, and the cost here does not depend on its amount. The three functions below are one
triangular recursion, `_recurse`, with different coefficients; it solves all neurons of a layer together.

Shapes everywhere: W [groups, m, d], one row per neuron; H, G [groups, d, d]; scale [groups, m]; all of one
floating dtype. zero_point: [groups, m], of any dtype, or None (see `Alphabet.shift`). Codes are [groups, m, d] of the
alphabet's dtype. No function modifies its arguments.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from kdq.quantize.alphabet import Alphabet

BLOCK = 32
"""Columns solved one by one between two matrix products; a power of two."""

HAS_TRITON = find_spec("triton") is not None
"""Without it, as on Windows, a GPU solves the columns one by one."""

Operator = Callable[[Tensor], Tensor]
"""Modifies values in units of the scale, in place, before they are rounded to the nearest levels."""


def stochastic(generator: torch.Generator) -> Operator:
    """SGPFQ (Zhang and Saab 2023): rounds up or down at random, so that the expectation is the value itself."""
    return lambda x: x.add_(torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device)).floor_()


def soft_threshold(threshold: float) -> Operator:
    """sign(x)·max(|x| − threshold, 0): GPFQ with an L1 penalty (Zhang, Zhou and Saab 2023, section 4)."""
    return lambda x: torch.sub(x, x.clamp(-threshold, threshold), out=x)


def solve(
    W: Tensor,
    H: Tensor,
    G: Tensor,
    alphabet: Alphabet,
    scale: Tensor,
    operator: Operator | None = None,
    zero_point: Tensor | None = None,
) -> Tensor:
    """Return the codes of the GPFQ recursion. A weight whose input is always zero (G_tt = 0) is rounded.

    Only the upper triangle of H and the lower one of G are read. operator: applies one of the papers' variants.
    """
    inverse = _inverse_diagonal(G)
    base = torch.where(inverse > 0, (W @ H.triu()).mT * inverse, W.mT)
    return _recurse(base, torch.zeros_like(base), G * inverse, alphabet, scale, operator, zero_point)


def descend(W: Tensor, H: Tensor, G: Tensor, alphabet: Alphabet, scale: Tensor, codes: Tensor) -> Tensor:
    """Run one sweep of coordinate descent on ‖Xw − X̂q‖² from `codes`: each weight in turn, all others fixed.

    q_t ← Q((Σ_s w_s H_st − Σ_{s≠t} q_s G_st) / G_tt). No sweep raises the error.
    """
    inverse = _inverse_diagonal(G)
    Q = alphabet.values(codes, scale.unsqueeze(-1))
    base = torch.where(inverse > 0, (Q + (W @ H - Q @ G) * inverse.mT).mT, W.mT)
    return _recurse(base, Q.mT, G * inverse, alphabet, scale)


def diffuse_errors(W: Tensor, G: Tensor, alphabet: Alphabet, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Return the codes of rounding with error diffusion (GPTQ, Frantar et al. 2023), for H = G.

    Where GPFQ corrects with the next weight alone, here each weight is rounded as if all later ones, real-valued,
    compensated for its error optimally. With G = RRᵀ, R upper triangular, ‖X̂(w − q)‖ is
    ‖Rᵀ(w − q)‖, and q_t = Q(w_t + Σ_{s<t} (w_s − q_s) R_st / R_tt) (Babai's nearest plane). G must be positive
    definite; it may be of higher precision than W.
    """
    return diffuse(W, diffusion(G).to(W.dtype), alphabet, scale, zero_point)


def diffusion(G: Tensor) -> Tensor:
    """Return A [groups, d, d] of `diffuse_errors`, R_st / R_tt at [t, s]: all that it needs of G."""
    R = torch.linalg.cholesky(G.flip(-1, -2)).flip(-1, -2)
    shares: Tensor = R / R.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    return shares.mT


def diffuse(W: Tensor, A: Tensor, alphabet: Alphabet, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    """Return the codes of `diffuse_errors`, given `diffusion` of G; channels do not depend on each other."""
    return _recurse(W.mT, W.mT, A, alphabet, scale, zero_point=zero_point)


def _recurse(
    base: Tensor,
    origin: Tensor,
    A: Tensor,
    alphabet: Alphabet,
    scale: Tensor,
    operator: Operator | None = None,
    zero_point: Tensor | None = None,
) -> Tensor:
    """q_t = Q(base_t − Σ_{s<t} A_ts (q_s − origin_s)), column by column.

    base, origin: [groups, d, m], so that a column of weights is contiguous in memory; A: [groups, d, d].
    """
    steps = torch.where(scale == 0, 0, 1 / scale).unsqueeze(-2)
    # In units of the scales. Cloned, for the kernel, to the same strides: those of size 1, as of the single neuron of a
    # depthwise group, are any in results of PyTorch's operations, and `contiguous` leaves them.
    wanted, origin = (part.clone(memory_format=torch.contiguous_format).mul_(steps) for part in (base, origin))
    if zero_point is not None:  # both are shifted, which leaves their differences as they are
        shift = alphabet.shift(zero_point.unsqueeze(-2))
        wanted, origin = wanted.add_(shift), origin.add_(shift)
    change, codes = torch.empty_like(wanted), torch.empty_like(wanted, dtype=alphabet.dtype)
    for start in range(0, wanted.shape[-2], BLOCK):
        # Each pair of an earlier and a later block meets once, at the block between them with the largest span.
        span = start & -start
        ahead, before = slice(start, start + span), slice(start - span, start)
        wanted[:, ahead].baddbmm_(A[:, ahead, before], change[:, before], alpha=-1)
        block = slice(start, start + BLOCK)
        parts = wanted[:, block], origin[:, block], A[:, block, block], change[:, block], codes[:, block]
        if wanted.is_cuda and HAS_TRITON and operator is None and alphabet.gap == 1:
            from kdq.quantize.block_kernel import solve_block  # here, as importing Triton takes time

            solve_block(*parts, alphabet)
        else:
            _solve_block(*parts, alphabet, operator)
    return codes.mT.contiguous()


def _solve_block(
    wanted: Tensor,
    origin: Tensor,
    A: Tensor,
    change: Tensor,
    codes: Tensor,
    alphabet: Alphabet,
    operator: Operator | None,
) -> None:
    """The same within the columns of a block, each updating the later ones; writes wanted, change and codes."""
    for t in range(wanted.shape[-2]):
        here, later = slice(t, t + 1), slice(t + 1, None)
        position = wanted[:, here]
        code = alphabet.encode_(operator(position) if operator else position)
        codes[:, here] = code
        torch.sub(alphabet.decode_(code), origin[:, here], out=change[:, here])
        wanted[:, later].baddbmm_(A[:, later, here], change[:, here], alpha=-1)


def _inverse_diagonal(G: Tensor) -> Tensor:
    """Return 1 / G_tt as a column [groups, d, 1], with 0 where G_tt is 0."""
    diagonal = G.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
    return torch.where(diagonal > 0, 1 / diagonal, 0)
