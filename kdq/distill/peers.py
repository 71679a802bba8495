"""Initial weights of the second of two students: random, or trained on this data set or ImageNet.

Deep mutual learning needs two students with different initial weights. They are specified like a teacher, with one
more kind: `imagenet`, torchvision's weights.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdq.data.dataset import Dataset
from kdq.distill.teachers import Hub, Trained, Transformers, parse_spec
from kdq.errors import UserError
from kdq.models.checkpoint import IMAGENET, Checkpoint, normalization_of
from kdq.models.checkpoint_file import read
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.weights import Network, find_weights
from kdq.store.stage import digest

IMAGENET_WEIGHTS = {"resnet18": "ResNet18", "resnet34": "ResNet34", "resnet50": "ResNet50"}
"""Architecture -> torchvision's name for it."""


@dataclass(frozen=True, slots=True)
class ImageNet:
    """`imagenet`: torchvision's weights of the same architecture (IMAGENET1K_V1), downloaded once."""

    arch: str

    def fetch(self) -> Checkpoint:
        """Download the weights, or find them in torch's cache. Raises UserError if they are unavailable."""
        from torchvision.models import get_weight  # imports torch's compiler, as in kdq.models.resnets

        url = get_weight(f"{IMAGENET_WEIGHTS[self.arch]}_Weights.IMAGENET1K_V1").url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        try:
            torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # no network; a truncated file
            raise UserError(
                f"peer_init 'imagenet': {url} is unavailable ({error}); download it on another machine and use "
                f"{self.arch}:PATH"
            ) from error
        return Checkpoint(self.arch, path, IMAGENET)


PeerSpec = Checkpoint | Hub | Trained | ImageNet


def parse_peer(text: str, arch: str) -> PeerSpec:
    """Return the weights that `text` names for a peer of this architecture; reads no file. Raises UserError."""
    if text == "imagenet":
        if arch not in IMAGENET_WEIGHTS:
            known = ", ".join(IMAGENET_WEIGHTS)
            raise UserError(f"peer_init 'imagenet': weights are available for {known}, not for {arch}; use {arch}:PATH")
        return ImageNet(arch)
    try:
        spec = parse_spec(text)
    except UserError as error:
        raise UserError(f"peer_init {text!r}: {error}, or imagenet") from None
    if isinstance(spec, Transformers):
        raise UserError(f"peer_init {text!r}: a peer must be kdq's own {arch}; use {arch}:PATH, imagenet or train")
    if isinstance(spec, Checkpoint | Trained) and spec.arch not in (arch, None):
        raise UserError(f"peer_init {text!r}: both students must have the same architecture; name weights of a {arch}")
    return spec


def warm_start(spec: Checkpoint, arch: str, data: Dataset, seed: int) -> Classifier:
    """Return a student initialised from a checkpoint trained on this data set or on ImageNet.

    The first and the last layer stay random where the checkpoint's have another shape, as with ImageNet's 7x7 stem
    and 1,000 classes. Raises UserError for a checkpoint that is damaged or does not fit otherwise.
    """
    normalization = normalization_of(spec, data.normalization)
    student = build(arch, classes=data.classes, normalization=normalization, seed=seed)
    own, weights = student.net.state_dict(), peer_weights(spec, arch, data.classes, normalization)
    fitting = {name: value for name, value in weights.items() if value.shape == own[name].shape}
    student.net.load_state_dict(fitting, strict=False)
    return student


def peer_weights(spec: Checkpoint, arch: str, classes: int, normalization: Normalization) -> dict[str, Tensor]:
    """Return the weights in a checkpoint by their names in the architecture, first and last layer in any shape.

    Raises UserError for a checkpoint that is damaged or does not fit otherwise.
    """
    net = build(arch, classes=classes, normalization=normalization, seed=0).net
    names = [name for name, _ in net.named_parameters()]
    ends = tuple(name.split(".")[0] + "." for name in (names[0], names[-1]))  # `conv1.`, `linear.`
    return find_weights(read(spec.path), Network(arch, net.state_dict(), free=ends), spec.path, spec.key)


def peer_seed(seed: int) -> int:
    """Return the seed of the peer's initialisation, which no other student of the study has."""
    return int(digest(f"peer of {seed}")[:15], 16)
