"""How large a model is as it is stored: to the bit, layer by layer."""

from dataclasses import dataclass

from torch import Tensor

from kdq.alphabet import FLOAT_BITS
from kdq.graph import PREFIX
from kdq.quantize import Quantized


@dataclass(frozen=True, slots=True)
class Row:
    """Bits that one layer takes in the packed file.

    codes: the weights of a quantized layer, b bits each, the last byte filled up; scales: its scales;
    leftovers: everything else, that is its bias, or a float layer's weight and bias. `bits` is 32 for a
    module left in float. The zero points of this alphabet are the same everywhere and take no bits.
    """

    layer: str
    bits: int
    codes: int
    scales: int
    leftovers: int

    @property
    def total(self) -> int:
        return self.codes + self.scales + self.leftovers


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take: whole bytes for the tensor, not for each code."""
    return (count * bits + 7) // 8


def ledger(quantized: Quantized) -> tuple[Row, ...]:
    """Everything that is stored, a row a module, in the order of the model."""
    rows: dict[str, Row] = {}
    for key, value in leftovers(quantized).items():
        name = key.rpartition(".")[0]
        row = rows.get(name, Row(name, FLOAT_BITS, 0, 0, 0))
        rows[name] = Row(name, FLOAT_BITS, 0, 0, row.leftovers + _bits(value))
    for name, layer in quantized.layers.items():
        codes = 8 * packed_bytes(layer.codes.numel(), layer.bits)
        rows[name] = Row(name, layer.bits, codes, _bits(layer.scale), _bits(layer.bias))
    order = [name.removeprefix(PREFIX) for name, _ in quantized.model.named_modules()]
    return tuple(sorted(rows.values(), key=lambda row: order.index(row.layer)))


def leftovers(quantized: Quantized) -> dict[str, Tensor]:
    """What is stored in floating point beside the quantized layers: name in the network -> float32 tensor."""
    state = {key.removeprefix(PREFIX): value for key, value in quantized.model.state_dict().items()}
    stored = {f"{name}.{kind}" for name in quantized.layers for kind in ("weight", "bias")}
    return {key: value for key, value in state.items() if key not in stored and value.is_floating_point()}


def _bits(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size() * 8


def total_bits(quantized: Quantized) -> int:
    """8 × the bytes of the packed file's payload (the header with names and shapes is not payload)."""
    return sum(row.total for row in ledger(quantized))


def float_bits(quantized: Quantized) -> int:
    """Bits of the same model, batch norms folded, in float32."""
    return FLOAT_BITS * _parameters(quantized)


def avg_bits(quantized: Quantized) -> float:
    """Total bits for each parameter of the folded float model; 32 for a float model."""
    return total_bits(quantized) / _parameters(quantized)


def _parameters(quantized: Quantized) -> int:
    state = quantized.model.state_dict().values()
    return sum(value.numel() for value in state if value.is_floating_point())


def paper_bits(quantized: Quantized) -> int:
    """The count of the GPFQ study this project started from: non-zero weights × nominal bits.

    It leaves out scales, biases and the place of the zeros, so no file is that small. For its figures only.
    """
    widths = {name: layer.bits for name, layer in quantized.layers.items()}
    state = {key.removeprefix(PREFIX): value for key, value in quantized.model.state_dict().items()}
    return sum(
        int(value.count_nonzero()) * widths.get(key.removesuffix(".weight"), FLOAT_BITS)
        for key, value in state.items()
        if key.endswith(".weight") and value.dim() > 1
    )
