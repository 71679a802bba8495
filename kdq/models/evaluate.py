"""Logits and top-1 accuracy of classifiers on images kept as one tensor."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from kdq.errors import UserError
from kdq.models.classifier import Classifier
from kdq.models.float32 import exact_float32, without_autocast
from kdq.models.images import as_float, as_tensor, check_images

BATCH = 32
"""Images per forward pass: few need little memory. On a CPU 16 to 125 took equally long to 12 %, and changed none of
the classes that 14 models predicted of 10,000 images (docs/results/evaluate.csv)."""

BATCH_ON_DEVICE = 512
"""The same on a GPU, which smaller ones would leave idle between their kernels."""

LARGEST_ERROR = 0.001
LARGEST_ERROR_ROUNDED = 0.05
"""Relative error of logits up to which two programs compute the same model, with float and with quantized activations.

Quantized: a sum that is computed in another order differs in its last bits, so that an activation near the middle
between two levels may be rounded to the other one.
"""


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Return the model's logits in evaluation mode, float32 [N, classes].

    images: uint8, or floating-point in [0, 1], [N, C, H, W]; a tensor, best on the model's device, or a NumPy array;
    of the size in the model's signature, if it has one. The model gets them in the dtype of its parameters. batch_size:
    BATCH by default, BATCH_ON_DEVICE on a GPU. The model's training mode is restored afterwards (evaluating batch norm
    in training mode is a classic mistake). Raises UserError for images that are none.
    """
    return logits_many([model], images, batch_size)[0]


@torch.inference_mode()
@exact_float32()
@without_autocast()
def logits_many(models: Sequence[nn.Module], images: Tensor, batch_size: int | None = None) -> list[Tensor]:
    """Return the logits of each of at least one model, as `logits` does, in one pass over the images."""
    images = check_images(images, channels=_channels(models[0]), size=_size(models[0]))
    destinations = [_parameter(model, images) for model in models]
    batches: list[list[Tensor]] = [[] for _ in models]
    if batch_size is None:
        batch_size = BATCH if destinations[0].device.type == "cpu" else BATCH_ON_DEVICE
    with ExitStack() as evaluating:
        for model in models:
            evaluating.enter_context(_evaluation_mode(model))
        for part in torch.split(images, batch_size):
            batch = as_float(part)
            for model, own, found in zip(models, destinations, batches, strict=True):
                found.append(model(batch.to(own.device, own.dtype)))
    return [torch.cat(found).float() for found in batches]


def _channels(model: nn.Module) -> int | None:
    return model.mean.shape[1] if isinstance(model, Classifier) else None


def _size(model: nn.Module) -> tuple[int, int] | None:
    return model.signature.image_size if isinstance(model, Classifier) else None


def _parameter(model: nn.Module, images: Tensor) -> Tensor:
    """Return a tensor of the device and dtype in which the model computes."""
    floating = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    return next(floating, images.new_empty(0, dtype=torch.float32))


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def top1(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int | None = None) -> float:
    """Return the top-1 accuracy in percent. images: as in `logits`; labels: int64 [N]."""
    return accuracy(logits(model, images, batch_size), labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent of logits [N, classes] against labels int64 [N].

    Raises UserError for labels of another shape or dtype.
    """
    return 100.0 * _correct(logits, labels).double().mean().item()


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return ‖found − wanted‖ / ‖wanted less its mean over the classes‖ of logits [N, classes]."""
    centred = wanted - wanted.mean(1, keepdim=True) if wanted.shape[1] > 1 else wanted
    return float((found - wanted).norm() / centred.norm().clamp_min(torch.finfo(torch.float32).tiny))


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    labels = as_tensor(labels, "labels")
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise UserError(
            f"labels: {labels.dtype} of shape {list(labels.shape)}; must be whole numbers of shape [{len(logits)}], "
            "one class an image"
        )
    return logits.argmax(1) == labels.to(logits.device)
