"""Image classifiers of the transformers library (ViT, BiT, ResNet, …) as teachers.

Each is wrapped as a `Classifier`: it takes the student's images unchanged, resizes and normalises them on
their device, and returns logits in the data set's label order. It is loaded from a folder of safetensors and
JSON; code that comes with a model is never run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdq.errors import UserError, first_line
from kdq.models.classifier import Classifier, Normalization

MODES = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}
"""Pillow's number of a resampling filter -> torch's interpolation mode."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """The preprocessing a model expects: resize to `size`, then cut out the centre of size `crop` (height, width)."""

    normalization: Normalization
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    mode: str


class Pretrained(nn.Module):
    """A transformers model preceded by resizing. order: the model's output index for each class of the data set.

    forward: normalised images, float [N, C, H, W] -> logits [N, classes].
    """

    order: Tensor

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, order: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=resize(images, self.preprocessing)).logits
        return logits[:, self.order]


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


def load_pretrained(folder: Path, class_names: Sequence[str], channels: int) -> Classifier:
    """Load the classifier in a folder (config.json, preprocessor_config.json, model.safetensors), in evaluation mode.

    class_names: those of the data set, in its order; channels: of its images. The architecture is named
    `transformers:TYPE`, such as `transformers:vit`. Raises UserError if the folder does not hold a complete image
    classifier of the library, or holds one for other classes or another number of channels.
    """
    from transformers import AutoModelForImageClassification

    _quiet()
    order = label_order(labels(folder), class_names, str(folder))
    preprocessing = _preprocessing(folder, channels)
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as error:  # the library raises almost any exception for a damaged or foreign folder
        raise _unusable(folder, error) from error
    if info["missing_keys"]:
        raise UserError(
            f"{folder}: its weights lack {min(info['missing_keys'])} and {len(info['missing_keys']) - 1} others, "
            "which would be random: not a trained image classifier; fine-tune it first, or choose another teacher"
        )
    net = Pretrained(model, preprocessing, order)
    return Classifier(
        f"transformers:{model.config.model_type}", net, len(class_names), preprocessing.normalization
    ).eval()


def labels(folder: Path) -> tuple[str, ...]:
    """Return the labels of the model's outputs in order. Raises UserError if the folder has no model configuration."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return tuple(str(config.id2label[i]) for i in range(config.num_labels))
    except Exception as error:
        raise _unusable(folder, error) from error


def unnamed(names: Sequence[str]) -> bool:
    """Return whether these are the placeholder names of the library, LABEL_0, LABEL_1, …"""
    return all(name == f"LABEL_{i}" for i, name in enumerate(names))


def label_order(names: Sequence[str], class_names: Sequence[str], source: str) -> tuple[int, ...]:
    """Return the model's output index for each class of the data set.

    Names match regardless of case, spaces, hyphens and underscores. Placeholder names are assumed to be in the
    data set's order. Raises UserError if the model's names are not those of the data set.
    """
    if len(names) != len(class_names):
        raise UserError(
            f"{source}: has {len(names)} classes, the data set {len(class_names)}; choose another teacher or data set"
        )
    if unnamed(names):
        return tuple(range(len(names)))
    position = {_plain(name): i for i, name in enumerate(names)}
    if missing := [name for name in class_names if _plain(name) not in position]:
        raise UserError(
            f"{source}: {len(missing)} of the data set's classes are not among its labels ({', '.join(missing[:3])}; "
            f"it has {', '.join(sorted(names)[:3])}, …): it was trained on other classes; choose another, or "
            "correct id2label in its config.json"
        )
    return tuple(position[_plain(name)] for name in class_names)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _preprocessing(folder: Path, channels: int) -> Preprocessing:
    """Return what the folder's image processor does, to be applied to batches on any device.

    It is compared with the processor itself on an image, so a processor that does more is rejected.
    """
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        wanted = processor.to_dict()
        size, crop = _sizes(wanted)
        mode = MODES[int(wanted["resample"])] if size else "bilinear"
        normalization = _normalization(wanted, channels)
    except Exception as error:
        raise _unusable(folder, error) from error
    if len(normalization.mean) != channels:
        raise UserError(
            f"{folder}: takes images of {len(normalization.mean)} channels, the data set has {channels}; "
            "choose another teacher or data set"
        )
    found = Preprocessing(normalization, size, crop, mode)
    _check(found, processor, folder)
    return found


def _check(found: Preprocessing, processor: Any, folder: Path) -> None:
    """Raise UserError unless the processor and `resize` agree on a smooth probe to one level of brightness.

    (At sharp edges the processors differ by a few levels: they round between the two passes of a filter.)
    """
    channel, y, x = torch.meshgrid(*map(torch.arange, (len(found.normalization.mean), 32, 32)), indexing="ij")
    probe = (3 * x + 4 * y + 10 * channel).byte()
    theirs = torch.as_tensor(
        processor(images=[probe], input_data_format="channels_first", return_tensors="pt")["pixel_values"]
    )
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in _statistics(found.normalization))
    ours = resize((probe[None] / 255 - mean) / std, found)
    if theirs.shape != ours.shape or ((theirs - ours).abs() * std).max() > 1.01 / 255:
        raise UserError(
            f"{folder}: its {type(processor).__name__} does more to an image than resize, crop and normalise it, "
            "which is not supported; choose another teacher"
        )


def _sizes(wanted: dict[str, Any]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Return the sizes to resize and to crop to, for square images; None where the processor does not."""
    size = _pair(wanted["size"]) if wanted.get("do_resize") else None
    crop = _pair(wanted["crop_size"]) if wanted.get("do_center_crop") else None
    share = wanted.get("crop_pct")
    if size and share and "shortest_edge" in wanted["size"] and size[0] < 384:  # as in ConvNext's processor
        size, crop = (int(size[0] / share), int(size[1] / share)), size
    return size, crop


def _pair(size: dict[str, int]) -> tuple[int, int]:
    edge = size.get("shortest_edge")
    return (edge, edge) if edge else (size["height"], size["width"])


def _normalization(wanted: dict[str, Any], channels: int) -> Normalization:
    """Return the normalisation of images in [0, 1]; the processor's own is for pixels of 0 to 255 times its factor."""
    mean, std = (0.0,) * channels, (1.0,) * channels
    if wanted.get("do_normalize"):
        mean, std = tuple(wanted["image_mean"]), tuple(wanted["image_std"])
    full = 255 * wanted["rescale_factor"] if wanted.get("do_rescale") else 255.0
    return Normalization(tuple(m / full for m in mean), tuple(s / full for s in std))


def _unusable(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder}: no image classifier of the transformers library as safetensors ({first_line(error)}); give "
        "a folder that save_pretrained wrote for AutoModelForImageClassification and its AutoImageProcessor"
    )


def _quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
