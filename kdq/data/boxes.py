"""Random boxes in images, drawn for all images of an epoch at once: crops that are resized, and cuts of CutMix."""

import torch
import torch.nn.functional as F
from torch import Tensor

ATTEMPTS = 10
"""Boxes that are tried for an image, as in torchvision; if none fits into it, the crop is the whole image."""
RATIO = (3 / 4, 4 / 3)
"""Range of a crop's width divided by its height."""


def crop_boxes(uniform: Tensor, size: tuple[int, int], smallest: float) -> Tensor:
    """Return crops of a share of the area from `smallest` to 1 and a ratio in RATIO (Szegedy et al. 2015).

    uniform: float64 [N, ATTEMPTS, 4] in [0, 1); size: height and width of the images. Returns int64 [N, 4]: top, left,
    height, width.
    """
    height, width = size
    area = (smallest + (1 - smallest) * uniform[..., 0]) * (height * width)
    low, high = (torch.tensor(end, dtype=torch.float64).log() for end in RATIO)
    ratio = (low + (high - low) * uniform[..., 1]).exp()
    heights, widths = (area / ratio).sqrt().round(), (area * ratio).sqrt().round()
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    tops = (uniform[..., 2] * (height - heights + 1)).floor()
    lefts = (uniform[..., 3] * (width - widths + 1)).floor()
    boxes = torch.stack([tops, lefts, heights, widths], dim=-1).long()
    first = fits.int().argmax(1)  # the first that fits
    chosen = boxes[torch.arange(len(boxes)), first]
    return torch.where(fits.any(1, keepdim=True), chosen, torch.tensor([0, 0, height, width]))


def resized_crops(images: Tensor, boxes: Tensor) -> Tensor:
    """Return the crops `boxes`, int64 [B, 4], of images, uint8 [B, C, H, W], each resized to H x W bilinearly."""
    height, width = images.shape[2:]
    rows = _positions(boxes[:, 0], boxes[:, 2], height)
    columns = _positions(boxes[:, 1], boxes[:, 3], width)
    y = rows[:, :, None].expand(-1, height, width)
    x = columns[:, None, :].expand(-1, height, width)
    resized = F.grid_sample(images.float(), torch.stack([x, y], dim=-1), align_corners=False)
    return resized.round_().to(torch.uint8)


def _positions(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return where the pixels of a side of `size` pixels are in crops, float32 [B, size] as grid_sample counts."""
    place = (torch.arange(size, device=start.device) + 0.5) * length[:, None] / size - 0.5
    place = torch.minimum(place.clamp(min=0), length[:, None] - 1.0) + start[:, None]
    return ((2 * place + 1) / size - 1).float()


def cut_boxes(uniform: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes of about a share of the area, of the image's own ratio, clipped at its edges (Yun et al. 2019).

    uniform: float64 [N, 2] in [0, 1), the centres; share: [N] in [0, 1]. Returns int64 [N, 4]: top, bottom, left,
    right, the second and the last exclusive.
    """
    sides = torch.tensor(size, dtype=torch.float64)
    half = (share.double().sqrt()[:, None] * sides).floor() / 2
    centres = (uniform * sides).floor()
    starts = torch.maximum((centres - half).floor(), torch.zeros_like(half))
    ends = torch.minimum((centres + half).floor(), sides)
    return torch.stack([starts[:, 0], ends[:, 0], starts[:, 1], ends[:, 1]], dim=1).long()


def inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return whether pixels are in the boxes of `cut_boxes`: bool [B, 1, H, W]."""
    top, bottom, left, right = (side[:, None] for side in boxes.unbind(1))
    y, x = (torch.arange(side, device=boxes.device) for side in size)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
