"""What a layer needs to know of the calibration images: two streams of inputs, summed into small matrices."""

import tempfile
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from kdq.graph import Layer, Network, run
from kdq.models import Classifier

BATCH = 32
"""Images that go through the network at once."""
WIDTH = 144
"""Columns of a product that are computed at once where half of it need not be."""
RESIDENT = 2**27
"""Bytes of each value of a stream that are kept in memory."""


def patches(inputs: Tensor, layer: Layer) -> Tensor:
    """The rows that meet the layer's weights: [groups, samples, d], d in the order of `matrix`.

    For a convolution, a sample is one position of one image. Any stride, padding, dilation, groups.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    x = x.contiguous(memory_format=torch.channels_last)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    n, channels, height, width = x.shape
    rows, columns = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    size = (layer.groups, n, rows, columns, kh, kw, channels // layer.groups)
    N, C, Y, X = x.stride()
    view = x.as_strided(size, (C * size[-1], N, Y * sh, X * sw, Y * dh, X * dw, C))
    return view.reshape(layer.groups, n * rows * columns, -1)


def matrix(weight: Tensor, layer: Layer) -> Tensor:
    """A weight-shaped tensor as [groups, m, d], one row a neuron (output channel)."""
    if isinstance(layer, nn.Linear):
        return weight.unsqueeze(0)
    m = layer.out_channels // layer.groups
    return weight.permute(0, 2, 3, 1).reshape(layer.groups, m, -1)


def unmatrix(matrix: Tensor, layer: Layer) -> Tensor:
    """The inverse of `matrix`."""
    if isinstance(layer, nn.Linear):
        return matrix.squeeze(0).contiguous()
    return matrix.reshape(layer.out_channels, *layer.kernel_size, -1).permute(0, 3, 1, 2).contiguous()


def outputs(values: Tensor, layer: Layer) -> Tensor:
    """Outputs of the layer as [groups, samples, m], samples in the order of `patches`."""
    if isinstance(layer, nn.Linear):
        return values.reshape(1, -1, layer.out_features)
    rows = values.permute(0, 2, 3, 1).reshape(-1, layer.groups, layer.out_channels // layer.groups)
    return rows.transpose(0, 1)


def triangle(X: Tensor, Y: Tensor) -> Tensor:
    """XᵀY [groups, d, d] on and above the diagonal, for nearly half the work; below, what it brings or 0.

    X, Y: [groups, samples, d].
    """
    product = X.new_zeros(X.shape[0], X.shape[-1], X.shape[-1])
    for start, stop in _slices(X.shape[-1]):
        rows = product[:, start:stop, start:]
        torch.baddbmm(rows, X[:, :, start:stop].mT, Y[:, :, start:], beta=0, out=rows)
    return product


def gram(X: Tensor) -> Tensor:
    """XᵀX [groups, d, d] for X [groups, samples, d]."""
    product = triangle(X, X)
    for start, stop in _slices(X.shape[-1]):
        product[:, stop:, start:stop] = product[:, start:stop, stop:].mT
    return product


def _slices(d: int) -> list[tuple[int, int]]:
    count = max(1, round(d / WIDTH))
    return [(d * i // count, d * (i + 1) // count) for i in range(count)]


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over a layer's samples of its inputs X̂ in the quantized stream and of its wanted outputs Y.

    count: samples; x, y, yy: sums of X̂, Y and Y², [groups, d], [groups, m], [groups, m]; G = X̂ᵀX̂
    [groups, d, d]; T = YᵀX̂ [groups, m, d], which is WH where Y are the float layer's outputs; H = XᵀX̂ only
    if asked for, X the inputs in the float stream, and only its upper triangle. All
    float64; what the products of one batch are is said to `of`.
    """

    count: int
    x: Tensor
    y: Tensor
    yy: Tensor
    G: Tensor
    T: Tensor
    H: Tensor | None = None

    @classmethod
    def of(
        cls,
        inputs: Tensor,
        wanted: Tensor,
        float_inputs: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Of one batch: inputs and float_inputs [groups, samples, d], wanted [groups, samples, m].

        dtype: that of the products.
        """
        inputs, wanted = inputs.to(dtype), wanted.to(dtype)
        float_inputs = None if float_inputs is None else float_inputs.to(dtype)
        ones = torch.ones_like(wanted[..., :1])
        G, T = gram(inputs).double(), (torch.cat([wanted, ones], -1).mT @ inputs).double()
        y, yy = wanted.sum(1).double(), wanted.square().sum(1).double()
        H = None if float_inputs is None else triangle(float_inputs, inputs).double()
        return cls(inputs.shape[1], T[:, -1], y, yy, G, T[:, :-1], H)

    def plus(self, other: Self | None) -> Self:
        """The moments of both batches together."""
        if other is None:
            return self
        H = None if self.H is None or other.H is None else self.H + other.H
        sums = self.x + other.x, self.y + other.y, self.yy + other.yy
        return replace(
            self,
            count=self.count + other.count,
            x=sums[0],
            y=sums[1],
            yy=sums[2],
            G=self.G + other.G,
            T=self.T + other.T,
            H=H,
        )

    def centred(self) -> Self:
        """G, T and yy about the means: what is left for the weights once the bias carries the means."""
        mean = self.x / self.count
        G = self.G - self.x.unsqueeze(-1) * mean.unsqueeze(-2)
        T = self.T - self.y.unsqueeze(-1) * mean.unsqueeze(-2)
        return replace(self, G=G, T=T, yy=(self.yy - self.y.square() / self.count).clamp_min(0), H=None)

    def bias(self, Q: Tensor) -> Tensor:
        """The bias [groups, m] that gives weights Q [groups, m, d] the wanted mean outputs."""
        return (self.y - (Q @ self.x.unsqueeze(-1)).squeeze(-1)) / self.count

    def relative_error(self, Q: Tensor) -> float:
        """‖Y − X̂Qᵀ‖ / ‖Y‖ about the means; 0 if Y is constant."""
        centred = self.centred()
        error = ((Q @ centred.G - 2 * centred.T) * Q).sum() + centred.yy.sum()
        norm = centred.yy.sum()
        return (error.clamp_min(0) / norm).sqrt().item() if norm > 0 else 0.0


class Stream:
    """The calibration images on their way through one version of the model, batch by batch.

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
        """Run batch `index` through the operations before position `end`; the values known there."""
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
    """The value of batch `index`, moved to a temporary file if those before it fill the memory allowed."""
    small = not isinstance(value, Tensor) or (index + 1) * value.nbytes <= RESIDENT
    if small or value.dtype != torch.float32 or value.untyped_storage().filename is not None:
        return value
    dense = value if value.is_contiguous() else value.contiguous(memory_format=torch.channels_last)
    with tempfile.NamedTemporaryFile() as file:  # the mapping outlives the name
        mapped = torch.from_file(file.name, shared=True, size=value.numel(), dtype=torch.float32)
    return mapped.as_strided(dense.shape, dense.stride()).copy_(dense)


def as_float(images: Tensor) -> Tensor:
    """uint8 images as floats in [0, 1], channels last; float images as they are."""
    images = images.contiguous(memory_format=torch.channels_last)
    return images if images.is_floating_point() else images.float() / 255
