"""Where a teacher comes from: a checkpoint file, the Hugging Face Hub, or a training run of our own.

A teacher is named by one word: `ARCH:PATH`, `hub:REPO[@REVISION]`, `transformers:REPO[@REVISION]` or
`transformers:FOLDER`, `train` or `train:ARCH`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdq.errors import UserError, first_line, unknown
from kdq.models import ARCHITECTURES, Classifier, Normalization, build, check_architecture
from kdq.parquet import content_hash
from kdq.stages import Json

IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What published CIFAR checkpoints of the `.th` kind expect (Idelbayev 2018), as ImageNet's do."""

PREFIXES = ("module.", "net.")
"""What wrappers put before every key: torch's DataParallel, our Classifier."""

BUFFERS_TO_IGNORE = "num_batches_tracked"
REPOSITORY = r"[\w.-]+/[\w.-]+(@[\w./-]+)?"
PRETRAINED_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")
REMEDY = "download its weights on another machine and use ARCH:PATH"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`ARCH:PATH`: weights in a file. normalization: what its source says they expect, if it says so."""

    arch: str
    path: Path
    normalization: Normalization | None = None

    def identity(self) -> Json:
        """Architecture, content (not path) and, if its source gives one, normalisation of the weights."""
        own = self.normalization
        normalization = own and {"mean": own.mean, "std": own.std}
        return {
            "arch": self.arch,
            "sha256": content_hash(_existing(self.path)),
            "normalization": normalization,
        }


@dataclass(frozen=True, slots=True)
class Hub:
    """`hub:REPO[@REVISION]`: a ResNet with the CIFAR stem on the Hugging Face Hub."""

    repo: str
    revision: str | None = None

    def fetch(self) -> Checkpoint:
        """Download it (or find it in the Hub's own cache). Raises UserError if it is not to be had."""
        config = _hub_config(self, _download(self, "config.json"))
        path = _download(self, "model.safetensors", "pytorch_model.bin")
        return Checkpoint(_hub_arch(self, config), path, _hub_normalization(self, config))

    def identity(self) -> Json:
        """That of the weights it stands for today: a moved revision is another teacher."""
        return self.fetch().identity()


@dataclass(frozen=True, slots=True)
class Transformers:
    """`transformers:FOLDER` or `transformers:REPO[@REVISION]`: an image classifier of the transformers library."""

    source: str | Path
    revision: str | None = None

    def fetch(self) -> Path:
        """Its folder, downloaded if it is a repository. Raises UserError if it is not to be had."""
        if isinstance(self.source, Path):
            if not self.source.is_dir():
                raise UserError(f"transformers:{self.source}: there is no such folder; give one, or OWNER/NAME")
            return self.source
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.source, revision=self.revision, allow_patterns=list(PRETRAINED_FILES)))
        except Exception as error:  # no network, no such repository or revision, no permission, ...
            raise UserError(
                f"transformers:{self.source}: cannot be had ({first_line(error)}); download it on another machine and "
                "use transformers:FOLDER"
            ) from error

    def files(self) -> list[Path]:
        """The files that determine what it says: configurations and safetensors, no code and no pickles."""
        folder = self.fetch()
        return sorted(path for pattern in PRETRAINED_FILES for path in folder.glob(pattern))

    def identity(self) -> Json:
        """Name and content of each of its files."""
        return {"files": {path.name: content_hash(path) for path in self.files()}}


@dataclass(frozen=True, slots=True)
class Trained:
    """`train` or `train:ARCH`: trained here by the workload's recipe; None leaves `arch` to the workload."""

    arch: str | None = None

    def identity(self) -> Json:
        """The architecture alone; data, recipe and seed are for the caller to add."""
        return {"arch": self.arch}


TeacherSpec = Checkpoint | Hub | Transformers | Trained


def _parse_hub(text: str) -> Hub:
    if not re.fullmatch(REPOSITORY, text):
        raise UserError(f"teacher 'hub:{text}': must be hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    repo, _, revision = text.partition("@")
    return Hub(repo, revision or None)


def _parse_transformers(text: str) -> Transformers:
    folder = Path(text).expanduser()
    if text and (folder.is_dir() or text.startswith((".", "/", "~"))):
        return Transformers(folder.absolute())
    if not re.fullmatch(REPOSITORY, text):
        raise UserError(
            f"teacher 'transformers:{text}': must be transformers:FOLDER, OWNER/NAME or OWNER/NAME@REVISION"
        )
    repo, _, revision = text.partition("@")
    return Transformers(repo, revision or None)


def _parse_trained(text: str) -> Trained:
    if text:
        check_architecture(text)
    return Trained(text or None)


KINDS: dict[str, Callable[[str], TeacherSpec]] = {
    "hub": _parse_hub,
    "transformers": _parse_transformers,
    "train": _parse_trained,
}
"""First word of a teacher that is not ARCH:PATH -> function of the text after the colon."""


def parse_spec(text: str) -> TeacherSpec:
    """The teacher that `text` names. A relative path is taken from the current folder, once and for all.

    Raises UserError for a word of another form and for unknown architectures. Reads no file.
    """
    head, _, rest = text.partition(":")
    if head in KINDS:
        return KINDS[head](rest)
    if head not in ARCHITECTURES:
        raise unknown("teacher", head, [*KINDS, *ARCHITECTURES])
    if not rest:
        raise UserError(f"teacher {text!r}: no file is named; use {head}:PATH, or train:{head} to train one")
    return Checkpoint(head, Path(rest).expanduser().absolute())


def find_checkpoint(data_dir: Path, pattern: str) -> Path:
    """The one file under `data_dir`/checkpoints whose name matches `pattern` (as in `resnet56*.th`)."""
    found = sorted((data_dir / "checkpoints").glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"{data_dir / 'checkpoints' / pattern}: exactly one file must match, found {names}; "
            f"name the teacher with --teacher ARCH:PATH"
        )
    return found[0].absolute()


def load(spec: Checkpoint | Hub, *, classes: int, normalization: Normalization) -> Classifier:
    """The classifier that `spec` names, in evaluation mode on the CPU.

    normalization: what the weights expect if their source does not say so itself, as a safetensors file
    written by `save` does, and a Hub repository whose configuration has mean and std; that goes first.
    Nothing else is guessed. Raises UserError if the file is missing or damaged, holds code, has another
    number of classes or channels, or its keys and shapes do not fit the architecture.
    """
    if isinstance(spec, Hub):
        spec = spec.fetch()
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
    """Write the weights as safetensors that `ARCH:PATH` reads, normalisation included as metadata."""
    save_state(model.net.state_dict(), model.normalization, path)


def save_state(state: Mapping[str, Tensor], normalization: Normalization, path: Path) -> None:
    """The same for weights without a model around them."""
    plain = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    # One key: safetensors writes several in random order, and the same weights must give the same bytes.
    save_file(plain, path, metadata={"normalization": json.dumps(asdict(normalization))})


def saved_normalization(path: Path) -> Normalization | None:
    """What a safetensors file written by `save` says its weights expect; None for every other file."""
    if path.suffix != ".safetensors":
        return None
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("normalization")
    return None if text is None else _normalization(_json_object(text, str(path)), str(path))


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors by key of a torch checkpoint or a safetensors file, wrappers and prefixes removed.

    A torch checkpoint is read with weights_only=True: one that holds code is refused, never run.
    """
    _existing(path)
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises nearly anything for damaged bytes
        raise UserError(
            f"{path}: not a whole checkpoint of plain tensors ({first_line(error)}); download it again, or save "
            f"its state_dict alone"
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
    """Raise UserError unless both have the same keys and shapes; the first offending key is named."""
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
        f"{spec.path}: does not fit {spec.arch}: {first} is expected {_shape(expected, first)}, found "
        f"{_shape(state, first)} ({len(missing)} keys missing, {len(extra)} unexpected, {len(misshapen)} of "
        f"another shape); name the architecture that it was saved from"
    )


def _shape(state: Mapping[str, Tensor], key: str) -> str:
    return f"as {list(state[key].shape)}" if key in state else "nowhere"


def _download(hub: Hub, *names: str) -> Path:
    """Local path of the first of the files that the repository has."""
    from huggingface_hub import hf_hub_download

    errors = []
    for name in names:
        try:
            return Path(hf_hub_download(hub.repo, name, revision=hub.revision))
        except Exception as error:  # no network, no such repository, revision or file, no permission, ...
            errors.append(error)
    raise UserError(
        f"hub:{hub.repo}: {' or '.join(names)} cannot be had ({first_line(errors[-1])}); {REMEDY}"
    ) from errors[-1]


def _hub_config(hub: Hub, path: Path) -> dict[str, Json]:
    """The configuration, fields of its `pretrained_cfg` (timm's place for mean and std) beneath its own."""
    config = _json_object(path.read_text(errors="replace"), f"hub:{hub.repo}: config.json")
    beneath = config.get("pretrained_cfg")
    return {**beneath, **config} if isinstance(beneath, dict) else config


def _json_object(text: str, place: str) -> dict[str, Json]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON ({error}); {REMEDY}") from error
    if not isinstance(value, dict):
        raise UserError(f"{place}: not a JSON object; {REMEDY}")
    return value


def _hub_arch(hub: Hub, config: Mapping[str, Json]) -> str:
    """The architecture that the configuration, or else the repository's name, has as one of its words."""
    for text in (config.get("architecture"), hub.repo.split("/")[1]):
        for word in re.split(r"[^a-z0-9]+", str(text).lower()):
            if word in ARCHITECTURES:
                return word
    raise UserError(
        f"hub:{hub.repo}: neither config.json nor the name says which architecture it is; known: "
        f"{', '.join(ARCHITECTURES)}; {REMEDY}"
    )


def _hub_normalization(hub: Hub, config: Mapping[str, Json]) -> Normalization | None:
    if "mean" not in config and "std" not in config:
        return None
    return _normalization(config, f"hub:{hub.repo}: config.json")


def _normalization(fields: Mapping[str, Json], place: str) -> Normalization:
    try:
        mean, std = ([float(value) for value in fields[key]] for key in ("mean", "std"))
        return Normalization(tuple(mean), tuple(std))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place}: mean and std must be lists of numbers, std > 0 ({error!r})") from error
