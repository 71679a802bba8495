"""Logits and top-1 accuracy of a classifier on images kept as one uint8 tensor."""

import torch
from torch import Tensor, nn

BATCH = 125  # images per forward pass: on a CPU, their activations should stay in its cache


@torch.inference_mode()
def logits(model: nn.Module, images: Tensor, batch_size: int = BATCH) -> Tensor:
    """Return the model's logits in evaluation mode, float32 [N, classes].

    images: uint8 [N, C, H, W] on the model's device. The model's training mode is restored afterwards
    (evaluating batch norm in training mode is a classic mistake).
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
    """Return the top-1 accuracy in percent. images: uint8 [N, C, H, W]; labels: int64 [N]."""
    return accuracy(logits(model, images, batch_size), labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent of logits [N, classes] against labels int64 [N]."""
    return 100.0 * (logits.argmax(1) == labels).double().mean().item()
