"""A packed model as a file for other programs: ONNX, a PyTorch program, or safetensors; checked, with a model card."""

from typing import TYPE_CHECKING

from kdq.lazy import public

if TYPE_CHECKING:
    from kdq.export.model import Exported, export
else:
    __getattr__, __dir__ = public(__name__, {"Exported": "kdq.export.model", "export": "kdq.export.model"})

__all__ = ["Exported", "export"]
