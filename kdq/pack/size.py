"""The stored size of a model: to the bit, layer by layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from kdq.bits import FLOAT_BITS
from kdq.models.classifier import Classifier
from kdq.models.prepare import PREFIX
from kdq.quantize.activations import NAME as INPUTS
from kdq.quantize.result import QuantizedLayer


class Coded(Protocol):
    """A model and its layers in codes: a `Quantized` one, or a `Packed` one."""

    @property
    def model(self) -> Classifier: ...

    @property
    def layers(self) -> Mapping[str, QuantizedLayer]: ...


@dataclass(frozen=True, slots=True)
class Row:
    """Bits that one layer takes in the packed file.

    codes: the weights of a quantized layer, `code_bits` of the alphabet each, padded to whole bytes; scales: its
    scales, of weights and inputs; zero_points: those of its weights on an asymmetric grid, as wide as a code each,
    padded to whole bytes (those of a symmetric one are the same everywhere and take no bits), and that of its inputs,
    if they are quantized; leftovers: everything else, that is its bias, or a float layer's weight and bias. `bits` is
    32 for a module left in float.
    """

    layer: str
    bits: int
    codes: int
    scales: int
    zero_points: int
    leftovers: int

    @property
    def total(self) -> int:
        return self.codes + self.scales + self.zero_points + self.leftovers


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that `count` codes of `bits` bits take: whole bytes for the tensor, not for each code."""
    return (count * bits + 7) // 8


def size_breakdown(quantized: Coded) -> tuple[Row, ...]:
    """Return the sizes of everything that is stored, one row per module, in the order of the model."""
    rows: dict[str, Row] = {}
    for key, value in leftovers(quantized).items():
        name = key.rpartition(".")[0]
        before = rows[name].leftovers if name in rows else 0
        rows[name] = Row(name, FLOAT_BITS, 0, 0, 0, before + _bits(value))
    for name, layer in quantized.layers.items():
        codes = 8 * packed_bytes(layer.codes.numel(), layer.alphabet.code_bits)
        input_scale, input_zero_point = (32, 8) if layer.inputs else (0, 0)
        scales, zero_points = _bits(layer.scale) + input_scale, input_zero_point
        if layer.zero_point is not None:
            zero_points += 8 * packed_bytes(layer.zero_point.numel(), layer.alphabet.code_bits)
        before = rows[name].leftovers if name in rows else 0
        rows[name] = Row(name, layer.alphabet.bits, codes, scales, zero_points, before + _bits(layer.bias))
    order = [name.removeprefix(PREFIX) for name, _ in quantized.model.named_modules()]
    return tuple(sorted(rows.values(), key=lambda row: order.index(row.layer)))


def leftovers(quantized: Coded) -> dict[str, Tensor]:
    """Return the tensors stored besides the quantized layers: name in the network -> float32 tensor."""
    kinds = ("weight", "bias", f"{INPUTS}.scale")
    stored = {f"{name}.{kind}" for name in quantized.layers for kind in kinds}
    return {key: value for key, value in floating(quantized.model).items() if key not in stored}


def floating(model: Classifier) -> dict[str, Tensor]:
    """Return the floating-point tensors of the model's state: name in the network -> tensor.

    A module that is registered under several names has its tensors under the first of them only.
    """
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    state = {key.removeprefix(PREFIX): value for key, value in model.state_dict().items() if key in names}
    return {key: value for key, value in state.items() if value.is_floating_point()}


def _bits(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size() * 8


def total_bits(quantized: Coded) -> int:
    """Return 8 × the bytes of the packed file's payload (the header with names and shapes is not payload)."""
    return sum(row.total for row in size_breakdown(quantized))


def avg_bits(quantized: Coded) -> float:
    """Return the total bits per parameter of the folded float model; 32 for a float model."""
    return total_bits(quantized) / _parameters(quantized)


def _parameters(quantized: Coded) -> int:
    return sum(value.numel() for key, value in floating(quantized.model).items() if f".{INPUTS}." not in key)


def paper_bits(quantized: Coded) -> int:
    """Return the bit count of the GPFQ study this project started from: non-zero weights × nominal bits.

    It omits scales, biases and the positions of the zeros, so no file is that small. For that study's figures only.
    """
    widths = {name: layer.alphabet.bits for name, layer in quantized.layers.items()}
    return sum(
        int(value.count_nonzero()) * widths.get(key.removesuffix(".weight"), FLOAT_BITS)
        for key, value in floating(quantized.model).items()
        if key.endswith(".weight") and value.dim() > 1
    )
