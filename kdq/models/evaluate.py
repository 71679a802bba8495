"""Logits and top-1 accuracy of a classifier on images kept as one tensor."""

import torch
from torch import Tensor, nn

from kdq.errors import UserError
from kdq.models.classifier import Classifier
from kdq.models.images import as_float, as_tensor, check_images

BATCH = 125  # images per forward pass: on a CPU, their activations should stay in its cache


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """Return the model's logits in evaluation mode, float32 [N, classes].

    images: uint8, or floating-point in [0, 1], [N, C, H, W]; a tensor, best on the model's device, or a NumPy array.
    The model gets them in the dtype of its parameters. Its training mode is restored afterwards (evaluating batch norm
    in training mode is a classic mistake). Raises UserError for images that are none.
    """
    images = check_images(images, channels=model.mean.shape[1] if isinstance(model, Classifier) else None)
    own = next((p for p in model.parameters() if p.is_floating_point()), images.new_empty(0, dtype=torch.float32))
    was_training = model.training
    model.eval()
    try:
        batches = [model(as_float(batch).to(own.device, own.dtype)) for batch in torch.split(images, batch_size)]
    finally:
        model.train(was_training)
    return torch.cat(batches).float()


def top1(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = BATCH) -> float:
    """Return the top-1 accuracy in percent. images: as in `logits`; labels: int64 [N]."""
    return accuracy(logits(model, images, batch_size), labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent of logits [N, classes] against labels int64 [N].

    Raises UserError for labels of another shape or dtype.
    """
    labels = as_tensor(labels, "labels")
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise UserError(
            f"labels: {labels.dtype} of shape {list(labels.shape)}; must be whole numbers of shape [{len(logits)}], "
            "one class an image"
        )
    return 100.0 * (logits.argmax(1) == labels.to(logits.device)).double().mean().item()
