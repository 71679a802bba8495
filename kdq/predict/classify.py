"""The classes that a model predicts, for images in memory and in files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from kdq.data.image_files import RESIZES, read_image, resized
from kdq.errors import UserError, unknown
from kdq.models.classifier import Classifier
from kdq.models.evaluate import BATCH, logits


@dataclass(frozen=True, slots=True)
class Prediction:
    """The most probable class of the image in a file, and the next one; that is None if there is one class only."""

    file: Path
    class_name: str
    probability: float
    next_class: str | None
    next_probability: float | None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file without a prediction, and why."""

    file: Path
    reason: str


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the probabilities of the classes, float32 [N, classes].

    images: uint8, or floating-point in [0, 1], [N, C, H, W]; a tensor or a NumPy array. Raises UserError for images
    that are none, or of another size than the model's.
    """
    return logits(model, images).softmax(1)


def predict_files(
    model: Classifier, files: Iterable[Path], *, resize: str | None = None, size: tuple[int, int] | None = None
) -> Iterator[Prediction | Unreadable]:
    """Yield what the model predicts for the image in each file, in their order.

    resize: a name in RESIZES; size: height and width of the images that the model gets; by default those in its
    signature. Raises UserError if neither is known, or if the model takes neither grey nor RGB images.
    """
    own = model.signature
    resize = resize or own.resize
    if resize not in RESIZES:
        raise unknown("way to resize", resize, RESIZES)
    if size is not None and own.image_size not in (None, size):
        raise UserError(f"image size {size}: the model is made for {own.image_size}; leave it out")
    if (size := size or own.image_size) is None:
        raise UserError("the size of the model's images is unknown: give it by --image-size (`size`)")
    if own.channel_order is None:
        raise UserError("the model takes images of other channels than grey or RGB, which no image file has")
    return _predictions(model, files, own.channel_order, size, resize)


def _predictions(
    model: Classifier, files: Iterable[Path], channel_order: str, size: tuple[int, int], resize: str
) -> Iterator[Prediction | Unreadable]:
    def read(file: Path) -> Tensor | Unreadable:
        try:
            return resized(read_image(file, channel_order), size, resize)
        except UserError as error:
            return Unreadable(file, str(error))

    remaining = iter(files)
    while some := list(islice(remaining, BATCH)):
        found = [read(file) for file in some]
        images = [image for image in found if isinstance(image, Tensor)]
        probabilities = iter(predict(model, torch.stack(images)) if images else ())
        for file, image in zip(some, found, strict=True):
            yield image if isinstance(image, Unreadable) else _best(file, next(probabilities), model)


def _best(file: Path, probabilities: Tensor, model: Classifier) -> Prediction:
    values, classes = probabilities.topk(min(2, len(probabilities)))
    named = [(model.signature.class_names[index], value) for index, value in zip(classes, values.tolist(), strict=True)]
    return Prediction(file, *named[0], *(named[1] if len(named) > 1 else (None, None)))
