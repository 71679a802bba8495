"""Metrics of a classifier beyond top-1 accuracy, all from the same logits."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 15
"""Of the expected calibration error, as in Guo et al. 2017, section 2."""

TOP = 5
"""The number of classes of top-5 accuracy, which is defined for more than these."""
NAMES = ("top5", "balanced", "nll", "ece")


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of logits against labels.

    top5: accuracy within the five highest logits, in percent, None for five classes or fewer; balanced: mean over the
    classes of their accuracies, in percent; nll: mean negative log-likelihood of the labels, in nats; ece: expected
    calibration error, in percent; per_class: accuracy of each class in percent, None for one without images.
    """

    top5: float | None
    balanced: float
    nll: float
    ece: float
    per_class: tuple[float | None, ...]

    def named(self, part: str) -> dict[str, float]:
        """Return the metrics that there are and that are finite, such as `val_nll`; `part` is val or test."""
        values = {name: getattr(self, name) for name in NAMES}
        return {f"{part}_{name}": value for name, value in values.items() if value is not None and np.isfinite(value)}


def measure_logits(logits: Tensor, labels: Tensor) -> Metrics:
    """Return the metrics of logits, float [N, C], against labels, int64 [N], N >= 1, computed in float64."""
    logits, labels = logits.double(), labels.to(logits.device)
    classes, log_p = logits.shape[1], logits.log_softmax(1)
    correct = logits.argmax(1) == labels
    each = per_class(correct, labels, classes)
    present = [value for value in each if value is not None]
    top5 = (logits.topk(TOP).indices == labels[:, None]).any(1).double().mean().item() if classes > TOP else None
    return Metrics(
        top5=None if top5 is None else 100 * top5,
        balanced=sum(present) / len(present),
        nll=-log_p.gather(1, labels[:, None]).mean().item(),
        ece=100 * calibration_error(log_p.exp().amax(1), correct),
        per_class=tuple(each),
    )


def per_class(correct: Tensor, labels: Tensor, classes: int) -> list[float | None]:
    """Return the accuracy of each class in percent, None for one without images. correct: bool [N]."""
    counts = torch.bincount(labels, minlength=classes).tolist()
    hits = torch.bincount(labels[correct], minlength=classes).tolist()
    return [100 * hit / count if count else None for hit, count in zip(hits, counts, strict=True)]


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Return Σ_b n_b/N·|accuracy − confidence| over BINS equal bins of the confidence (Guo et al. 2017, eq. 3).

    confidence: float64 [N] in [0, 1], the probability of the predicted class; correct: bool [N]. A bin includes its
    upper end.
    """
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = confidence.new_zeros(BINS).index_add_(0, bins, correct.double() - confidence)
    return gaps.abs().sum().item() / len(confidence)


def agreement(one: NDArray[np.int32], other: NDArray[np.int32]) -> float:
    """Return the percentage of images for which two models predict the same class. Each int32 [N]."""
    assert one.shape == other.shape
    return 100 * float((one == other).mean())


def predicted(logits: Tensor) -> NDArray[np.int32]:
    """Return the predicted class of each image, int32 [N]."""
    classes: NDArray[np.int32] = logits.argmax(1).int().cpu().numpy()
    return classes
