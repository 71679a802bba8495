"""Where a teacher comes from: a checkpoint file, the Hugging Face Hub, or a training run of our own.

A teacher is specified by one string: `ARCH:PATH[#KEY]`, `SOURCE:NAME?weights=PATH[#KEY]` (see kdq.models.sources),
`hub:REPO[@REVISION]`, `transformers:REPO[@REVISION]` or
`transformers:FOLDER`, `train` or `train:ARCH`. KEY says which of several weights in a file is meant, as in
`resnet20:FILE#state_dict_ema`.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdq.errors import UserError, first_line, unknown
from kdq.models.architecture import WEIGHTS
from kdq.models.checkpoint import (
    REMEDY,
    Checkpoint,
    _json_object,
    _normalization,
)
from kdq.models.classifier import Normalization, check_architecture
from kdq.models.libraries import SOURCES
from kdq.models.resnets import ARCHITECTURES
from kdq.models.sources import identity, pinned, split_weights, weights_file
from kdq.store.files import content_hash
from kdq.store.stage import Json

REPOSITORY = r"[\w.-]+/[\w.-]+(@[\w./-]+)?"
PRETRAINED_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True, slots=True)
class Hub:
    """`hub:REPO[@REVISION]`: a ResNet with the CIFAR stem on the Hugging Face Hub."""

    repo: str
    revision: str | None = None

    def fetch(self) -> Checkpoint:
        """Download it, or find it in the Hub's cache. Raises UserError if it is unavailable."""
        config = _hub_config(self, _download(self, "config.json"))
        path = _download(self, "model.safetensors", "pytorch_model.bin")
        return Checkpoint(_hub_arch(self, config), path, _hub_normalization(self, config))

    def identity(self) -> Json:
        """Return the identity of the weights it currently resolves to: a moved revision is another teacher."""
        return self.fetch().identity()


@dataclass(frozen=True, slots=True)
class Transformers:
    """`transformers:FOLDER` or `transformers:REPO[@REVISION]`: an image classifier of the transformers library."""

    source: str | Path
    revision: str | None = None

    def fetch(self) -> Path:
        """Return its folder, downloaded if it is a repository. Raises UserError if it is unavailable."""
        if isinstance(self.source, Path):
            if not self.source.is_dir():
                raise UserError(f"transformers:{self.source}: there is no such folder; give one, or OWNER/NAME")
            return self.source
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.source, revision=self.revision, allow_patterns=list(PRETRAINED_FILES)))
        except Exception as error:  # no network, no such repository or revision, no permission, ...
            raise UserError(
                f"transformers:{self.source}: unavailable ({first_line(error)}); download it on another machine and "
                "use transformers:FOLDER"
            ) from error

    def files(self) -> list[Path]:
        """Return the files that determine its logits: configurations and safetensors, no code and no pickles."""
        folder = self.fetch()
        return sorted(path for pattern in PRETRAINED_FILES for path in folder.glob(pattern))

    def identity(self) -> Json:
        """Return name and content hash of each of its files. Raises UserError if one cannot be read."""
        try:
            return {"files": {path.name: content_hash(path) for path in self.files()}}
        except OSError as error:  # a dangling link, a folder of that name, no permission
            raise UserError(f"transformers:{self.source}: {error.filename}: {error.strerror}; copy it again") from error


@dataclass(frozen=True, slots=True)
class Trained:
    """`train` or `train:ARCH`: trained here by the workload's recipe; arch: None for the workload's."""

    arch: str | None = None

    def identity(self) -> Json:
        """Return the architecture alone; the caller adds data, recipe and seed."""
        return {"arch": self.arch and identity(self.arch)}


TeacherSpec = Checkpoint | Hub | Transformers | Trained


def _parse_hub(text: str) -> Hub:
    if not re.fullmatch(REPOSITORY, text):
        raise UserError(f"teacher 'hub:{text}': must be hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    repo, _, revision = text.partition("@")
    return Hub(repo, revision or None)


def _parse_transformers(text: str) -> Transformers:
    if text and (text.startswith((".", "/", "~")) or _path(text).is_dir()):
        return Transformers(_path(text))
    if not re.fullmatch(REPOSITORY, text):
        raise UserError(
            f"teacher 'transformers:{text}': must be transformers:FOLDER, OWNER/NAME or OWNER/NAME@REVISION"
        )
    repo, _, revision = text.partition("@")
    return Transformers(repo, revision or None)


def _parse_trained(text: str) -> Trained:
    if text:
        check_architecture(text)
    return Trained(pinned(text) if text else None)


KINDS: dict[str, Callable[[str], TeacherSpec]] = {
    "hub": _parse_hub,
    "transformers": _parse_transformers,
    "train": _parse_trained,
}
"""Prefix of a teacher that is not ARCH:PATH -> parser of the text after the colon."""


def parse_spec(text: str) -> TeacherSpec:
    """Return the teacher that `text` names. A relative path becomes absolute, from the current folder.

    Raises UserError for a string of another form, for unknown architectures, and for a path that the system refuses.
    Reads no file.
    """
    head, _, rest = text.partition(":")
    if head in KINDS:
        return KINDS[head](rest)
    if head in SOURCES:
        return _parse_sourced(text)
    if head not in ARCHITECTURES:
        raise unknown("teacher", head, [*KINDS, *SOURCES, *ARCHITECTURES])
    if not rest:
        raise UserError(f"teacher {text!r}: no file is named; use {head}:PATH, or train:{head} to train one")
    name, mark, key = rest.rpartition("#")
    if not (mark and name) or _path(rest).is_file():  # a # in the name of the file itself
        return Checkpoint(head, _path(rest))
    return Checkpoint(head, _path(name), key=key or None)


def _parse_sourced(text: str) -> Checkpoint:
    arch, weights = split_weights(text)
    check_architecture(arch)
    if weights is None:
        raise UserError(
            f"teacher {text!r}: no file of weights is named; add the option {WEIGHTS}=FILE, or use train:{text}"
        )
    path, key = weights_file(weights)
    return Checkpoint(pinned(arch), path, key=key)


def is_trained_here(text: str) -> bool:
    """Return whether a specification of a teacher or a peer is `train` or `train:ARCH`."""
    return text.partition(":")[0] == "train"


def _path(text: str) -> Path:
    """Return an absolute path. Raises UserError for one that cannot exist or be looked up."""
    try:
        path = Path(text).expanduser().absolute()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, no permission, an unknown ~user
        raise UserError(f"teacher {text!r}: {getattr(error, 'strerror', None) or error}; name another path") from error
    return path


def find_checkpoint(data_dir: Path, pattern: str) -> Path:
    """Return the one file under `data_dir`/checkpoints whose name matches `pattern` (as in `resnet56*.th`)."""
    found = sorted((data_dir / "checkpoints").glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(
            f"{data_dir / 'checkpoints' / pattern}: exactly one file must match, found {names}; "
            f"name the teacher with --teacher ARCH:PATH"
        )
    return found[0].absolute()


def _download(hub: Hub, *names: str) -> Path:
    """Return the local path of the first of the files that the repository has."""
    from huggingface_hub import hf_hub_download

    errors = []
    for name in names:
        try:
            return Path(hf_hub_download(hub.repo, name, revision=hub.revision))
        except Exception as error:  # no network, no such repository, revision or file, no permission, ...
            errors.append(error)
    raise UserError(
        f"hub:{hub.repo}: {' or '.join(names)} is unavailable ({first_line(errors[-1])}); {REMEDY}"
    ) from errors[-1]


def _hub_config(hub: Hub, path: Path) -> dict[str, Json]:
    """Return the configuration; fields it lacks come from its `pretrained_cfg` (timm's place for mean and std)."""
    config = _json_object(path.read_text(errors="replace"), f"hub:{hub.repo}: config.json")
    beneath = config.get("pretrained_cfg")
    return {**beneath, **config} if isinstance(beneath, dict) else config


def _hub_arch(hub: Hub, config: Mapping[str, Json]) -> str:
    """Return the architecture that is a word of the configuration's `architecture`, or of the repository's name."""
    for text in (config.get("architecture"), hub.repo.split("/")[1]):
        for word in re.split(r"[^a-z0-9]+", str(text).lower()):
            if word in ARCHITECTURES:
                return word
    raise UserError(
        f"hub:{hub.repo}: neither config.json nor the repository's name contains the name of an architecture; known: "
        f"{', '.join(ARCHITECTURES)}; {REMEDY}"
    )


def _hub_normalization(hub: Hub, config: Mapping[str, Json]) -> Normalization | None:
    if "mean" not in config and "std" not in config:
        return None
    return _normalization(config, f"hub:{hub.repo}: config.json")
