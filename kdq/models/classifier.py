"""A classifier: an architecture by name, with the normalisation that its weights expect, and what its images are."""

from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor, nn

from kdq.errors import UserError, unknown
from kdq.models.float32 import without_autocast
from kdq.models.sources import build_network, parse_architecture

_SEEDED = Lock()
"""Held while PyTorch's random numbers, which all threads share, are those of a seed."""

LARGEST, SMALLEST = torch.finfo(torch.float32).max, torch.finfo(torch.float32).smallest_normal


@dataclass(frozen=True, slots=True)
class Normalization:
    """Per-channel mean and standard deviation of images in [0, 1]. Raises UserError for numbers that are none."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(abs(value) <= LARGEST for value in (*self.mean, *self.std))  # False for NaN
        same = len(self.mean) == len(self.std) > 0
        if not finite or not same or not all(s >= SMALLEST for s in self.std):
            raise UserError(
                f"mean {self.mean} and std {self.std} must be finite, of equal length, and std above 0, in float32; "
                "give one number of each a channel"
            )


LARGEST_SIDE = 4096
"""Pixels: no image classifier takes larger images; a batch of them would not fit in memory."""

CHANNEL_ORDERS = {1: "L", 3: "RGB"}
"""Number of channels -> their order, as Pillow names it: the only one in which images are read here."""

RESIZES = ("crop", "stretch", "pad", "none")
"""How images of other sizes get a model's: see `kdq.data.image_files.RESIZES`."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a classifier takes and returns.

    class_names: of its logits, in their order, all different; image_size: height and width in pixels of the images that
    it is made for, None if unknown; channel_order: a value of CHANNEL_ORDERS, None for any other number of channels;
    resize: one of RESIZES, how the images that it was trained on got their size. Raises UserError for a signature that
    is none.
    """

    class_names: tuple[str, ...]
    image_size: tuple[int, int] | None
    channel_order: str | None
    resize: str = "crop"

    def __post_init__(self) -> None:
        if self.image_size is not None:
            object.__setattr__(self, "image_size", tuple(self.image_size))  # JSON has lists
        texts = all(isinstance(name, str) for name in self.class_names)
        if not texts or not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise UserError("class names: must be at least one text, all different")
        size = (1, 1) if self.image_size is None else self.image_size
        if len(size) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in size):
            raise UserError(f"image size {size}: must be height and width, from 1 to {LARGEST_SIDE} pixels each")
        if self.channel_order not in (None, *CHANNEL_ORDERS.values()):
            raise unknown("channel order", str(self.channel_order), CHANNEL_ORDERS.values())
        if self.resize not in RESIZES:
            raise unknown("resize", str(self.resize), RESIZES)

    @classmethod
    def unnamed(cls, classes: int, channels: int) -> "Signature":
        """Return the signature of a classifier of which no more is known: its classes are "0", "1", …"""
        return cls(tuple(map(str, range(classes))), None, CHANNEL_ORDERS.get(channels))


class Classifier(nn.Module):
    """A network that takes images in [0, 1] and normalises them itself.

    forward: float [N, C, H, W] in [0, 1] -> logits [N, classes]. A teacher and a student with different
    normalisations can therefore share one view of an image. signature: see there; by default the classes have numbers
    for names, and the size of the images is unknown.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        arch: str,
        net: nn.Module,
        classes: int,
        normalization: Normalization,
        signature: Signature | None = None,
    ) -> None:
        super().__init__()
        self.arch = arch
        self.net = net
        self.classes = classes
        self.normalization = normalization
        self.signature = signature or Signature.unnamed(classes, len(normalization.mean))
        shape = (1, len(normalization.mean), 1, 1)
        self.register_buffer("mean", torch.tensor(normalization.mean).view(shape), persistent=False)
        self.register_buffer("std", torch.tensor(normalization.std).view(shape), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net((images - self.mean) / self.std)
        return logits


def check_architecture(arch: str) -> None:
    """Raise UserError, suggesting the closest known name, if `arch` is not an architecture (see kdq.models.sources)."""
    parse_architecture(arch)


def build(arch: str, *, classes: int, normalization: Normalization, seed: int) -> Classifier:
    """Build a newly initialised classifier; the same seed gives the same weights, in an autocast too.

    The images have `len(normalization.mean)` channels. Raises UserError for an unknown architecture.
    """
    with _SEEDED, torch.random.fork_rng(devices=[]), without_autocast():  # a network may compute its constants
        torch.manual_seed(seed)
        net = build_network(arch, classes, len(normalization.mean))
    return Classifier(arch, net, classes, normalization)
