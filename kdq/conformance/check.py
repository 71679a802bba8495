"""A check: a function of a member's name that raises ConformanceError if the member breaks a promise."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdq.data.dataset import Dataset
from kdq.models.classifier import Normalization

Check = Callable[[str], None]


class ConformanceError(AssertionError):
    """A member breaks a promise; the message names the case."""


def require(holds: bool, message: str) -> None:
    """Raise ConformanceError unless a promise holds. (`assert` would be left out by `python -O`.)"""
    if not holds:
        raise ConformanceError(message)


def require_close(actual: Tensor, expected: Tensor, message: str, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Raise ConformanceError unless two tensors are equal up to rounding."""
    try:
        torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        raise ConformanceError(f"{message}: {str(error).splitlines()[0]}") from None


def noise(samples: int, seed: int, *, channels: int = 1, size: int = 8, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Images of noise, uint8 [N, C, size, size], around a brightness that tells the class; labels int64 [N]."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    images = torch.randint(0, 100, (samples, channels, size, size), generator=random)
    return (images + 150 * labels[:, None, None, None] // (classes - 1)).to(torch.uint8), labels


def small_dataset() -> Dataset:
    """A data set of 60 training, 20 validation and 20 test images of 1x8x8, in four classes."""
    splits = (*noise(60, 0), *noise(20, 1), *noise(20, 2))
    return Dataset("noise", tuple("abcd"), Normalization((0.5,), (0.25,)), *splits, fingerprint="0" * 64)
