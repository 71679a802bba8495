"""Mean and deviation of images, exact up to one rounding: computed from the integer counts of the 256 values."""

import numpy as np
from numpy.typing import NDArray

from kdq.errors import UserError
from kdq.models.classifier import Normalization


def statistics(images: NDArray[np.uint8]) -> Normalization:
    """Return the mean and standard deviation of each channel of uint8 [N, C, H, W], scaled to [0, 1].

    Raises UserError for a channel that has one value in all images: nothing can be learnt from it, and it has no scale.
    """
    return from_counts(count_values(images))


def count_values(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how often each value occurs in each channel of uint8 [N, C, H, W]: int64 [C, 256]."""
    return np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])])


def from_counts(counts: NDArray[np.int64]) -> Normalization:
    """Return the same from the counts, int64 [C, 256]."""
    values = np.arange(256) / 255
    if constant := [channel for channel, count in enumerate(counts) if np.count_nonzero(count) == 1]:
        raise UserError(f"channel {constant[0]} has the same value in all training images; is this the right data set?")
    means = [float(np.average(values, weights=count)) for count in counts]
    variances = [np.average((values - mean) ** 2, weights=n) for mean, n in zip(means, counts, strict=True)]
    return Normalization(tuple(means), tuple(float(np.sqrt(variance)) for variance in variances))
