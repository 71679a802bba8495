"""Stems of library models: for another number of channels, and for images far smaller than ImageNet's."""

from itertools import islice
from typing import Any

from torch import nn

from kdq.errors import UserError
from kdq.models.modules import replace

STEMS = ("imagenet", "small")
NEAR = 3
"""Modules after the first convolution among which a max pool belongs to the stem."""


def adapt_stem(net: nn.Module, arch: str, *, channels: int, stem: str) -> None:
    """Let a network take images of so many channels; with the stem `small`, downsample them less.

    small: the first convolution has stride 1, one larger than 3x3 becomes 3x3, and the max pool after it goes, as in
    ResNets for CIFAR; where it cuts the image into patches (its stride is its kernel size), their sides are halved. A
    new convolution has new initial weights (He et al. 2015, fan out). Raises UserError for a network that has no
    convolution, and, if its stem is to be small, for one whose positions depend on the patches.
    """
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise UserError(f"{arch}: has no nn.Conv2d whose input are the images; use python:FILE.py:FUNCTION to build it")
    is_small = stem == "small"
    names = {name.rpartition(".")[2] for name, _ in net.named_parameters()}
    if is_small and names & {"pos_embedding", "pos_embed"}:
        raise UserError(
            f"{arch}: has one position embedding a patch, so its stem cannot be changed; give the size of the images "
            "instead, as image_size=32 (torchvision) or img_size=32&patch_size=4 (timm)"
        )
    if is_small and (pool := _pool_after(net, first)) is not None:
        replace(net, pool, nn.Identity())
    if is_small or first.in_channels != channels:
        replace(net, first, _convolution(first, channels, is_small))


def _convolution(first: nn.Conv2d, channels: int, is_small: bool) -> nn.Conv2d:
    kernel, stride = first.kernel_size[0], first.stride[0]
    padding: Any = first.padding
    if is_small and kernel == stride:
        kernel = stride = max(1, kernel // 2)
    elif is_small:
        kernel, stride = min(kernel, 3), 1
        padding = kernel // 2
    options: dict[str, Any] = {"padding": padding, "bias": first.bias is not None}
    new = nn.Conv2d(channels, first.out_channels, kernel, stride, **options)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new


def _pool_after(net: nn.Module, first: nn.Conv2d) -> nn.MaxPool2d | None:
    """Return the max pool that follows a convolution, beside it or beside the module around it."""
    inner: nn.Module = first
    for _ in range(2):
        around = next((module for module in net.modules() if inner in module.children()), None)
        if around is None:
            return None
        children = list(around.children())
        after = islice(children, children.index(inner) + 1, children.index(inner) + 1 + NEAR)
        if pool := next((module for module in after if isinstance(module, nn.MaxPool2d)), None):
            return pool
        inner = around
    return None
