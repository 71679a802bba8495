"""Checkpoint files: read, checked against an architecture, and saved."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdq.errors import UserError, first_line
from kdq.models.classifier import Classifier, Normalization, build
from kdq.store.files import content_hash
from kdq.store.stage import Json

IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""The normalisation that ImageNet weights expect, as do published `.th` checkpoints for CIFAR (Idelbayev 2018)."""

PREFIXES = ("module.", "net.")
"""The prefixes that wrappers add to every key: torch's DataParallel, our Classifier."""

BUFFERS_TO_IGNORE = "num_batches_tracked"
REMEDY = "download its weights on another machine and use ARCH:PATH"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`ARCH:PATH`: weights in a file. normalization: the one their source declares, if any."""

    arch: str
    path: Path
    normalization: Normalization | None = None

    def identity(self) -> Json:
        """Return the architecture, content (not path) and, if declared, normalisation of the weights."""
        own = self.normalization
        normalization = own and {"mean": own.mean, "std": own.std}
        return {
            "arch": self.arch,
            "sha256": content_hash(_existing(self.path)),
            "normalization": normalization,
        }


def load(spec: Checkpoint, *, classes: int, normalization: Normalization) -> Classifier:
    """Load the classifier that `spec` names, in evaluation mode on the CPU.

    normalization: used if the weights' source declares none. A Hub repository whose configuration has mean and
    std declares one, as does a safetensors file written by `save`; a declared one takes precedence. Nothing
    else is guessed. Raises UserError if the file is missing or damaged, holds code, has another number of
    classes or channels, or its keys and shapes do not fit the architecture.
    """
    state = read_state(spec.path)
    own = spec.normalization or saved_normalization(spec.path) or normalization
    if len(own.mean) != len(normalization.mean):
        raise UserError(
            f"{spec.path}: its weights take images of {len(own.mean)} channels, the data set has "
            f"{len(normalization.mean)}; choose another teacher or data set"
        )
    model = build(spec.arch, classes=classes, normalization=own, seed=0)
    _check_fit(spec, state, model.net.state_dict())
    model.net.load_state_dict(state, strict=False)  # num_batches_tracked may be absent; the rest was checked
    return model.eval()


def save(model: Classifier, path: Path) -> None:
    """Save the weights as safetensors that `ARCH:PATH` reads, with the normalisation as metadata."""
    save_state(model.net.state_dict(), model.normalization, path)


def save_state(state: Mapping[str, Tensor], normalization: Normalization, path: Path) -> None:
    """Save a state_dict in the same format, without a model."""
    plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    # One metadata key: safetensors writes several in random order, and the same weights must give the same bytes.
    save_file(plain, path, metadata={"normalization": json.dumps(asdict(normalization))})


def saved_normalization(path: Path) -> Normalization | None:
    """Return the normalisation that `save` stored in a safetensors file; None for every other file."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("normalization")
    return None if text is None else _normalization(_json_object(text, str(path)), str(path))


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a torch checkpoint or a safetensors file by key, without wrappers and prefixes.

    A torch checkpoint is read with weights_only=True: one that holds code is rejected, never run.
    """
    _existing(path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises almost any exception for damaged bytes
        raise UserError(
            f"{path}: not a valid checkpoint of plain tensors ({first_line(error)}); download it again, or save "
            f"only its state_dict"
        ) from error
    return _unwrap(path, state)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: there is no such checkpoint; give ARCH:PATH of an existing file")
    return path


def _unwrap(path: Path, state: object) -> dict[str, Tensor]:
    if isinstance(state, Mapping) and "state_dict" in state:
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: holds no state_dict of tensors; save the model's state_dict()")
    tensors = {str(key): value for key, value in state.items()}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _check_fit(spec: Checkpoint, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise UserError, naming the first offending key, unless both have the same keys and shapes."""
    needed = {key for key in expected if not key.endswith(BUFFERS_TO_IGNORE)}
    missing = [key for key in expected if key in needed - state.keys()]
    extra = [key for key in state if key not in expected and not key.endswith(BUFFERS_TO_IGNORE)]
    misshapen = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if not (missing or extra or misshapen):
        return
    head = [key for key in expected if key in needed][-2:]  # weight and bias of the classifier
    if not (missing or extra) and misshapen == head:
        raise UserError(
            f"{spec.path}: has {len(state[head[0]])} classes, the data set {len(expected[head[0]])}; "
            f"choose another teacher or data set"
        )
    first = (misshapen or missing or extra)[0]
    raise UserError(
        f"{spec.path}: does not fit {spec.arch}: {first}: expected shape {_shape(expected, first)}, found "
        f"{_shape(state, first)} ({len(missing)} keys missing, {len(extra)} unexpected, {len(misshapen)} of "
        f"another shape); name the architecture it was saved from"
    )


def _shape(state: Mapping[str, Tensor], key: str) -> str:
    return str(list(state[key].shape)) if key in state else "none"


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
        mean, std = ([float(value) for value in fields[key]] for key in ("mean", "std"))
        return Normalization(tuple(mean), tuple(std))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place}: mean and std must be lists of numbers, std > 0 ({error!r})") from error
