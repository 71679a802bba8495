"""What "b bits" means: 2^b evenly spaced levels, never one more."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdq.errors import UserError

FLOAT_BITS = 32
"""The width that stands for "left in float32"."""


def check_bits(bits: object, where: str = "bits") -> None:
    """Raise UserError unless `bits` is an integer from 1 to 8, or 32 for float."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not (1 <= bits <= 8 or bits == FLOAT_BITS):
        raise UserError(f"{where} = {bits!r}: must be a whole number from 1 to 8, or {FLOAT_BITS} for float")


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The levels (code − offset) · scale of a b-bit weight, with code in 0 … 2^b − 1.

    From 2 bits on, the levels are the integers −2^(b−1) … 2^(b−1) − 1, zero among them: {−2, −1, 0, 1} at 2
    bits. At 1 bit they are ±1/2, because {−1, 0} would leave no sign. A scale may be negative, which
    gives the extra level to the positive side.
    """

    bits: int

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise UserError(f"an alphabet of {self.bits!r} bits: must have 1 to 8 bits")

    @property
    def levels(self) -> int:
        return 1 << self.bits

    @property
    def offset(self) -> float:
        return 0.5 if self.bits == 1 else float(self.levels // 2)

    def nearest(self, values: Tensor, scale: Tensor) -> Tensor:
        """Codes of the levels nearest to `values`, uint8; `scale` broadcasts; a scale of 0 has one level."""
        inverse = torch.where(scale == 0, 0, 1 / scale)
        return (values * inverse + self.offset).round_().clamp_(0, self.levels - 1).to(torch.uint8)

    def values(self, codes: Tensor, scale: Tensor) -> Tensor:
        """The levels themselves, in the dtype of `scale`."""
        return (codes.to(scale.dtype) - self.offset) * scale
