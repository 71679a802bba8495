"""Image classifiers of the transformers library as networks, built from their configuration with new weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdq.errors import UserError, first_line, printable, unknown
from kdq.models.checkpoint_file import read

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
CONFIG, WEIGHTS = "config.json", "model.safetensors"
NUMBERED = re.compile(r"\.\d+\..*\.(weight|bias)$")
"""Names of weights of one of several layers: a model without them is another one."""

FOREIGN = {"timm_wrapper"}
"""Types whose settings reach another library's builder, which can read files: timm has a source of its own."""

LARGEST_CONFIG = 10_000_000
"""Bytes of a configuration: the labels of ImageNet-21k take 2 MB."""

OURS = (
    "id2label", "label2id", "num_labels", "num_channels", "architectures", "transformers_version", "dtype",
    "torch_dtype",
)  # fmt: skip
"""Settings that depend on the data set, or that no network depends on: ours are float32."""


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
        file = _download(name, CONFIG)
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
    return Logits(AutoModelForImageClassification.from_config(config, trust_remote_code=False, dtype=torch.float32))


def own_weights(name: str) -> Path:
    """Return the file of the weights that a folder or repository has: model.safetensors, downloaded if it is missing.

    Raises UserError if there is none, as of a type, or where the weights are in several files.
    """
    folder = Path(name).expanduser()
    if name in _types():
        raise UserError(f"transformers:{name}: a type has no weights; give a folder or repository, or weights=FILE")
    if not folder.is_dir():
        return _download(name, WEIGHTS)
    if not (folder / WEIGHTS).is_file():
        raise UserError(
            f"transformers:{name}: has no {WEIGHTS}; save the model again with save_pretrained, in one file"
        )
    return (folder / WEIGHTS).absolute()


def start_from(net: Logits, file: Path, key: str | None = None) -> None:
    """Give a model the weights in a file that save_pretrained wrote; the library renames those of earlier versions.

    The last layer stays as it is where it has another shape, as for other classes, or is absent; so does the first
    convolution for images of other channels. Raises UserError for weights that are damaged, or do not fit otherwise.
    """
    weights = read(file)
    if key is not None or not isinstance(weights, Mapping) or not all(map(torch.is_tensor, weights.values())):
        raise UserError(f"{file}: must hold the weights of a model of transformers alone; give its {WEIGHTS}")
    found, info = _loaded(net.model, weights, file)
    last = [name for name, _ in net.model.named_parameters()][-1].rpartition(".")[0]
    other = {name: (tuple(theirs), tuple(ours)) for name, theirs, ours in info["mismatched_keys"]}
    new = {name for name in {*info["missing_keys"], *other} if name.startswith(f"{last}.")}
    new |= {name for name, shapes in other.items() if _differ_in_channels(*shapes)}
    if lacking := sorted(info["missing_keys"] - new):
        raise UserError(f"{file}: lacks {lacking[0]} and {len(lacking) - 1} others; give weights of the same type")
    if misshapen := sorted(other.keys() - new):
        theirs, ours = other[misshapen[0]]
        raise UserError(
            f"{file}: {misshapen[0]} has shape {list(theirs)}, the model's {list(ours)}; leave options that change the "
            "shapes out, or give other weights"
        )
    if left := sorted(name for name in info["unexpected_keys"] if NUMBERED.search(name)):
        raise UserError(f"{file}: the model has no {printable(left[0])}; give weights of the same type")
    net.model.load_state_dict({name: value for name, value in found.items() if name not in new}, strict=False)


def _loaded(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of a new model of the same configuration with these weights, and what did not fit."""
    from transformers import PreTrainedModel
    from transformers.utils import logging

    assert isinstance(model, PreTrainedModel)
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what matters of its report is an error of ours
    options = {"ignore_mismatched_sizes": True, "output_loading_info": True, "dtype": torch.float32}
    try:
        found, info = type(model).from_pretrained(None, config=model.config, state_dict=dict(weights), **options)
    except Exception as error:  # the library raises almost any exception
        raise UserError(f"{file}: transformers cannot load it ({first_line(error)}); give another file") from error
    return found.state_dict(), info


def _differ_in_channels(theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Return whether two shapes are those of a convolution for images of other channels."""
    return len(theirs) == len(ours) == 4 and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:])


def is_type(name: str) -> bool:
    """Return whether the name is a type of image classifier: those that need no folder or repository."""
    return name in _types()


def _types() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    return [name for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if name not in FOREIGN]


def _download(repository: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    except Exception as error:  # no network, no such repository, no permission, ...
        raise UserError(
            f"transformers:{repository}: {file} is unavailable ({first_line(error)}); download it on another machine "
            "and use transformers:FOLDER"
        ) from error
