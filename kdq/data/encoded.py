"""Encoded images of a user's own files: what a folder or a table holds, before a pixel is decoded."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kdq.data.image_files import is_grey, opened, quiet
from kdq.errors import UserError, printable

T = TypeVar("T")
R = TypeVar("R")

TRAIN, VAL, TEST = "train", "val", "test"

KEYWORDS = {
    TRAIN: ("train", "training"),
    VAL: ("val", "valid", "validation", "dev"),
    TEST: ("test", "testing", "eval", "evaluation"),
}
"""Split -> names of its folders and files, as the `datasets` library of the Hugging Face Hub knows them."""

Bytes = bytes | UserError
"""The bytes of an encoded image, or why they cannot be read."""


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive images of a split. start: the number of the first; read: yields the bytes of each."""

    start: int
    read: Callable[[], Iterator[Bytes]]


@dataclass(frozen=True, slots=True)
class EncodedSplit:
    """The images of a split, in a fixed order.

    places: where each is, for messages; labels: int64 [N]; blocks: function that yields all images, block by block;
    files: that hold them.
    """

    places: Sequence[str]
    labels: NDArray[np.int64]
    blocks: Callable[[], Iterator[Block]]
    files: Sequence[str]

    def stamp(self) -> str | None:
        """Return a SHA-256 of the files' paths, sizes and times of change; None if one cannot be looked at."""
        digest = sha256()
        try:
            for file in self.files:
                found = os.stat(file)  # noqa: PTH116  (a Path a file takes twice as long)
                digest.update(os.fsencode(f"{os.path.abspath(file)}\0{found.st_size}\0{found.st_mtime_ns}\0"))  # noqa: PTH100
        except OSError:
            return None
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class OwnImages:
    """Images of a user's own. splits: TRAIN, and VAL and TEST if there are such; found: what is odd, a line each."""

    name: str
    class_names: tuple[str, ...]
    splits: Mapping[str, EncodedSplit]
    found: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """What the headers of a split's images say.

    keys: the SHA-256 of each image's bytes, S32 [N]; sizes: int64 [N, 2], width and height, 0 where the image is
    unreadable; grey: bool [N], whether its mode has a single channel.
    """

    keys: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    grey: NDArray[np.bool_]


def survey(split: EncodedSplit) -> Survey:
    """Read every image of a split once, on all cores, without decoding its pixels."""
    return _survey(row for rows in on_all_cores(_headers, split.blocks()) for row in rows)


def sample(split: EncodedSplit, count: int) -> Survey:
    """Read the first images of a split only."""
    with quiet():
        return _survey(islice((row for block in split.blocks() for row in _headers(block)), count))


def _survey(rows: Iterable[tuple[bytes, tuple[int, int], bool]]) -> Survey:
    keys, sizes, grey = zip(*rows, strict=True)
    return Survey(np.array(keys, dtype="S32"), np.array(sizes, dtype=np.int64), np.array(grey, dtype=bool))


def _headers(block: Block) -> list[tuple[bytes, tuple[int, int], bool]]:
    return [_header(encoded) for encoded in block.read()]


def _header(encoded: Bytes) -> tuple[bytes, tuple[int, int], bool]:
    if isinstance(encoded, UserError):
        return b"", (0, 0), False
    key = sha256(encoded).digest()
    try:
        with opened(BytesIO(encoded)) as image:
            return key, image.size, is_grey(image)
    except UserError:
        return key, (0, 0), False


def on_all_cores(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield function(item) for each item in order, computed in a thread a core; few items are held at a time.

    Threads suffice, since Pillow decodes and resizes without Python's lock.
    """
    workers = os.cpu_count() or 1
    pending: deque[Future[R]] = deque()
    with quiet(), ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def listed(places: Sequence[str], most: int = 5) -> str:
    """Return places as a message names them: the first few, and how many more there are."""
    rest = len(places) - most
    return printable(", ".join(places[:most])) + (f" and {rest:,} more" if rest > 0 else "")
