"""A layer as a matrix product: its inputs as rows, its weights and outputs as matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdq.models.prepare import Layer

AT_ONCE = 2**25
"""Values of a temporary tensor, at most, where the work can be done in parts: 128 MB in float32."""


def patches(inputs: Tensor, layer: Layer) -> Tensor:
    """Return the rows that multiply the layer's weights: [groups, samples, d], d in the order of `matrix`.

    For a convolution, a sample is one position of one image; one of sequences [N, C, L] is that of images 1 pixel high.
    Supports any stride, padding, dilation and groups.
    """
    if isinstance(layer, nn.Linear):
        return inputs.reshape(1, -1, layer.in_features)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    x = x.unsqueeze(2) if isinstance(layer, nn.Conv1d) else x
    x = x.contiguous(memory_format=torch.channels_last)
    (kh, kw), (sh, sw), (dh, dw) = ((1, *sizes)[-2:] for sizes in (layer.kernel_size, layer.stride, layer.dilation))
    n, channels, height, width = x.shape
    rows, columns = (height - dh * (kh - 1) - 1) // sh + 1, (width - dw * (kw - 1) - 1) // sw + 1
    size = (layer.groups, n, rows, columns, kh, kw, channels // layer.groups)
    N, C, Y, X = x.stride()
    view = x.as_strided(size, (C * size[-1], N, Y * sh, X * sw, Y * dh, X * dw, C))
    return view.reshape(layer.groups, n * rows * columns, -1)


def matrix(weight: Tensor, layer: Layer) -> Tensor:
    """Return a weight-shaped tensor as [groups, m, d], one row per neuron (output channel)."""
    if isinstance(layer, nn.Linear):
        return weight.unsqueeze(0)
    m = layer.out_channels // layer.groups
    return weight.movedim(1, -1).reshape(layer.groups, m, -1)


def unmatrix(matrix: Tensor, layer: Layer) -> Tensor:
    """Invert `matrix`."""
    if isinstance(layer, nn.Linear):
        return matrix.squeeze(0).contiguous()
    weight = matrix.reshape(layer.out_channels, *layer.kernel_size, -1).movedim(-1, 1)
    # To PyTorch a 1x1 kernel is contiguous in any order, but convolutions choose their algorithm by its strides.
    return weight.clone(memory_format=torch.contiguous_format)


def outputs(values: Tensor, layer: Layer) -> Tensor:
    """Return outputs of the layer as [groups, samples, m], samples in the order of `patches`."""
    if isinstance(layer, nn.Linear):
        return values.reshape(1, -1, layer.out_features)
    rows = values.movedim(1, -1).reshape(-1, layer.groups, layer.out_channels // layer.groups)
    return rows.transpose(0, 1)
