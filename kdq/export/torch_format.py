"""A program of torch.export (.pt2): the network with real weights, for PyTorch without kdq.

`torch.export.load(FILE).module()` takes float32 [batch, C, H, W] in [0, 1], and returns logits [batch, classes].
"""

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from kdq.errors import UserError, first_line
from kdq.models.modules import exportable
from kdq.pack.file import Packed

DESCRIPTION = "kdq.json"
"""The extra file in the archive, with the model's description as JSON."""


def write(packed: Packed, description: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    """Return the program as a .pt2 archive. Raises UserError for a model that torch.export cannot trace."""
    model = packed.model
    example = torch.rand(2, len(model.normalization.mean), *size)
    try:
        with exportable(model) as traced:
            program = torch.export.export(traced, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # torch.export raises almost any exception
        raise UserError(
            f"architecture {model.arch!r}: torch.export cannot trace it ({first_line(error)}); export --to safetensors"
        ) from error
    content = BytesIO()
    torch.export.save(program, content, extra_files={DESCRIPTION: json.dumps(description)})
    return content.getvalue()


def run(content: bytes, packed: Packed) -> Callable[[Tensor], Tensor]:
    """Return a function of float32 images in [0, 1] that computes the logits of a .pt2 archive."""
    return torch.export.load(BytesIO(content)).module()
