"""Audit of a data set: duplicated images, and classes without images."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from kdq.data.dataset import Dataset
from kdq.data.encoded import listed
from kdq.errors import UserError

LARGEST_SHARE = 0.01
"""Of a split's images that may be duplicates. In CIFAR-100, 0.03 % of the training images repeat others, and 0.1 %
of the test images are training images too; CIFAR-10 has no duplicate."""

LARGEST_CLASS_SHARE = 0.1
"""The same for a user's images that repeat one of their own class and split: they weigh more, and an image drawn for
validation may have its copy in training."""

NAMED = 5  # classes that a message names


def find_duplicates(splits: Mapping[str, NDArray[np.uint8]]) -> dict[tuple[str, str], int]:
    """Return how many images of a split equal one before them, by the split and the first split with that image.

    splits: uint8 [N, C, H, W] by name. Images are equal if all their pixels are, whatever their labels. An image is
    counted at most once.
    """
    keys = {split: map(pixels_key, images) for split, images in splits.items()}
    return dict(Counter((split, earlier) for split, _, earlier, _ in _repeats(keys)))


def pixels_key(image: NDArray[np.uint8]) -> bytes:
    """Return 16 bytes that are equal for equal pixels only."""
    return blake2b(image.tobytes(), digest_size=16).digest()


def _repeats(splits: Mapping[str, Iterable[bytes]]) -> Iterator[tuple[str, int, str, int]]:
    """Yield split and number of each image that equals one before it by its key, and those of the first such."""
    seen: dict[bytes, tuple[str, int]] = {}
    for split, keys in splits.items():
        for number, key in enumerate(keys):
            first = seen.setdefault(key, (split, number))
            if first != (split, number):
                yield split, number, *first


def check_duplicates(name: str, splits: Mapping[str, NDArray[np.uint8]]) -> None:
    """Raise UserError if a large share of a split's images are duplicates, as when a file is a copy of another."""
    for (split, earlier), count in find_duplicates(splits).items():
        if count > LARGEST_SHARE * len(splits[split]):
            raise _many(name, _duplicated(count, split, earlier), len(splits[split]), LARGEST_SHARE)


@dataclass(frozen=True, slots=True)
class Pictures:
    """The images of a split in a user's files. keys: S16 [N], of the pixels; labels: int64 [N]; places: names."""

    keys: NDArray[np.bytes_]
    labels: NDArray[np.int64]
    places: Sequence[str]


def name_duplicates(name: str, splits: Mapping[str, Pictures]) -> list[str]:
    """Return a line that names the images with the pixels of another; none if there are none.

    Raises UserError if they are a large share of a split: of LARGEST_CLASS_SHARE within a class, else of LARGEST_SHARE.
    """
    pairs: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
    for split, number, earlier, first in _repeats({split: own.keys.tolist() for split, own in splits.items()}):
        one, other = splits[split], splits[earlier]
        in_class = split == earlier and one.labels[number] == other.labels[first]
        pairs[split, earlier, in_class].append(f"{one.places[number]} = {other.places[first]}")
    parts = []
    for (split, earlier, in_class), found in pairs.items():
        what = _duplicated(len(found), split, earlier) + (" of the same class" if in_class else "")
        share, total = LARGEST_CLASS_SHARE if in_class else LARGEST_SHARE, len(splits[split].labels)
        if len(found) > share * total:
            raise _many(name, what, total, share, f" ({listed(found)})")
        parts.append(f"{what} ({listed(found)})")
    return [f"duplicates: {'; '.join(parts)}"] if parts else []


def _many(name: str, what: str, total: int, share: float, pairs: str = "") -> UserError:
    return UserError(
        f"{name}: {what}, of {total:,}: at most {share:.0%} may be duplicates{pairs}; remove copies of files, or copy "
        f"or download the data set again"
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
