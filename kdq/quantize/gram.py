"""Gram matrices of a layer's inputs and target outputs, summed over the calibration images."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

WIDTH = 144
"""Columns per block of a product of which only one triangle is needed; more in large products."""

ROUNDING = 1e-6
"""Relative error of float32 sums: the centred G of d nearly constant inputs may be off by d times that."""


def triangle(X: Tensor, Y: Tensor) -> Tensor:
    """Return XᵀY [groups, d, d] on and above the diagonal, for nearly half the work; below it, XᵀY or 0.

    X, Y: [groups, samples, d].
    """
    product = X.new_zeros(X.shape[0], X.shape[-1], X.shape[-1])
    for start, stop in _slices(X.shape[-1]):
        rows = product[:, start:stop, start:]
        torch.baddbmm(rows, X[:, :, start:stop].mT, Y[:, :, start:], beta=0, out=rows)
    return product


def gram(X: Tensor) -> Tensor:
    """Return XᵀX [groups, d, d] for X [groups, samples, d]."""
    product = triangle(X, X)
    for start, stop in _slices(X.shape[-1]):
        product[:, stop:, start:stop] = product[:, start:stop, stop:].mT
    return product


def _slices(d: int) -> list[tuple[int, int]]:
    count = min(max(1, round(d / WIDTH)), 16)
    return [(d * i // count, d * (i + 1) // count) for i in range(count)]


@dataclass(frozen=True, slots=True)
class GramStatistics:
    """Sums over a layer's samples of its inputs X̂ in the quantized stream and of its target outputs Y.

    count: samples; x, y, yy: sums of X̂, Y and Y², [groups, d], [groups, m], [groups, m]; G = X̂ᵀX̂
    [groups, d, d]; T = YᵀX̂ [groups, m, d], which is WH where Y are the float layer's outputs; H: the upper triangle
    of XᵀX̂, X the inputs in the float stream, if requested. All float64; `of` takes the dtype of the products.
    """

    count: int
    x: Tensor
    y: Tensor
    yy: Tensor
    G: Tensor
    T: Tensor
    H: Tensor | None = None

    @classmethod
    def of(
        cls,
        inputs: Tensor,
        wanted: Tensor,
        float_inputs: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Return the statistics of a batch: inputs and float_inputs [groups, samples, d], wanted [groups, samples, m].

        dtype: that of the products.
        """
        inputs, wanted = inputs.to(dtype), wanted.to(dtype)
        float_inputs = None if float_inputs is None else float_inputs.to(dtype)
        ones = torch.ones_like(wanted[..., :1])
        G, T = gram(inputs).double(), (torch.cat([wanted, ones], -1).mT @ inputs).double()
        y, yy = wanted.sum(1).double(), wanted.square().sum(1).double()
        H = None if float_inputs is None else triangle(float_inputs, inputs).double()
        return cls(inputs.shape[1], T[:, -1], y, yy, G, T[:, :-1], H)

    def plus(self, other: Self | None) -> Self:
        """Return the statistics of both batches together."""
        if other is None:
            return self
        H = None if self.H is None or other.H is None else self.H + other.H
        sums = self.x + other.x, self.y + other.y, self.yy + other.yy
        return replace(
            self,
            count=self.count + other.count,
            x=sums[0],
            y=sums[1],
            yy=sums[2],
            G=self.G + other.G,
            T=self.T + other.T,
            H=H,
        )

    def centred(self) -> Self:
        """Return G, T and yy about the means: what remains for the weights once the bias carries the means."""
        mean = self.x / self.count
        G = self.G - self.x.unsqueeze(-1) * mean.unsqueeze(-2)
        T = self.T - self.y.unsqueeze(-1) * mean.unsqueeze(-2)
        return replace(self, G=G, T=T, yy=(self.yy - self.y.square() / self.count).clamp_min(0), H=None)

    def bias(self, Q: Tensor) -> Tensor:
        """Return the bias [groups, m] with which weights Q [groups, m, d] give the target mean outputs."""
        return (self.y - (Q @ self.x.unsqueeze(-1)).squeeze(-1)) / self.count

    def relative_error(self, Q: Tensor) -> float:
        """Return ‖Y − X̂Qᵀ‖ / ‖Y‖ about the means; 0 if Y is constant to rounding."""
        centred = self.centred()
        error = ((Q @ centred.G - 2 * centred.T) * Q).sum() + centred.yy.sum()
        norm = torch.where(centred.yy > ROUNDING * self.yy, centred.yy, 0).sum()
        return (error.clamp_min(0) / norm).sqrt().item() if norm > 0 else 0.0


def damped(G: Tensor, damping: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return damping, G + damping · I and its lower Cholesky factor; G [groups, d, d], damping [groups, 1, 1].

    The damping is raised if rounding errors in G exceed it, as where inputs hardly vary: to thrice the magnitude of
    G's lowest eigenvalue.
    """
    identity = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    factor, failed = torch.linalg.cholesky_ex(G + damping * identity)
    if failed.any():
        lowest = torch.linalg.eigvalsh(G)[:, :1, None]
        damping = torch.maximum(damping, -3 * lowest)
        factor = torch.linalg.cholesky(G + damping * identity)
    return damping, G + damping * identity, factor
