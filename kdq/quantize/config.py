"""The settings of a quantization."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from kdq.bits import FLOAT, Allocation
from kdq.errors import UserError, unknown
from kdq.params import check_number
from kdq.quantize.activations import check_activation_bits
from kdq.quantize.algorithms import QUANTIZERS, Quantizer


@dataclass(frozen=True, slots=True)
class QuantizerSpec:
    """How every point of a study is quantized: see `QuantizeConfig`. Raises UserError for what that refuses."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    method: str = "least_squares"
    params: Mapping[str, float] = field(default_factory=dict)
    activation_bits: int | None = None

    def __post_init__(self) -> None:
        QuantizeConfig(FLOAT, self.method, self.params, self.activation_bits)


CALIBRATION_IMAGES = 512
"""Enough: more images change the accuracy by less than another choice of them."""

RENAMED = {"gpfq_plain": "it is called 'gpfq' now, and what 'gpfq' was is called 'least_squares'"}
"""Names that quantizers had in an earlier version, and what to write instead."""

DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """How to quantize.

    bits: an allocation; or the width of every layer, 1 to 8, or 32 for float; or a mapping that names each layer's, by
    the names of `layer_names`. method: a name in QUANTIZERS; params: what differs from its defaults. activation_bits:
    4 to 8 levels of the inputs of every quantized layer too, None for float. stored: what scales and biases are kept
    in, `float16` (`float32` in a layer where it loses any that matter) or `float32`. accumulate: what products of the
    calibration images are computed in, `float32` (sums of batches are float64 all the same) or `float64`. seed: of
    quantizers that draw random numbers.
    """

    bits: Allocation | int | Mapping[str, int] = 4
    method: str = "least_squares"
    params: Mapping[str, float] = field(default_factory=dict)
    activation_bits: int | None = None
    stored: str = "float16"
    accumulate: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_activation_bits(self.activation_bits)
        for name, allowed in {"stored": ("float16", "float32"), "accumulate": ("float32", "float64")}.items():
            if getattr(self, name) not in allowed:
                raise unknown(name, str(getattr(self, name)), allowed)
        _ = self.allocation  # raises for widths that there are not
        if self.method in RENAMED:
            raise UserError(f"unknown quantization method {self.method!r}: {RENAMED[self.method]}")
        if self.method not in QUANTIZERS:
            raise unknown("quantization method", self.method, QUANTIZERS)
        for name, value in self.params.items():
            if name not in self.quantizer.params:
                raise unknown(f"parameter of quantizer {self.method!r}", name, self.quantizer.params)
            check_number(name, value, self.quantizer.params[name][1], f"quantizer {self.method!r}")

    @property
    def allocation(self) -> Allocation:
        return self.bits if isinstance(self.bits, Allocation) else Allocation.of_document(self.bits)

    @property
    def quantizer(self) -> Quantizer:
        return QUANTIZERS[self.method]

    @property
    def parameters(self) -> dict[str, float]:
        """All parameters of the quantizer."""
        return {name: float(self.params.get(name, default)) for name, (default, _) in self.quantizer.params.items()}
