"""What "b bits" means: 2^b evenly spaced levels, never one more. The papers' larger alphabets stand beside it."""

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

    extra: levels beyond 2^b, as the alphabets of the GPFQ papers have (see `symmetric` and `sparse`); a code then
    takes a bit more than b, and is charged for it. gap: the distance from 0 to its neighbours, where it is not 1.
    """

    bits: int
    extra: int = 0
    gap: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise UserError(f"an alphabet of {self.bits!r} bits: must have 1 to 8 bits")
        if not isinstance(self.extra, int) or not 0 <= self.extra <= 3 or not 0 < self.gap < float("inf"):
            raise UserError(f"an alphabet of {self.extra!r} extra levels and gap {self.gap!r}: there is none")

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
        """Whether all that lies within the gap is 0."""
        return self.extra == 3

    @property
    def levels(self) -> int:
        return (1 << self.bits) + self.extra

    @property
    def offset(self) -> float:
        return 0.5 if self.levels == 2 else float(self.levels // 2)

    @property
    def code_bits(self) -> int:
        """Bits that a stored code takes: b, or more where there are more than 2^b levels."""
        return (self.levels - 1).bit_length()

    @property
    def dtype(self) -> torch.dtype:
        """Of codes in memory."""
        return torch.uint8 if self.levels <= 256 else torch.int16

    def nearest(self, values: Tensor, scale: Tensor) -> Tensor:
        """Codes of the levels nearest to `values`, of `dtype`; `scale` broadcasts; a scale of 0 has one level.

        In a sparse alphabet, what lies within the gap is 0 (hard thresholding), though ±gap might be nearer.
        """
        inverse = torch.where(scale == 0, 0, 1 / scale)
        return self.encode_(values * inverse).to(self.dtype)

    def encode_(self, positions: Tensor) -> Tensor:
        """Codes, in the dtype and memory of `positions`, which are values in units of the scale."""
        if self.is_sparse:
            outside = positions.abs() > self.gap
            positions.add_(positions.sign(), alpha=1 - self.gap).mul_(outside)
        return positions.add_(self.offset).round_().clamp_(0, self.levels - 1)

    def decode_(self, codes: Tensor) -> Tensor:
        """The levels of codes in units of the scale, in the dtype and memory of `codes`."""
        codes.sub_(self.offset)
        return codes if self.gap == 1 else codes.sub_(codes.sign(), alpha=1 - self.gap)

    def values(self, codes: Tensor, scale: Tensor) -> Tensor:
        """The levels themselves, in the dtype of `scale`."""
        return self.decode_(codes.to(scale.dtype, copy=True)) * scale
