"""Codes of a few bits each, packed into a bit stream."""

import numpy as np
import torch
from torch import Tensor

WIDTH = 16
"""Bits of a code outside the stream."""


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes (of any shape, each below 2^bits, bits at most 9) into a bit stream, the lowest bit of each first.

    Bit k of the stream is bit k mod 8 of byte k div 8; the last byte is padded with zeros. Returns uint8
    [ceil(codes · bits / 8)].
    """
    values = codes.detach().cpu().numpy().astype("<u2").reshape(-1, 1).view(np.uint8)
    stream = np.unpackbits(values, axis=1, bitorder="little")[:, :bits]
    return torch.from_numpy(np.packbits(stream, bitorder="little"))


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """Invert `pack_codes`: int16 [count]."""
    stream = np.zeros((count, WIDTH), np.uint8)
    stream[:, :bits] = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    values = np.packbits(stream.reshape(-1), bitorder="little").view("<i2")
    return torch.from_numpy(values.astype(np.int16, copy=False))
