"""Calibration streams: the values of the calibration images in one version of the model, operation by operation."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdq.errors import UserError, first_line
from kdq.models.classifier import Classifier
from kdq.models.exported import BATCH
from kdq.models.graph import Network, layer, run
from kdq.models.images import as_float
from kdq.models.prepare import PREFIX, Layer
from kdq.quantize.heap import Heap
from kdq.quantize.spill import Spill, Spilled

RESIDENT = 2**27
"""Bytes of each value of a stream that are kept in memory."""

TOLERANCE = 0.01
"""By so much of the largest output folding and tracing may change outputs: rounding changes less, mistakes more."""


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
        self.spill = Spill()
        self.heap = Heap()

    def advance(self, index: int, end: int) -> Mapping[fx.Node, Any]:
        """Run batch `index` through the operations before position `end`; return the values known there."""
        kept = self.batches[index]
        reached = _Reached(kept, self.model.mean.device)
        for position in range(self.positions[index], end):
            node = self.network.nodes[position]
            known = {operand: reached[operand] for operand in node.all_input_nodes}
            reached[node] = as_float(reached[node]) if node.op == "placeholder" else run(node, known, self.model)
            kept.pop(node, None)
            for operand in known:
                if self.network.last_use[operand] == position:
                    del reached[operand]
                    kept.pop(operand, None)
        self.positions[index] = max(end, self.positions[index])
        new = {node: value for node, value in reached.items() if node not in kept}
        kept.update({node: _each(value, lambda part: self._keep(part, index)) for node, value in new.items()})
        self.heap.return_gaps()
        return reached

    def _keep(self, value: Any, index: int) -> Any:
        """Return the value of batch `index`, moved to a file if those before it exhaust RESIDENT."""
        if not isinstance(value, Tensor):
            return value
        if (index + 1) * value.nbytes > RESIDENT:
            return self.spill.write(value)
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value  # not the whole of a part


class _Reached(dict[fx.Node, Any]):
    """The values that one batch has reached, on the model's device; what is kept in a file is read when asked for."""

    def __init__(self, kept: Mapping[fx.Node, Any], device: torch.device) -> None:
        self.kept = kept
        self.device = device

    def __missing__(self, node: fx.Node) -> Any:
        self[node] = _each(self.kept[node], self._load)
        return self[node]

    def _load(self, value: Any) -> Any:
        value = value.read() if isinstance(value, Spilled) else value
        return value.to(self.device) if isinstance(value, Tensor) else value


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value changed, or its parts if there are several, as of torch.chunk."""
    return type(value)(change(part) for part in value) if type(value) in (tuple, list) else change(value)


def check_stream(network: Network, model: Classifier, original: nn.Module, images: Tensor) -> None:
    """Raise UserError unless model and network compute what the original computes, on the first two of the images.

    network: that of `model`, a folded copy of the original, which takes floating-point images. A layer may have hooks
    that watch it, but not such as change its inputs or outputs: a quantizer would not know of them.
    """
    stream = Stream(network, model, images[:2])
    batch = as_float(images[:2].to(model.mean.device))
    try:
        wanted, folded = original(batch), model(batch)
        for site in network.sites:
            _check_layer(site.name, layer(model, site.name), stream.advance(0, site.position)[site.source])
        end = len(network.nodes) - 1
        traced = stream.advance(0, end)[network.nodes[end].args[0]]  # type: ignore[index]
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        raise UserError(
            f"architecture {model.arch!r} cannot process calibration images of shape {list(images.shape)} "
            f"({first_line(error)}); check their size, or the model"
        ) from error
    for name, found in {"its batch norms are folded": folded, "it is traced": traced}.items():
        if not _agree(wanted, found):
            raise UserError(
                f"architecture {model.arch!r}: its outputs change when {name}, so it cannot be quantized; its forward "
                "must neither draw random numbers, nor keep a state, nor modify a tensor in place that it reads again"
            )


def _check_layer(name: str, layer: Layer, inputs: Tensor) -> None:
    where = f"layer {name.removeprefix(PREFIX)}"
    axes = {nn.Conv1d: "[N, C, L]", nn.Conv2d: "[N, C, H, W]"}
    for kind, wanted in axes.items():
        if isinstance(layer, kind) and inputs.dim() != layer.weight.dim():
            raise UserError(f"{where}: its inputs are {list(inputs.shape)}; must be batches {wanted}")
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    if hooked and not torch.equal(layer(inputs), layer.forward(inputs)):
        raise UserError(f"{where}: has hooks that change its inputs or outputs; remove them, or give the float model")


def _agree(wanted: Tensor, found: Tensor) -> bool:
    if not torch.isfinite(wanted).all():  # an overflow, of which the quantizer names the first layer that meets it
        return True
    return wanted.shape == found.shape and bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())
