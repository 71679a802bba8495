"""Bit widths: which there are, and the one that stands for float."""

from kdq.errors import UserError

FLOAT_BITS = 32
"""The width that stands for "left in float32"."""

BIT_WIDTHS = (*range(1, 9), FLOAT_BITS)


def check_bits(bits: object, where: str = "bits") -> None:
    """Raise UserError unless `bits` is an integer from 1 to 8, or 32 for float."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not (1 <= bits <= 8 or bits == FLOAT_BITS):
        raise UserError(f"{where} = {bits!r}: must be a whole number from 1 to 8, or {FLOAT_BITS} for float")
