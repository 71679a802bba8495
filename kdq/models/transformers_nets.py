"""Image classifiers of the transformers library as networks, built from their configuration with new weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdq.errors import UserError, first_line, unknown

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
CONFIG = "config.json"
LARGEST_CONFIG = 10_000_000
"""Bytes of a configuration: the labels of ImageNet-21k take 2 MB."""

OURS = ("id2label", "label2id", "num_labels", "num_channels", "architectures", "transformers_version", "dtype")
"""Settings that depend on the data set, or that no network depends on."""


class Logits(nn.Module):
    """A model of the library that takes normalised images [N, C, H, W] and returns logits [N, classes]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=images).logits
        return logits


def check_name(name: str) -> None:
    """Raise UserError unless the name is a type of image classifier, a folder with config.json, or a repository."""
    known = _types()
    if name in known or (Path(name).expanduser() / CONFIG).is_file():
        return
    if Path(name).expanduser().is_dir():
        raise UserError(f"transformers:{name}: has no {CONFIG}; give a folder that save_pretrained wrote")
    if not REPOSITORY.fullmatch(name):
        raise unknown("type of image classifier of transformers, folder or repository", name, known)


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """Return the type of a model and the settings of its configuration, as in config.json.

    name: as in `check_name`; a repository's configuration is downloaded, or found in the Hub's cache. Raises UserError
    if it is unavailable, or that of no image classifier.
    """
    if name in _types():
        return name, {}
    file = Path(name).expanduser() / CONFIG
    if not file.is_file():
        file = _download(name)
    try:
        if file.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"has more than {LARGEST_CONFIG:,} bytes")
        fields = dict(json.loads(file.read_text(encoding="utf-8")))
        kind = fields.pop("model_type")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"transformers:{name}: {file}: no configuration of a model ({error!r}); copy it again"
        ) from error
    if kind not in _types():
        raise unknown(f"type of image classifier in {file}", str(kind), _types())
    return kind, {key: value for key, value in fields.items() if key not in OURS and not key.startswith("_")}


def build(kind: str, settings: Mapping[str, Any], classes: int, channels: int) -> nn.Module:
    """Build a model of that type with new weights; code from elsewhere is never run."""
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.for_model(kind, **settings, num_labels=classes, num_channels=channels)
    config.architectures = []  # of several classifiers of a type, the first
    return Logits(AutoModelForImageClassification.from_config(config, trust_remote_code=False))


def _types() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    return list(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)


def _download(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, CONFIG))
    except Exception as error:  # no network, no such repository, no permission, ...
        raise UserError(
            f"transformers:{repository}: {CONFIG} is unavailable ({first_line(error)}); download it on another machine "
            "and use transformers:FOLDER"
        ) from error
