"""The weights of a quantized layer as integers: (codes − zero point) · scale, exactly those of the model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdq.errors import UserError
from kdq.quantize.result import QuantizedLayer

WIDTHS = (4, 8, 16)
"""Bits of the unsigned integers of ONNX's opset 21."""


@dataclass(frozen=True, slots=True)
class Integers:
    """Integers of `bits` bits, one of WIDTHS.

    codes: int32, in the shape of the weight; scale: float32 above 0; zero_point: int32; both [output channels], or [1]
    for all of them.
    """

    bits: int
    codes: Tensor
    scale: Tensor
    zero_point: Tensor

    def weight(self) -> Tensor:
        """Return the float32 weight, as ONNX's DequantizeLinear computes it."""
        by_channel = (-1, *[1] * (self.codes.dim() - 1))
        return (self.codes - self.zero_point.view(by_channel)).float() * self.scale.view(by_channel)


def integers(layer: QuantizedLayer, name: str) -> Integers:
    """Return the integers of a layer. Raises UserError if its levels do not lie on a grid of integers.

    Scales of 0 become 1, with codes that are all the zero point, and negative scales positive, with mirrored codes:
    runtimes divide by scales, and some require them above 0.
    """
    alphabet = layer.alphabet
    if alphabet.gap != 1:
        raise UserError(
            f"layer {name}: its levels leave a gap of {alphabet.gap:g} steps around 0, so they lie on no grid of "
            "integers, which ONNX needs; export --to torch or safetensors, or quantize by another method"
        )
    codes, scale, largest = layer.codes.int(), layer.scale.float(), alphabet.levels - 1
    if layer.zero_point is not None:
        zero_point = layer.zero_point.int()
        scale = scale.expand(zero_point.shape)
    elif alphabet.levels == 2:  # ±1/2 are (0, 2) − 1 at half the scale
        codes, scale, largest = 2 * codes, scale / 2, 2
        zero_point = torch.ones(scale.shape, dtype=torch.int32)
    else:
        zero_point = torch.full(scale.shape, int(alphabet.offset), dtype=torch.int32)
    mirrored, by_channel = scale < 0, (-1, *[1] * (codes.dim() - 1))
    codes = torch.where(mirrored.view(by_channel), largest - codes, codes)
    zero_point = torch.where(mirrored, largest - zero_point, zero_point)
    codes = torch.where((scale == 0).view(by_channel), zero_point.view(by_channel), codes)
    scale = torch.where(scale == 0, 1, scale.abs())
    return Integers(next(bits for bits in WIDTHS if largest < 1 << bits), codes, scale, zero_point)
