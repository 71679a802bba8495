"""TrivialAugment (Müller and Hutter 2021) on batches: one operation an image, of random strength.

Operations and strengths are those of torchvision's TrivialAugmentWide, and so are the pixels; images with the same
operation are computed together.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = 31
SMALLEST = 32
"""Pixels of an image's side: a translation by up to as many would hide a smaller one."""

Operation = Callable[[Tensor, Tensor], Tensor]
"""Function of images, uint8 [B, C, H, W], and of the strength of each, float32 [B], that returns new images."""


def trivial_augment(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Return augmented images, uint8 [B, C, H, W].

    operation: int64 [B], numbers in OPERATIONS; strength: int64 [B], from -(STRENGTHS - 1) to STRENGTHS - 1; its sign
    is that of the change, where the operation has two directions.
    """
    result = images.clone()
    for number, (apply, most) in enumerate(OPERATIONS.values()):
        rows = (operation == number).nonzero()[:, 0]
        if len(rows):
            table = torch.linspace(0, most, STRENGTHS, device=images.device)
            result[rows] = apply(images[rows], table[strength[rows].abs()] * strength[rows].sign())
    return result


def _affine(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images whose pixels are those at `matrices` · (x, y, 1), in pixels from the centre; nearest, black
    outside. matrices: float32 [B, 2, 3]."""
    height, width = images.shape[2:]
    x, y = (torch.arange(side, device=images.device) + 0.5 - side / 2 for side in (width, height))
    points = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.ones(height, width).to(x)], dim=-1)
    halves = torch.tensor([width / 2, height / 2], device=images.device)
    grid = (points.view(1, -1, 3) @ (matrices / halves[:, None]).mT).view(-1, height, width, 2)
    return F.grid_sample(images.float(), grid, mode="nearest", align_corners=False).round_().to(torch.uint8)


def _matrices(strength: Tensor, *rows: tuple[Tensor | float, ...]) -> Tensor:
    return torch.stack([torch.stack([torch.zeros_like(strength) + value for value in row], -1) for row in rows], -2)


def _shear_x(images: Tensor, strength: Tensor) -> Tensor:
    # About the upper left corner, as in the paper's code: the rows above the centre move the other way.
    shift = strength * (images.shape[2] / 2)
    return _affine(images, _matrices(strength, (1.0, strength, shift), (0.0, 1.0, 0.0)))


def _shear_y(images: Tensor, strength: Tensor) -> Tensor:
    shift = strength * (images.shape[3] / 2)
    return _affine(images, _matrices(strength, (1.0, 0.0, 0.0), (strength, 1.0, shift)))


def _translate_x(images: Tensor, strength: Tensor) -> Tensor:
    return _affine(images, _matrices(strength, (1.0, 0.0, -strength.trunc()), (0.0, 1.0, 0.0)))


def _translate_y(images: Tensor, strength: Tensor) -> Tensor:
    return _affine(images, _matrices(strength, (1.0, 0.0, 0.0), (0.0, 1.0, -strength.trunc())))


def _rotate(images: Tensor, strength: Tensor) -> Tensor:
    """strength: degrees, counter-clockwise."""
    angle = strength * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    return _affine(images, _matrices(strength, (cos, -sin, 0.0), (sin, cos, 0.0)))


def _blend(images: Tensor, others: Tensor, strength: Tensor) -> Tensor:
    """Return (1 + strength) · images − strength · others."""
    factor = (1 + strength.double())[:, None, None, None]
    return (factor.float() * images + (1 - factor).float() * others).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Return the luminance of RGB images, uint8 [B, 1, H, W]; grey ones as they are."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[:, None]


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images), strength)


def _colour(images: Tensor, strength: Tensor) -> Tensor:
    return images if images.shape[1] != 3 else _blend(images, _grey(images), strength)


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    return _blend(images, _grey(images).float().mean((1, 2, 3), keepdim=True), strength)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    channels = images.shape[1]
    kernel = torch.ones(3, 3, device=images.device)
    kernel[1, 1] = 5
    smooth = images.clone()
    weights = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    smooth[..., 1:-1, 1:-1] = F.conv2d(images.float(), weights, groups=channels).round_().to(torch.uint8)
    return _blend(images, smooth, strength)


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    """strength: the number of low bits that are cleared, rounded."""
    bits = strength.abs().round().int()
    return images & (256 - 2**bits).to(torch.uint8)[:, None, None, None]


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    """strength: 255 less the value from which pixels are inverted."""
    return torch.where(images >= (255 - strength.abs())[:, None, None, None], 255 - images, images)


def _auto_contrast(images: Tensor, strength: Tensor) -> Tensor:
    low, high = (end.float() for end in images.flatten(2).aminmax(dim=2))
    scale = 255 / (high - low)
    flat = ~scale.isfinite()
    scale, low = torch.where(flat, 1.0, scale), torch.where(flat, 0.0, low)
    return ((images - low[..., None, None]) * scale[..., None, None]).clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor, strength: Tensor) -> Tensor:
    planes = images.flatten(2).flatten(0, 1).long()  # [B·C, H·W]
    counts = torch.zeros(len(planes), 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, planes, torch.ones_like(planes))
    last = counts.gather(1, planes.amax(1, keepdim=True))
    step = (planes.shape[1] - last) // 255
    table = (counts.cumsum(1) - counts + step // 2) // step.clamp(min=1)
    equalized = table.clamp(0, 255).gather(1, planes)
    return torch.where(step > 0, equalized, planes).to(torch.uint8).view_as(images)


OPERATIONS: dict[str, tuple[Operation, float]] = {
    "identity": (lambda images, strength: images, 0.0),
    "shear_x": (_shear_x, 0.99),
    "shear_y": (_shear_y, 0.99),
    "translate_x": (_translate_x, 32.0),
    "translate_y": (_translate_y, 32.0),
    "rotate": (_rotate, 135.0),
    "brightness": (_brightness, 0.99),
    "colour": (_colour, 0.99),
    "contrast": (_contrast, 0.99),
    "sharpness": (_sharpness, 0.99),
    "posterize": (_posterize, 6.0),
    "solarize": (_solarize, 255.0),
    "auto_contrast": (_auto_contrast, 0.0),
    "equalize": (_equalize, 0.0),
}
"""Name -> operation and its largest strength, in torchvision's order."""
