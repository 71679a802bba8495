"""Images as models take them here: uint8, or floating-point in [0, 1], [N, C, H, W]."""

import numpy as np
import torch
from torch import Tensor

from kdq.errors import UserError, first_line

ROUNDING = 1e-5
"""By so much a floating-point image may leave [0, 1]."""


def as_tensor(values: object, what: str) -> Tensor:
    """Return a tensor as it is and a NumPy array as a tensor of its own. Raises UserError for anything else."""
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, np.ndarray):
        raise UserError(f"{what}: a {type(values).__name__}; must be a tensor or a NumPy array")
    try:
        return torch.from_numpy(np.array(values, order="C"))
    except TypeError as error:
        raise UserError(f"{what}: a NumPy array of {values.dtype} ({first_line(error)}); must be numbers") from error


def check_images(
    images: object, *, channels: int | None = None, size: tuple[int, int] | None = None, what: str = "images"
) -> Tensor:
    """Return images as a tensor, [N, C, H, W] with N at least 1, uint8 or finite floating-point in [0, 1].

    channels: C, if known; size: H and W, if the model takes no other; what: they are, for messages. Raises UserError
    for any other images. Floating-point values are read once; uint8 ones need no look.
    """
    tensor = as_tensor(images, what)
    if tensor.dim() != 4 or (channels is not None and tensor.shape[1] != channels):
        wanted = "C" if channels is None else channels
        raise UserError(f"{what}: of shape {list(tensor.shape)}; must be [N, {wanted}, H, W]: permute or reshape them")
    if size is not None and tensor.shape[2:] != size:
        height, width = tensor.shape[2:]
        raise UserError(
            f"{what}: of {height}x{width} pixels, the model is made for {size[0]}x{size[1]}; resize them, as "
            "`python -m kdq predict` does"
        )
    if len(tensor) == 0:
        raise UserError(f"0 {what}: must be at least 1")
    if tensor.numel() == 0 or tensor.layout != torch.strided or tensor.is_meta:
        raise UserError(f"{what}: of shape {list(tensor.shape)}, {tensor.layout}, on {tensor.device}; must have values")
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise UserError(f"{what}: of {tensor.dtype}; must be uint8 from 0 to 255, or floating-point from 0 to 1")
    low, high = (value.item() for value in tensor.float().aminmax())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise UserError(
            f"{what}: floating-point values from {low:.4g} to {high:.4g}; must be finite and from 0 to 1, neither "
            "normalised nor 0 to 255 (divide these by 255, or convert them to uint8)"
        )
    return tensor


def as_float(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1], channels-last: uint8 ones divided by 255, floating-point ones as they are."""
    images = images.contiguous(memory_format=torch.channels_last)
    return images.float() if images.is_floating_point() else images.float() / 255
