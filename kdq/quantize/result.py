"""The result of a quantization: layers as codes, the model, a report."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from kdq.models.classifier import Classifier
from kdq.quantize.activations import InputRange
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.config import QuantizeConfig


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """A layer as it is stored: its weight is the levels of its codes times its scale.

    codes: of the alphabet's dtype, in the shape of the weight; scale: [output channels], or [1] for all of them;
    bias: [output channels], both of the stored dtype; inputs: the levels of its inputs, None for float; zero_point:
    uint8 [output channels], the code of the weight 0 on an asymmetric grid, else None.
    """

    alphabet: Alphabet
    codes: Tensor
    scale: Tensor
    bias: Tensor
    inputs: InputRange | None = None
    zero_point: Tensor | None = None

    def weight(self) -> Tensor:
        """Return the float32 weight that the model computes with."""
        by_channel = (-1, *[1] * (self.codes.dim() - 1))
        zero_point = None if self.zero_point is None else self.zero_point.view(by_channel)
        return self.alphabet.values(self.codes, self.scale.float().view(by_channel), zero_point)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One row of the report.

    error: ‖Y − Ŷ‖ / ‖Y‖ over the calibration images, Y the layer's target outputs less their mean, Ŷ its outputs on
    the inputs of the quantized stream; nonzero: share of non-zero weights; seconds: time spent in the solver.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    levels: int
    scales: int
    error: float
    nonzero: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized model: `model` to run, `layers` to store (without float layers), `report` to read."""

    model: Classifier
    config: QuantizeConfig
    layers: Mapping[str, QuantizedLayer]
    report: tuple[LayerReport, ...]
