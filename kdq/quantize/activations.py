"""Quantized activations: a layer's inputs on 2^b evenly spaced levels, whose range is fixed by calibration."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdq.errors import UserError

NAME = "input_quantizer"
"""The name of the submodule that quantizes a layer's inputs."""

BINS = 4096
SHRINK = torch.linspace(0.1, 1, 91, dtype=torch.float64)
"""Candidate ranges, as shares of the one that covers every observed value."""


def check_activation_bits(bits: object) -> None:
    """Raise UserError unless `bits` is an integer from 4 to 8, or None for activations in float."""
    if bits is not None and (not isinstance(bits, int) or isinstance(bits, bool) or not 4 <= bits <= 8):
        raise UserError(f"activation_bits = {bits!r}: must be a whole number from 4 to 8, or None for float")


@dataclass(frozen=True, slots=True)
class InputRange:
    """The levels (code − zero_point) · scale of a layer's inputs, code in 0 … 2^bits − 1; 0 is one of them."""

    bits: int
    scale: float
    zero_point: int


class InputQuantizer(nn.Module):
    """Rounds values to the levels of an InputRange. Its buffers are stored: scale float32 [1], zero_point uint8 [1]."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, found: InputRange) -> None:
        super().__init__()
        self.bits = found.bits
        self.register_buffer("scale", torch.tensor([found.scale], dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor([found.zero_point], dtype=torch.uint8))

    def forward(self, values: Tensor) -> Tensor:
        """Round floating values of any shape to the nearest levels, same shape and dtype.

        The middle between two levels goes where ONNX's QuantizeLinear rounds it: to an even multiple of the scale.
        """
        scale, zero = self.scale.to(values.dtype), self.zero_point.to(values.dtype)
        codes = (values / scale).round_().add_(zero).clamp_(0, (1 << self.bits) - 1)
        return codes.sub_(zero).mul_(scale)


def attach(layer: nn.Module, found: InputRange) -> None:
    """Make the layer round its inputs before it uses them."""
    quantizer = InputQuantizer(found).to(next(layer.parameters()).device)
    layer.add_module(NAME, quantizer)
    layer.register_forward_pre_hook(_round_inputs, with_kwargs=True)


def _round_inputs(
    layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    [values] = inputs or (named["input"],)
    return (getattr(layer, NAME)(values),), {}


def find_range(batches: Callable[[], Iterable[Tensor]], bits: int) -> InputRange:
    """Return the range of 2^bits levels with the least squared error on the values of all batches.

    batches: called twice, so that memory does not grow with their number; it must return the same finite tensors, of
    any shape, each time. The error is computed from a histogram of BINS bins.
    """
    low, high = 0.0, 0.0  # zero, the padding value, must be a level
    for batch in batches():
        low, high = min(low, batch.min().item()), max(high, batch.max().item())
    if low == high:
        return InputRange(bits, 1.0, 0)
    counts = torch.zeros(BINS, dtype=torch.float64)
    for batch in batches():
        counts += torch.histc(batch.float(), BINS, low, high).double().cpu()
    centres = low + (torch.arange(BINS, dtype=torch.float64) + 0.5) * (high - low) / BINS
    ranges = [_levels(low * share, high * share, bits) for share in SHRINK.tolist()]
    return min(ranges, key=lambda found: _error(found, centres, counts))


def _levels(low: float, high: float, bits: int) -> InputRange:
    """Return 2^bits levels from about low <= 0 to about high >= 0."""
    steps = (1 << bits) - 1
    scale = (high - low) / steps
    return InputRange(bits, scale, round(-low / scale))


def _error(found: InputRange, centres: Tensor, counts: Tensor) -> float:
    codes = (centres / found.scale + found.zero_point).round().clamp(0, (1 << found.bits) - 1)
    return ((centres - (codes - found.zero_point) * found.scale).square() * counts).sum().item()
