"""Whether an exported model predicts what the packed one does."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdq.errors import UserError
from kdq.models.classifier import Classifier
from kdq.models.evaluate import (
    BATCH,
    LARGEST_ERROR,
    LARGEST_ERROR_ROUNDED,
    accuracy,
    logits,
    relative_error,
)
from kdq.models.images import as_float, check_images

LARGEST_LOSS = 0.1
"""Points of top-1 accuracy by which the two may differ on labelled images."""


@dataclass(frozen=True, slots=True)
class Check:
    """The comparison of an exported model with the packed one.

    runtime: what ran the exported one; error: the relative error of its logits; agreement: share of images with the
    same predicted class; packed_top1, exported_top1: accuracies in percent, None without labels.
    """

    runtime: str
    images: int
    error: float
    agreement: float
    packed_top1: float | None
    exported_top1: float | None

    def verify(self, is_rounded: bool) -> None:
        """Raise UserError if the two differ too much. is_rounded: the model's activations are quantized."""
        if self.packed_top1 is not None and self.exported_top1 is not None:
            found, allowed = abs(self.packed_top1 - self.exported_top1), LARGEST_LOSS
            what = f"its top-1 accuracy is {self.exported_top1:.2f} %, the packed model's {self.packed_top1:.2f} %"
        else:
            found, allowed = self.error, LARGEST_ERROR_ROUNDED if is_rounded else LARGEST_ERROR
            what = f"its logits differ by {found:.2g} of their size"
        if not found <= allowed + 1e-9:
            raise UserError(
                f"the exported model is not the packed one: in {self.runtime}, {what} on {self.images:,} images (at "
                f"most {allowed:g} is allowed); nothing was written; try another --to, or other versions of the runtime"
            )


@torch.inference_mode()
def compare(
    model: Classifier, run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor | None, runtime: str
) -> Check:
    """Compare the packed model with an exported one.

    run: float32 images in [0, 1] -> logits; images: as in `logits`; labels: int64 [N]. Raises UserError for images
    and labels that are not the model's.
    """
    ours = logits(model, images)
    images = check_images(images)
    theirs = torch.cat([run(as_float(part).contiguous()) for part in torch.split(images, BATCH)])
    return Check(
        runtime,
        len(images),
        relative_error(theirs, ours),
        (theirs.argmax(1) == ours.argmax(1)).double().mean().item(),
        None if labels is None else accuracy(ours, labels),
        None if labels is None else accuracy(theirs, labels),
    )
