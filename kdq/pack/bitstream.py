"""Codes of a few bits each, packed into a bit stream."""

import numpy as np
import torch
from torch import Tensor


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes (of any shape, each below 2^bits, bits at most 9) into a bit stream, the lowest bit of each first.

    Bit k of the stream is bit k mod 8 of byte k div 8; the last byte is padded with zeros. Returns uint8
    [ceil(codes · bits / 8)].
    """
    values = codes.detach().cpu().numpy().astype(np.uint16).reshape(-1, 1)
    stream = (values >> np.arange(bits, dtype=np.uint16)) & 1
    return torch.from_numpy(np.packbits(stream.astype(np.uint8), bitorder="little"))


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """Invert `pack_codes`: int16 [count]."""
    stream = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    return torch.from_numpy((stream.astype(np.int16) << np.arange(bits, dtype=np.int16)).sum(1, dtype=np.int16))
