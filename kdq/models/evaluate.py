"""Logits and top-1 accuracy of a classifier on images kept as one uint8 tensor."""

import torch
from torch import Tensor, nn

BATCH = 125  # images at a time: on a CPU their activations should stay in its cache


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """The model's logits in evaluation mode.

    images: uint8 [N, C, H, W] on the model's device. Returns float32 [N, classes]. The training mode of the
    model is left as it was found (batch norm evaluated in training mode is a classic way to be wrong).
    """
    was_training = model.training
    model.eval()
    try:
        batches = [
            model(batch.contiguous(memory_format=torch.channels_last).float() / 255)
            for batch in torch.split(images, batch_size)
        ]
    finally:
        model.train(was_training)
    return torch.cat(batches).float()


def top1(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = BATCH) -> float:
    """Share of images whose largest logit is their label, in percent. images: uint8 [N, C, H, W]; labels: int64 [N]."""
    return accuracy(logits(model, images, batch_size), labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent of logits [N, classes] against labels int64 [N]."""
    return 100.0 * (logits.argmax(1) == labels).double().mean().item()
