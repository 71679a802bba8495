"""Checkpoints: the weights of an architecture in a file, loaded as a classifier, and saved."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from kdq.errors import UserError
from kdq.models import sources
from kdq.models.checkpoint_file import identity, metadata, read
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.modules import load_values
from kdq.models.sealed import write_sealed
from kdq.models.weights import Network, find_weights
from kdq.store.stage import Json

IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""The normalisation that ImageNet weights expect, as do published `.th` checkpoints for CIFAR (Idelbayev 2018)."""

ENTRY = "normalization"
"""Where a safetensors file of our own has the normalisation of its weights."""

REMEDY = "download its weights on another machine and use ARCH:PATH"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`ARCH:PATH`, or `ARCH:PATH#KEY`: weights in a file.

    normalization: the one their source declares, if any; key: which of the weights, where a file has several, such as
    weights and their average (`weights.Part.key`).
    """

    arch: str
    path: Path
    normalization: Normalization | None = None
    key: str | None = None

    def identity(self) -> Json:
        """Return the architecture, content (not path) and, if declared, key and normalisation of the weights.

        Raises UserError if the file is missing or cannot be read.
        """
        own = self.normalization
        normalization = own and {"mean": own.mean, "std": own.std}
        named = {} if self.key is None else {"key": self.key}
        weights = {"sha256": identity(self.path), "normalization": normalization, **named}
        return {"arch": sources.identity(self.arch), **weights}


def load(spec: Checkpoint, *, classes: int, normalization: Normalization) -> Classifier:
    """Load the classifier that `spec` names, in evaluation mode on the CPU.

    normalization: used if the weights' source declares none. A Hub repository whose configuration has mean and
    std declares one, as does a safetensors file written by `save`; a declared one takes precedence. Nothing
    else is guessed. Raises UserError if the file is missing or damaged, holds code, has another number of
    classes or channels, or if not exactly one set of weights in it fits the architecture and is finite.
    """
    content = read(spec.path)
    own = normalization_of(spec, normalization)
    model = build(spec.arch, classes=classes, normalization=own, seed=0)
    weights = find_weights(content, Network(spec.arch, model.net.state_dict()), spec.path, spec.key)
    load_values(model.net, weights)  # num_batches_tracked may be absent; the rest was checked
    return model.eval()


def save(model: Classifier, path: Path) -> None:
    """Save the weights as safetensors that `ARCH:PATH` reads, with the normalisation as metadata.

    The file has a SHA-256 of its content, so that reading it notices damage. Raises OSError if it cannot be written.
    """
    save_state(model.net.state_dict(), model.normalization, path)


def save_state(state: Mapping[str, Tensor], normalization: Normalization, path: Path) -> None:
    """Save a state_dict in the same format, without a model."""
    write_sealed(path, ENTRY, asdict(normalization), state)


def normalization_of(spec: Checkpoint, assumed: Normalization) -> Normalization:
    """Return the normalisation that the weights' source declares, or else `assumed`, that of the data set's images.

    Raises UserError if it is for another number of channels.
    """
    own = spec.normalization or saved_normalization(spec.path) or assumed
    if len(own.mean) != len(assumed.mean):
        raise UserError(
            f"{spec.path}: its weights take images of {len(own.mean)} channels, the data set has "
            f"{len(assumed.mean)}; choose other weights or another data set"
        )
    return own


def saved_normalization(path: Path) -> Normalization | None:
    """Return the normalisation that `save` stored in a safetensors file; None for every other file."""
    text = metadata(path).get(ENTRY)
    return None if text is None else _normalization(_json_object(text, str(path)), str(path))


def _json_object(text: str, place: str) -> dict[str, Json]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}); {REMEDY}") from error
    if not isinstance(value, dict):
        raise UserError(f"{place}: not a JSON object; {REMEDY}")
    return value


def _normalization(fields: Mapping[str, Json], place: str) -> Normalization:
    try:
        mean, std = (_numbers(fields[key]) for key in ("mean", "std"))
        return Normalization(mean, std)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{place}: mean and std must be lists of numbers, std > 0 ({error!r})") from error


def _numbers(value: Json) -> tuple[float, ...]:
    if not isinstance(value, list) or not all(type(number) in (int, float) for number in value):
        raise TypeError(f"{value!r} is no list of numbers")
    return tuple(map(float, value))
