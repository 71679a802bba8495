"""Post-training quantization: alphabets, calibration streams, solvers, whole models."""

from typing import TYPE_CHECKING

from kdq.lazy import public

if TYPE_CHECKING:
    from kdq.quantize.config import QuantizeConfig
    from kdq.quantize.model import quantize, quantize_many
else:
    __getattr__, __dir__ = public(
        __name__,
        {
            "QuantizeConfig": "kdq.quantize.config",
            "quantize": "kdq.quantize.model",
            "quantize_many": "kdq.quantize.model",
        },
    )

__all__ = ["QuantizeConfig", "quantize", "quantize_many"]
