"""Image classifiers of the transformers library (ViT, BiT, ResNet, …) as teachers.

Each is wrapped as a `Classifier`: it takes the student's images unchanged, resizes and normalises them on
their device, and returns logits in the data set's label order. It is loaded from a folder of safetensors and
JSON; code that comes with a model is never run. What the JSON describes is limited by the weights beside it, so that
a wrong number is refused before it takes memory or time.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from kdq.errors import UserError, printable
from kdq.models.checkpoint_file import check_kind
from kdq.models.classifier import Classifier, build
from kdq.models.modules import bounded
from kdq.models.preprocessing import Preprocessing, preprocessing_of, resize
from kdq.models.sources import pinned
from kdq.models.transformers_nets import Logits

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
LARGEST_JSON = 10_000_000  # bytes: the labels of ImageNet-21k take 2 MB
MOST_VALUES = 100_000  # in JSON: those labels are 44,000
LARGEST_NUMBER = 1_000_000


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


def load_pretrained(
    folder: Path, class_names: Sequence[str], channels: int, size: tuple[int, int] | None = None
) -> Classifier:
    """Load the classifier in a folder (config.json, preprocessor_config.json, model.safetensors), in evaluation mode.

    class_names: those of the data set, in its order; channels: of its images; size: their height and width, None if
    unknown, in which case a model that does not resize them is not tried on one. The architecture is named
    `transformers:TYPE`, such as `transformers:vit`. Raises UserError if the folder does not hold a complete image
    classifier of the library, or holds one for other classes or another number of channels.
    """
    config = _config(folder)
    order = label_order(_labels(folder, config), class_names, str(folder))
    preprocessing = _preprocessing(folder, channels)
    model = _model(folder, config)
    net = Pretrained(model, preprocessing, order)
    loaded = Classifier(f"transformers:{config.model_type}", net, len(class_names), preprocessing.normalization).eval()
    _try(folder, loaded, size or preprocessing.size)
    return loaded


def as_network(loaded: Classifier, folder: Path, size: tuple[int, int]) -> Classifier | None:
    """Return what `load_pretrained` returned as a network by its configuration, which can be quantized and packed.

    size: height and width of the images. None if the model resizes such images, is not the first classifier of its
    type, or has no last linear layer whose rows could be put in the order of the data set's classes.
    """
    pretrained = loaded.net
    assert isinstance(pretrained, Pretrained)
    wanted, state = pretrained.preprocessing, pretrained.model.state_dict()
    if wanted.size not in (None, size) or wanted.crop not in (None, size):
        return None
    arch = pinned(f"transformers:{folder}")
    network = build(arch, classes=loaded.classes, normalization=loaded.normalization, seed=0)
    assert isinstance(network.net, Logits)
    own = network.net.model.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
        return None
    last = [name for name, _ in pretrained.model.named_parameters()][-1].rpartition(".")[0]
    if not isinstance(pretrained.model.get_submodule(last), nn.Linear):
        return None
    rows = {name: value[pretrained.order] for name, value in state.items() if name.rpartition(".")[0] == last}
    network.net.model.load_state_dict({**state, **rows})
    return network.eval()


def labels(folder: Path) -> tuple[str, ...]:
    """Return the labels of the model's outputs in order. Raises UserError if the folder has no model configuration."""
    return _labels(folder, _config(folder))


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


def _config(folder: Path) -> Any:
    """Return the library's configuration of the model."""
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what matters of its warnings is an error of ours
    _check_json(folder, CONFIG)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises almost any exception for a damaged or foreign folder
        raise _unusable(folder, error) from error


def _labels(folder: Path, config: Any) -> tuple[str, ...]:
    try:
        return tuple(str(config.id2label[i]) for i in range(config.num_labels))
    except Exception as error:
        raise _unusable(folder, error) from error


def _check_json(folder: Path, name: str) -> None:
    """Raise UserError unless the file is a JSON object of a reasonable size, with numbers of a reasonable size.

    The library takes as much memory and time as they ask for.
    """
    try:
        if (folder / name).stat().st_size > LARGEST_JSON:
            raise ValueError(f"{name} has more than {LARGEST_JSON:,} bytes")
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise TypeError(f"{name} is no JSON object")
        for count, (key, value) in enumerate(_values(fields)):
            largest = MOST_VALUES if key == "num_labels" else LARGEST_NUMBER
            if isinstance(value, int) and abs(value) > largest:
                raise ValueError(f"{name}: a number of {key!r} is beyond {largest:,}")
            if count >= MOST_VALUES:
                raise ValueError(f"{name} has more than {MOST_VALUES:,} values")
    except Exception as error:  # missing, unreadable, no JSON, nested too deep
        raise _unusable(folder, error) from error


def _values(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every value in JSON, with the key that it is under, itself or in lists."""
    todo: list[tuple[str, Any]] = list(fields.items())
    while todo:
        key, value = todo.pop()
        yield key, value
        if isinstance(value, list):
            todo += [(key, item) for item in value]
        elif isinstance(value, dict):
            todo += value.items()


def _preprocessing(folder: Path, channels: int) -> Preprocessing:
    """Return what the folder's image processor does."""
    from transformers import AutoImageProcessor

    _check_json(folder, PROCESSOR)
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        settings = processor.to_dict()
        own = len(settings["image_mean"]) if settings.get("do_normalize") else channels
        if own == channels:
            return preprocessing_of(processor, channels)
    except Exception as error:
        raise _unusable(folder, error) from error
    raise UserError(
        f"{folder}: takes images of {own} channels, the data set has {channels}; choose another teacher or data set"
    )


def _model(folder: Path, config: Any) -> nn.Module:
    """Return the model with its weights. Raises UserError if they are not those that its configuration describes."""
    from transformers import AutoModelForImageClassification

    for file in filter(Path.is_file, folder.glob("*.safetensors")):
        check_kind(file)
    try:
        _check_extent(folder, config)
        model, info = AutoModelForImageClassification.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, with their names
            dtype=torch.float32,
        )
    except Exception as error:
        raise _unusable(folder, error) from error
    _check_weights(folder, model, info)
    assert isinstance(model, nn.Module)
    return model


def _check_extent(folder: Path, config: Any) -> None:
    """Raise ValueError if the configuration describes a model of more weights than there are; it is not built then."""
    from transformers import AutoModelForImageClassification

    tensors, values = _extent(folder)
    with torch.device("meta"), bounded(CONFIG, tensors=tensors):
        described = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    if (wanted := sum(parameter.numel() for parameter in described.parameters())) > values:
        raise ValueError(f"{CONFIG} describes a model of {wanted:,} weights, its safetensors hold {values:,}")


def _extent(folder: Path) -> tuple[int, int]:
    """Return how many tensors there are in the folder's safetensors, and how many values in them."""
    tensors, values = 0, 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118
                tensors, values = tensors + 1, values + torch.Size(weights.get_slice(key).get_shape()).numel()
    return tensors, values


def _check_weights(folder: Path, model: Any, info: dict[str, Any]) -> None:
    """Raise UserError if weights are missing, left over, of another shape, or not finite."""
    if info["missing_keys"]:
        raise UserError(
            f"{folder}: its weights lack {min(info['missing_keys'])} and {len(info['missing_keys']) - 1} others, "
            "which would be random: not a trained image classifier; fine-tune it first, or choose another teacher"
        )
    if info["mismatched_keys"]:
        key, found, wanted = min((key, list(a), list(b)) for key, a, b in info["mismatched_keys"])
        raise UserError(
            f"{folder}: {key} has shape {found}, {CONFIG} describes {wanted}; copy both files from the same model"
        )
    if left := sorted(key for key in info["unexpected_keys"] if re.search(r"\.\d+\..*\.(weight|bias)$", key)):
        raise UserError(
            f"{folder}: {CONFIG} describes a model without {printable(left[0])} and {len(left) - 1} others of its "
            "weights; copy both files from the same model"
        )
    for key, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{folder}: {key} has NaN or infinite values; choose another teacher")


@torch.inference_mode()
def _try(folder: Path, model: Classifier, size: tuple[int, int] | None) -> None:
    """Raise UserError unless the model gives finite logits for an image."""
    if size is None:
        return
    try:
        logits = model(torch.full((1, model.mean.numel(), *size), 0.5))
        if logits.shape != (1, model.classes) or not torch.isfinite(logits).all():
            raise ValueError(f"its logits of an image are {logits.dtype} {list(logits.shape)}, or not finite")
    except Exception as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: Exception) -> UserError:
    what = " ".join(printable(line).strip() for line in str(error).splitlines())
    what = what if len(what) <= 300 else f"{what[:300]}…"
    name = "" if isinstance(error, ValueError) and what else f"{type(error).__name__}: "
    return UserError(
        f"{folder}: no image classifier of the transformers library as safetensors ({name}{what}); give "
        "a folder that save_pretrained wrote for AutoModelForImageClassification and its AutoImageProcessor"
    )
