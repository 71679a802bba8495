"""Audit of a data set: duplicated images, and classes without images."""

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from kdq.data.dataset import Dataset
from kdq.errors import UserError

LARGEST_SHARE = 0.01
"""Of a split's images that may be duplicates. In CIFAR-100, 0.03 % of the training images repeat others, and 0.1 %
of the test images are training images too; CIFAR-10 has no duplicate."""

NAMED = 5  # classes that a message names


def find_duplicates(splits: Mapping[str, NDArray[np.uint8]]) -> dict[tuple[str, str], int]:
    """Return how many images of a split equal one before them, by the split and the first split with that image.

    splits: uint8 [N, C, H, W] by name. Images are equal if all their pixels are, whatever their labels. An image is
    counted at most once.
    """
    return count_duplicates({split: map(pixels_key, images) for split, images in splits.items()})


def pixels_key(image: NDArray[np.uint8]) -> bytes:
    """Return 16 bytes that are equal for equal pixels only."""
    return blake2b(image.tobytes(), digest_size=16).digest()


def count_duplicates(splits: Mapping[str, Iterable[bytes]]) -> dict[tuple[str, str], int]:
    """Return the same from the images' keys."""
    first: dict[bytes, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for split, keys in splits.items():
        for key in keys:
            if key in first:
                counts[split, first[key]] += 1
            else:
                first[key] = split
    return dict(counts)


def check_duplicates(name: str, splits: Mapping[str, NDArray[np.uint8]]) -> None:
    """Raise UserError if a large share of a split's images are duplicates, as when a file is a copy of another."""
    check_counts(name, find_duplicates(splits), {split: len(images) for split, images in splits.items()})


def check_counts(name: str, duplicates: Mapping[tuple[str, str], int], totals: Mapping[str, int]) -> None:
    """Raise the same error for duplicates that are counted. totals: the images of each split."""
    for (split, earlier), count in duplicates.items():
        if count > LARGEST_SHARE * totals[split]:
            raise UserError(
                f"{name}: {_duplicated(count, split, earlier)}, of {totals[split]:,}: at most {LARGEST_SHARE:.0%} may "
                f"be duplicates; remove copies of files, or copy or download the data set again"
            )


def remark_duplicates(duplicates: Mapping[tuple[str, str], int]) -> list[str]:
    """Return a line on duplicates that are counted; none if there are none."""
    parts = [_duplicated(count, split, earlier) for (split, earlier), count in duplicates.items()]
    return [f"duplicates: {'; '.join(parts)}"] if parts else []


def _duplicated(count: int, split: str, earlier: str) -> str:
    if split == earlier:
        return f"{count:,} {split} image{'s repeat others' if count > 1 else ' repeats another'}"
    return f"{count:,} {split} image{f's are also {earlier} images' if count > 1 else f' is also a {earlier} image'}"


def remarks(data: Dataset) -> list[str]:
    """Return what a user should know of a data set before training on it, a line each; none if nothing is odd.

    The duplicates of a user's own images were counted when they were decoded.
    """
    splits = {
        "training": (data.train_images, data.train_labels),
        "validation": (data.val_images, data.val_labels),
        "test": (data.test_images, data.test_labels),
    }
    if data.found is None:
        lines = remark_duplicates(find_duplicates({split: images.numpy() for split, (images, _) in splits.items()}))
    else:
        lines = list(data.found)
    for split, (_, labels) in splits.items():
        counts = np.bincount(labels.numpy(), minlength=data.classes)
        if missing := [name for name, count in zip(data.class_names, counts, strict=True) if not count]:
            names = ", ".join(missing[:NAMED]) + (", …" if len(missing) > NAMED else "")
            lines.append(f"warning: {len(missing)} of {data.classes} classes have no {split} images ({names})")
    return lines
