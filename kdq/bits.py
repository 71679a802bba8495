"""Bit widths: which there are, the one that stands for float, and how a model's layers share them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdq.errors import UserError, unknown
from kdq.store.stage import Json, digest

FLOAT_BITS = 32
"""The width that stands for "left in float32"."""

BIT_WIDTHS = (*range(1, 9), FLOAT_BITS)

Bits = int | str
"""An allocation as a table names it: the one width of all layers, 32 for float, or the label of a mixed allocation."""

MIXED_LABEL = re.compile(r"mixed-[0-9a-f]{8}")


def check_bits(bits: object, where: str = "bits") -> None:
    """Raise UserError unless `bits` is an integer from 1 to 8, or 32 for float."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not (1 <= bits <= 8 or bits == FLOAT_BITS):
        raise UserError(f"{where} = {bits!r}: must be a whole number from 1 to 8, or {FLOAT_BITS} for float")


@dataclass(frozen=True, slots=True)
class Allocation:
    """A bit width for each layer of a model: 1 to 8, or 32 for a layer that is left in float.

    widths: the one width of all layers, or a mapping's items in the order of the layers' names (see `of`). Allocations
    sort as tables show them, uniform ones first. Raises UserError for any other width.
    """

    widths: int | tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if not isinstance(self.widths, tuple):
            check_bits(self.widths)
            return
        if not self.widths:
            raise UserError("bits = {}: must name every layer, or be one width for all")
        for layer, bits in self.widths:
            check_bits(bits, f"bits[{layer!r}]")

    @classmethod
    def uniform(cls, bits: int) -> "Allocation":
        """The same width for all layers."""
        return cls(bits)

    @classmethod
    def of(cls, widths: Mapping[str, int]) -> "Allocation":
        """A width for each layer by its name, see `kdq.quantize.model.layer_names`.

        It is a mixed allocation even if all widths are equal: whether the mapping names every layer, as it must, is
        known only where the model is, and a uniform allocation would hide a name that is wrong or missing.
        """
        return cls(tuple(sorted(widths.items())))

    @property
    def is_float(self) -> bool:
        """Whether every layer is left in float."""
        return {FLOAT_BITS} == ({self.widths} if isinstance(self.widths, int) else {bits for _, bits in self.widths})

    @property
    def label(self) -> str:
        """Short text: the width, `32` for float, or `mixed-` and the first 8 digits of the mapping's digest."""
        return str(self.column)

    @property
    def column(self) -> Bits:
        """What a table's column `bits` has: the width as a number, or the label of a mixed allocation."""
        return self.widths if isinstance(self.widths, int) else f"mixed-{digest(self.document())[:8]}"

    def by_layer(self, names: Sequence[str]) -> dict[str, int]:
        """The width of each of a model's layers. Raises UserError for a mapping that does not name just these."""
        if isinstance(self.widths, int):
            return dict.fromkeys(names, self.widths)
        given = dict(self.widths)
        for name in given:
            if name not in names:
                raise unknown("layer in bits", name, names)
        if missing := [name for name in names if name not in given]:
            raise UserError(
                f"bits names no width for {', '.join(missing)}: must name every layer; 32 leaves one in float"
            )
        return {name: given[name] for name in names}

    def document(self) -> Json:
        """JSON: the width of all layers as a number, or a mapping of layers to widths."""
        return self.widths if isinstance(self.widths, int) else dict(self.widths)

    @classmethod
    def of_document(cls, document: Json) -> "Allocation":
        """The allocation that `document` described. Raises UserError for what is none."""
        return cls.of(document) if isinstance(document, Mapping) else cls.uniform(document)

    def __lt__(self, other: "Allocation") -> bool:
        return display_order(self.column) < display_order(other.column)


FLOAT = Allocation.uniform(FLOAT_BITS)
"""Every layer left in float."""


def is_bits(bits: Bits) -> bool:
    """Whether a table's column `bits` can have this value."""
    return bits in BIT_WIDTHS if isinstance(bits, int) else MIXED_LABEL.fullmatch(bits) is not None


def bits_name(bits: Bits) -> str:
    """For people: `float`, `1 bit`, `4 bits`, or the label of a mixed allocation."""
    if isinstance(bits, str):
        return bits
    return "float" if bits == FLOAT_BITS else "1 bit" if bits == 1 else f"{bits} bits"


def display_order(bits: Bits) -> tuple[bool, int, str]:
    """A sorting key: widths from few bits to float, then mixed allocations by their labels."""
    return (True, 0, bits) if isinstance(bits, str) else (False, bits, "")
