"""Codes of a few bits each as a stream of bits."""

import numpy as np
import torch
from torch import Tensor


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes (of any shape, each below 2^bits, bits at most 9) as a stream of bits, the lowest bit of each first.

    Bit k of the stream is bit k mod 8 of byte k div 8; the last byte is filled with zeros. Returns uint8
    [ceil(codes · bits / 8)].
    """
    values = codes.detach().cpu().numpy().astype(np.uint16).reshape(-1, 1)
    stream = (values >> np.arange(bits, dtype=np.uint16)) & 1
    return torch.from_numpy(np.packbits(stream.astype(np.uint8), bitorder="little"))


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_codes`: int16 [count]."""
    stream = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    return torch.from_numpy((stream.astype(np.int16) << np.arange(bits, dtype=np.int16)).sum(1, dtype=np.int16))
