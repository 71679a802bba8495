"""Calibration streams: the values of the calibration images in one version of the model, operation by operation."""

import tempfile
from typing import Any

import torch
from torch import Tensor, fx

from kdq.models.classifier import Classifier
from kdq.models.graph import Network, run

BATCH = 32
"""Images per forward pass."""

RESIDENT = 2**27
"""Bytes of each value of a stream that are kept in memory."""


class Stream:
    """The calibration images as they advance through one version of the model, batch by batch.

    Only values that later operations need are kept: the first RESIDENT bytes of each in memory, the rest in
    temporary files, so that memory does not grow with the number of images.
    """

    def __init__(self, network: Network, model: Classifier, images: Tensor) -> None:
        self.network = network
        self.model = model
        source = next(node for node in network.nodes if node.op == "placeholder")
        starts = range(0, len(images), BATCH)
        self.batches: list[dict[fx.Node, Any]] = [{source: images[i : i + BATCH]} for i in starts]
        self.positions = [0] * len(self.batches)

    def advance(self, index: int, end: int) -> dict[fx.Node, Any]:
        """Run batch `index` through the operations before position `end`; return the values known there."""
        values = self.batches[index]
        device = self.model.mean.device
        for position in range(self.positions[index], end):
            node = self.network.nodes[position]
            known = {operand: _to(values[operand], device) for operand in node.all_input_nodes}
            if node.op == "placeholder":
                values[node] = as_float(values[node])
            else:
                values[node] = run(node, known, self.model)
            for operand in known:
                if self.network.last_use[operand] == position:
                    del values[operand]
        self.positions[index] = max(end, self.positions[index])
        reached = {node: _to(value, device) for node, value in values.items()}
        self.batches[index] = {node: _spill(value, index) for node, value in values.items()}
        return reached


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _spill(value: Any, index: int) -> Any:
    """Return the value of batch `index`, moved to a temporary file if those before it exhaust RESIDENT."""
    small = not isinstance(value, Tensor) or (index + 1) * value.nbytes <= RESIDENT
    if small or value.dtype != torch.float32 or value.untyped_storage().filename is not None:
        return value
    dense = value if value.is_contiguous() else value.contiguous(memory_format=torch.channels_last)
    with tempfile.NamedTemporaryFile() as file:  # the mapping outlives the name
        mapped = torch.from_file(file.name, shared=True, size=value.numel(), dtype=torch.float32)
    return mapped.as_strided(dense.shape, dense.stride()).copy_(dense)


def as_float(images: Tensor) -> Tensor:
    """Return uint8 images as floats in [0, 1] and float images unchanged, both channels-last."""
    images = images.contiguous(memory_format=torch.channels_last)
    return images if images.is_floating_point() else images.float() / 255
