"""Alphabets: "b bits" means 2^b evenly spaced levels, never one more. The papers' larger ones are available too."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdq.errors import UserError


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The levels of a b-bit weight, in units of its scale: code − offset, with code in 0 … levels − 1.

    From 2 bits on, they are the integers −2^(b−1) … 2^(b−1) − 1, zero among them: {−2, −1, 0, 1} at 2 bits. At 1
    bit they are ±1/2, because {−1, 0} would leave no sign. A scale may be negative, which gives the extra
    level to the positive side.

    extra: levels beyond 2^b, as in the alphabets of the GPFQ papers (see `symmetric` and `sparse`); a code then takes
    one bit more than b, and is counted as such. gap: the distance from 0 to its neighbours.
    """

    bits: int
    extra: int = 0
    gap: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise UserError(f"an alphabet of {self.bits!r} bits: must have 1 to 8 bits")
        if not isinstance(self.extra, int) or not 0 <= self.extra <= 3 or not 0 < self.gap < float("inf"):
            raise UserError(
                f"extra = {self.extra!r}, gap = {self.gap!r}: extra must be 0 to 3 levels, gap a finite number above 0"
            )

    @classmethod
    def symmetric(cls, bits: int) -> "Alphabet":
        """−K … K with K = 2^(b−1): the alphabet of GPFQ's authors (Zhang, Zhou and Saab 2023), 2^b + 1 levels."""
        return cls(bits, extra=1)

    @classmethod
    def sparse(cls, bits: int, gap: float) -> "Alphabet":
        """0 and ±(gap + k), k in 0 … K: that of their hard thresholding (2023, section 4), 2^b + 3 levels."""
        return cls(bits, extra=3, gap=gap)

    @property
    def is_sparse(self) -> bool:
        """Whether values within the gap are rounded to 0."""
        return self.extra == 3

    @property
    def levels(self) -> int:
        return (1 << self.bits) + self.extra

    @property
    def offset(self) -> float:
        return 0.5 if self.levels == 2 else float(self.levels // 2)

    @property
    def code_bits(self) -> int:
        """Bits of a stored code: b, or more if there are more than 2^b levels."""
        return (self.levels - 1).bit_length()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of codes in memory."""
        return torch.uint8 if self.levels <= 256 else torch.int16

    def nearest(self, values: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        """Return codes, of `dtype`, of the levels nearest to `values`; a scale of 0 has one level.

        scale, and zero_point (see `shift`), broadcast. In a sparse alphabet, values within the gap become 0 (hard
        thresholding), even if ±gap is nearer.
        """
        positions = values * torch.where(scale == 0, 0, 1 / scale)
        if zero_point is not None:
            positions += self.shift(zero_point)
        return self.encode_(positions).to(self.dtype)

    def shift(self, zero_point: Tensor) -> Tensor:
        """Return what a zero point, the code of the value 0, adds to values in units of the scale.

        With it the levels are code − zero_point; without, as everywhere but on asymmetric grids, code − offset.
        """
        return zero_point - self.offset

    def encode_(self, positions: Tensor) -> Tensor:
        """Return the codes of `positions`, values in units of the scale, in their dtype and memory."""
        if self.is_sparse:
            outside = positions.abs() > self.gap
            positions.add_(positions.sign(), alpha=1 - self.gap).mul_(outside)
        return positions.add_(self.offset).round_().clamp_(0, self.levels - 1)

    def decode_(self, codes: Tensor) -> Tensor:
        """Return the levels of codes in units of the scale, in the dtype and memory of `codes`."""
        codes.sub_(self.offset)
        return codes if self.gap == 1 else codes.sub_(codes.sign(), alpha=1 - self.gap)

    def values(self, codes: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
        """Return the levels of codes times the scale, in the dtype of `scale`."""
        levels = self.decode_(codes.to(scale.dtype, copy=True))
        return (levels if zero_point is None else levels - self.shift(zero_point)) * scale
