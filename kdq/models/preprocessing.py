"""What an image processor of the transformers library does to an image, applied to batches on any device."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdq.models.classifier import Normalization

MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a resampling filter -> torch's interpolation mode."""

LARGEST_EDGE = 2048
"""Pixels: no image classifier of the library has a larger input; a batch of them would not fit in memory."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The preprocessing a model expects: resize to `size`, then cut out the centre of size `crop` (height, width)."""

    normalization: Normalization
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    mode: str


def resize(images: Tensor, wanted: Preprocessing) -> Tensor:
    """Return normalised images [N, C, H, W] in the model's input size.

    Resizing and normalising commute: both are linear, and the weights of a resized pixel sum to 1. The bicubic
    filter overshoots; as in the library's own processors, pixels are clamped to the range of images.
    """
    if wanted.size is not None and wanted.size != tuple(images.shape[2:]):
        antialias = wanted.mode in ("bilinear", "bicubic")
        images = F.interpolate(images, wanted.size, mode=wanted.mode, antialias=antialias)
        mean, std = (images.new_tensor(v).view(1, -1, 1, 1) for v in _statistics(wanted.normalization))
        images = images.clamp((0 - mean) / std, (1 - mean) / std)
    if wanted.crop is not None:
        top, left = ((have - want) // 2 for have, want in zip(images.shape[2:], wanted.crop, strict=True))
        images = images[:, :, top : top + wanted.crop[0], left : left + wanted.crop[1]]
    return images


def _statistics(normalization: Normalization) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return normalization.mean, normalization.std


def preprocessing_of(processor: Any, channels: int) -> Preprocessing:
    """Return what a processor of the library does to images of so many channels.

    It is compared with the processor itself on an image. Raises ValueError for settings that no image classifier has,
    and for a processor that does more; a processor may raise any exception.
    """
    wanted = processor.to_dict()
    size, crop = _sizes(wanted)
    if size and (type(wanted["resample"]) is not int or wanted["resample"] not in MODES):
        raise ValueError(f"resample is {wanted['resample']!r}, must be one of {list(MODES)}")
    found = Preprocessing(_normalization(wanted, channels), size, crop, MODES[wanted["resample"]] if size else "none")
    _check(found, processor)
    return found


def _check(found: Preprocessing, processor: Any) -> None:
    """Raise ValueError unless the processor and `resize` agree on a smooth probe to one level of brightness.

    (At sharp edges the processors differ by a few levels: they round between the two passes of a filter.)
    """
    channel, y, x = torch.meshgrid(*map(torch.arange, (len(found.normalization.mean), 32, 32)), indexing="ij")
    probe = (3 * x + 4 * y + 10 * channel).byte()
    theirs = torch.as_tensor(
        processor(images=[probe], input_data_format="channels_first", return_tensors="pt")["pixel_values"]
    )
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in _statistics(found.normalization))
    ours = resize((probe[None] / 255 - mean) / std, found)
    if theirs.shape != ours.shape or not ((theirs - ours).abs() * std).max() <= 1.01 / 255:
        raise ValueError(
            f"its {type(processor).__name__} does more to an image than resize, crop and normalise it, which is not "
            "supported"
        )


def _sizes(wanted: dict[str, Any]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return the sizes to resize and to crop to, for square images; None where the processor does not."""
    size = _pair(wanted, "size") if wanted.get("do_resize") else None
    crop = _pair(wanted, "crop_size") if wanted.get("do_center_crop") else None
    share = wanted.get("crop_pct")
    if size and share is not None and "shortest_edge" in wanted["size"] and size[0] < 384:  # as ConvNext's processor
        if type(share) not in (int, float) or not 0.1 <= share <= 1:
            raise ValueError(f"crop_pct is {share!r}, must be a number from 0.1 to 1")
        size, crop = (int(size[0] / share), int(size[1] / share)), size
    return size, crop


def _pair(wanted: dict[str, Any], key: str) -> tuple[int, int]:
    edges = wanted[key]
    edge = edges.get("shortest_edge")
    height, width = (edge, edge) if edge else (edges["height"], edges["width"])
    if not all(type(edge) is int and 1 <= edge <= LARGEST_EDGE for edge in (height, width)):
        raise ValueError(f"{key} is {height!r} x {width!r}, must be 1 to {LARGEST_EDGE} pixels")
    return height, width


def _normalization(wanted: dict[str, Any], channels: int) -> Normalization:
    """Return the normalisation of images in [0, 1]; the processor's own is for pixels of 0 to 255 times its factor."""
    mean, std = (0.0,) * channels, (1.0,) * channels
    if wanted.get("do_normalize"):
        mean, std = tuple(wanted["image_mean"]), tuple(wanted["image_std"])
    full = 255 * wanted["rescale_factor"] if wanted.get("do_rescale") else 255.0
    return Normalization(tuple(m / full for m in mean), tuple(s / full for s in std))
