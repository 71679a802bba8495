"""Grids: where the levels of each channel lie, found from its weights alone, as in the baselines' own code."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdq.params import Switch
from kdq.quantize.alphabet import Alphabet

SHARES = tuple(1 - percent / 100 for percent in range(80))
NORM = 2.4
"""Of GPTQ's `mse`: the ranges that are tried, as shares of the widest, and the power of the error."""

GRID_PARAMS = {"asymmetric": (0.0, Switch()), "mse": (0.0, Switch()), "brevitas_scale": (0.0, Switch())}
"""The parameters of `find_grid`, with their defaults."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The levels (code − zero_point) · scale of each channel.

    scale: storable, [groups, m]; zero_point: uint8 [groups, m], each one of the codes, or None where all channels
    have the alphabet's own offset.
    """

    scale: Tensor
    zero_point: Tensor | None = None

    def columns(self) -> tuple[Tensor, Tensor | None]:
        """Return scale and zero point as [groups, m, 1], to broadcast over weights [groups, m, d]."""
        return self.scale.unsqueeze(-1), None if self.zero_point is None else self.zero_point.unsqueeze(-1)


def find_grid(W: Tensor, alphabet: Alphabet, params: Mapping[str, float], stored: torch.dtype) -> Grid:
    """Return the grid of 2^b levels of each channel of W [groups, m, d] by the parameters in GRID_PARAMS.

    By default that of GPTQ's reference code (IST-DASLab/gptq, quant.py, `find_params`), symmetric: the range
    ±max|w| takes 2^b − 1 steps, 2·max|w| / (2^b − 1) each. That is also the step of GPFQ's first alphabet (Lybrand and
    Saab 2021: 2^b evenly spaced levels from −R to R).
    asymmetric: the range is min(w, 0) … max(w, 0), the zero point round(−min / scale), as in GPTQ without `sym` and in
    Brevitas' shifted integers. mse: GPTQ's `mse`, of 80 narrower ranges the one with the least Σ|w − q|^2.4.
    brevitas_scale: max|w| / 2^(b−1), which Brevitas takes where the full range of signed integers is used; it has no
    other scale for the asymmetric grid.
    """
    low, high = W.amin(-1).clamp_max(0), W.amax(-1).clamp_min(0)
    steps = alphabet.levels - 1
    if not params["asymmetric"]:
        high = torch.maximum(-low, high)
        low = -high
        steps += int(params["brevitas_scale"])
    scale = storable((high - low) / steps, stored)
    zero_point = None
    if params["asymmetric"]:
        below = torch.where(scale > 0, -low / scale, 0)
        zero_point = below.round().clamp(0, alphabet.levels - 1).to(torch.uint8)
    if params["mse"]:
        scale = _least_error(W, alphabet, Grid(scale, zero_point), stored)
    return Grid(scale, zero_point)


def _least_error(W: Tensor, alphabet: Alphabet, widest: Grid, stored: torch.dtype) -> Tensor:
    """Return the best scale of narrower ranges; the zero point is that of the widest, as both ends move alike."""
    scales = torch.stack([storable(share * widest.scale, stored) for share in SHARES])
    errors = torch.stack([_error(W, alphabet, Grid(scale, widest.zero_point)) for scale in scales])
    return scales.take_along_dim(errors.argmin(0, keepdim=True), 0).squeeze(0)


def _error(W: Tensor, alphabet: Alphabet, grid: Grid) -> Tensor:
    """Return Σ|w − q|^2.4 of rounding each channel to the nearest levels: [groups, m]."""
    Q = alphabet.values(alphabet.nearest(W, *grid.columns()), *grid.columns())
    return (W - Q).abs_().pow_(NORM).sum(-1)


def storable(scale: Tensor, stored: torch.dtype) -> Tensor:
    """The scale as it will be stored: rounded to the dtype `stored`, in its own dtype."""
    largest = torch.finfo(stored).max
    return scale.clamp(-largest, largest).to(stored).to(scale.dtype)
