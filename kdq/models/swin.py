"""Attention of torchvision's Swin transformers in layers that can be traced and quantized."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]

MASKED = -100.0
"""Added to the scores of positions that the shift brought from elsewhere, as in torchvision."""


class WindowAttention(nn.Module):
    """A ShiftedWindowAttention of torchvision, of either version, that calls its layers `qkv` and `proj`.

    forward: float [N, H, W, C] -> the same shape, with the same results to rounding in evaluation mode (Liu et al. 2021
    and 2022). Torchvision's computes with their weights in one function, which hides the layers.
    """

    qkv: nn.Linear
    proj: nn.Linear
    cpb_mlp: nn.Sequential
    logit_scale: nn.Parameter
    relative_position_bias_table: nn.Parameter
    relative_position_index: Tensor
    relative_coords_table: Tensor

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.window: Pair = tuple(source.window_size)
        self.shift: Pair = tuple(source.shift_size)
        self.num_heads: int = source.num_heads
        for name, module in source.named_children():  # qkv, proj, and cpb_mlp of version 2
            self.add_module(name, module)
        for name, parameter in source.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in source.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.is_cosine = "logit_scale" in self._parameters
        if self.is_cosine and self.qkv.bias is not None:
            self.qkv.bias.data.view(3, -1)[1] = 0  # of the keys, as torchvision's forward does

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(to_windows(x, self.window, self.shift))
        parts = torch.unflatten(qkv, -1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]  # [N · windows, heads, positions, features]
        if self.is_cosine:
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
            scores = scores * self.logit_scale.clamp(max=math.log(100.0)).exp()
        else:
            scores = q * q.shape[-1] ** -0.5 @ k.mT
        weights = mask_scores(scores + self._bias(), x, self.window, self.shift).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        out: Tensor = from_windows(self.proj(mixed), x, self.window, self.shift)
        return out

    def _bias(self) -> Tensor:
        """Return the bias of every pair of positions in a window: [1, heads, positions, positions]."""
        positions = self.window[0] * self.window[1]
        if self.is_cosine:
            table = self.cpb_mlp(self.relative_coords_table).view(-1, self.num_heads)
        else:
            table = self.relative_position_bias_table
        pairs = table[self.relative_position_index].view(positions, positions, -1)
        bias: Tensor = pairs.permute(2, 0, 1).unsqueeze(0)
        return 16 * bias.sigmoid() if self.is_cosine else bias


def _padded(x: Tensor, window: Pair) -> Pair:
    """Return height and width of the images [N, H, W, C], padded to whole windows."""
    return -(-x.shape[1] // window[0]) * window[0], -(-x.shape[2] // window[1]) * window[1]


def _effective(x: Tensor, window: Pair, shift: Pair) -> Pair:
    """Return the shift, 0 along a side that one window covers."""
    height, width = _padded(x, window)
    return (shift[0] if height > window[0] else 0, shift[1] if width > window[1] else 0)


def to_windows(x: Tensor, window: Pair, shift: Pair) -> Tensor:
    """Return the shifted windows of images [N, H, W, C]: [N · windows, positions, C]."""
    (height, width), (down, right) = _padded(x, window), _effective(x, window, shift)
    x = F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))
    x = torch.roll(x, (-down, -right), (1, 2))
    x = torch.unflatten(torch.unflatten(x, 2, (-1, window[1])), 1, (-1, window[0]))  # [N, rows, h, columns, w, C]
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def from_windows(windows: Tensor, x: Tensor, window: Pair, shift: Pair) -> Tensor:
    """Invert `to_windows` of images shaped as x."""
    (height, width), (down, right) = _padded(x, window), _effective(x, window, shift)
    tiles = windows.view(-1, height // window[0], width // window[1], *window, windows.shape[-1])
    image = torch.roll(tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2), (down, right), (1, 2))
    return image[:, : x.shape[1], : x.shape[2]].contiguous()


def mask_scores(scores: Tensor, x: Tensor, window: Pair, shift: Pair) -> Tensor:
    """Return scores [N · windows, heads, positions, positions], MASKED where the two are no neighbours in x."""
    shift = _effective(x, window, shift)
    if shift == (0, 0):
        return scores
    rows, columns = (_regions(*sides, x) for sides in zip(_padded(x, window), window, shift, strict=True))
    region = to_windows((3 * rows[:, None] + columns)[None, :, :, None], window, (0, 0)).squeeze(-1)
    mask = MASKED * (region[:, None] != region[:, :, None]).to(scores.dtype)  # [windows, positions, positions]
    return (torch.unflatten(scores, 0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)


def _regions(size: int, window: int, shift: int, like: Tensor) -> Tensor:
    """Return for each row of a shifted image from which of three regions it is."""
    at = torch.arange(size, device=like.device)
    if shift == 0:
        return torch.zeros_like(at)
    return (at >= size - window).long() + (at >= size - shift).long()


for _name in ("to_windows", "from_windows", "mask_scores"):
    torch.fx.wrap(_name)
