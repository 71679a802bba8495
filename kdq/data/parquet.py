"""Images and labels from parquet files in the layout of the Hugging Face Hub's image data sets.

A split is one or more files `SPLIT-00000-of-00002.parquet` with a struct column `img` (or `image`) that holds
the `bytes` of an encoded image, and an integer label column. Images have 8 bits a channel, and one of the layout's
codecs (PNG, WebP).
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from kdq.errors import UserError, first_line

IMAGE_COLUMNS = ("img", "image")
ROWS_A_TASK = 500
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]{16})?\.parquet")  # older data sets have a hash in each name
SHOWN = 6  # file names in a message
PNG_DEPTH = 24  # the byte of a PNG that gives its bits a channel


@dataclass(frozen=True, slots=True)
class Layout:
    """The content of a data set's files: RGB images of size x size pixels, labels 0 .. classes - 1 in `label`.

    codecs: Pillow's names of the formats that images may have. Pillow opens no other, so none of its decoders that
    run programs (EPS) is reached.
    """

    folder: str
    label: str
    classes: int
    size: int
    codecs: tuple[str, ...] = ("PNG", "WEBP")


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive rows of one file: encoded images and their labels."""

    file: Path
    first_row: int
    encoded: Sequence[bytes | None]
    labels: NDArray[np.int64]


def folders(data_dir: Path, layout: Layout) -> list[Path]:
    """Return the folders that may hold the files: the Hub's path under `data_dir`, less any of its leading parts."""
    parts = layout.folder.split("/")
    return [data_dir.joinpath(*parts[skip:]) for skip in range(len(parts) + 1)]


def find_split(data_dir: Path, layout: Layout, split: str) -> list[Path]:
    """Return the files of a split in the order of their numbers; empty if there are none.

    A single file may have any name `SPLIT-….parquet`. Raises UserError if some of several files are missing, or are
    none of the numbered ones: a copy beside the original would double the split.
    """
    for folder in folders(data_dir, layout):
        if files := sorted(folder.glob(f"{split}-*.parquet")):
            if len(files) > 1 or SHARD.fullmatch(files[0].name.removeprefix(split)):
                check_complete(files, split)
            return files
    return []


def check_complete(files: list[Path], split: str) -> None:
    matches = [SHARD.fullmatch(file.name.removeprefix(split)) for file in files]
    shards = [(int(match[1]), int(match[2]), bool(match[3])) for match in matches if match]
    if shards != [(number, len(files), shards[0][2]) for number in range(len(files))]:
        names = ", ".join([file.name for file in files[:SHOWN]] + ["…"] * (len(files) > SHOWN))
        raise UserError(
            f"{files[0].parent}: incomplete or mixed parquet files ({names}): those of a split are numbered, from "
            f"{split}-00000-of-{len(files):05} on; copy the missing ones, and remove others, such as copies"
        )


def read_split(files: Iterable[Path], layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decode the images of a split on all cores, in the order of files and rows.

    Returns uint8 [N, 3, size, size] and int64 [N]. Raises UserError, naming the file and the row, for a file
    that is truncated or corrupt, a missing column, an image that cannot be decoded, has another size, 16 bits a
    channel, several frames or transparent pixels, and a label out of range.
    """
    shards = chain.from_iterable(_read_file(file, layout) for file in files)
    # Pillow's decoders release the GIL. Its warning of large images is ignored, since only small ones are decoded.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        decoded = list(pool.map(lambda shard: (_decode(shard, layout), shard.labels), shards))
    images, labels = zip(*decoded, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def count_rows(files: Iterable[Path]) -> int:
    """Return the number of images in the files, as their footers give it. Raises UserError for a damaged file."""
    total = 0
    for file in files:
        with opened_parquet(file) as parquet:
            total += parquet.metadata.num_rows
    return total


def _read_file(file: Path, layout: Layout) -> Iterator[Shard]:
    with opened_parquet(file) as parquet:
        image = _image_column(file, parquet.schema_arrow, layout)
        first_row = 0
        for batch in parquet.iter_batches(ROWS_A_TASK, columns=[image, layout.label]):
            encoded = batch.column(image).field("bytes").to_pylist()
            labels = _labels(file, first_row, batch.column(layout.label), layout.classes)
            yield Shard(file, first_row, encoded, labels)
            first_row += len(labels)
    if not first_row:
        raise UserError(f"{file}: holds no rows; copy or download it again")


@contextmanager
def opened_parquet(file: Path) -> Iterator[Any]:
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            yield parquet
    except UserError:
        raise
    except Exception as error:  # the reader raises almost any exception for damaged bytes
        raise UserError(f"{file}: not a valid parquet file ({first_line(error)}); copy or download it again") from error


def _image_column(file: Path, schema: Any, layout: Layout) -> str:
    """Return the name of the image column, after checking it and the label column against the layout."""
    from pyarrow import types

    image = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
    if image is None or layout.label not in schema.names:
        raise UserError(
            f"{file}: has the columns {', '.join(schema.names)}, but needs {' or '.join(IMAGE_COLUMNS)} and "
            f"{layout.label}; is this the right data set?"
        )
    kind = schema.field(image).type
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0 or not _is_binary(kind.field("bytes").type):
        raise UserError(f"{file}: column {image} is {kind}, but must be a struct with the image's bytes")
    if not types.is_integer(schema.field(layout.label).type):
        raise UserError(f"{file}: column {layout.label} is {schema.field(layout.label).type}, not an integer")
    return image


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return any(check(kind) for check in (types.is_binary, types.is_large_binary, types.is_binary_view))


def _labels(file: Path, first_row: int, column: Any, classes: int) -> NDArray[np.int64]:
    # Unsigned integers above the range of int64 become negative, and are refused like any other.
    labels = np.array(column.cast("int64", safe=False).fill_null(-1), dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        value = column[int(wrong[0])].as_py()
        raise UserError(f"{file}: row {first_row + wrong[0]}: label {value} must be 0 to {classes - 1}")
    return labels


def _decode(shard: Shard, layout: Layout) -> NDArray[np.uint8]:
    images = np.empty((len(shard.encoded), 3, layout.size, layout.size), dtype=np.uint8)
    for index, encoded in enumerate(shard.encoded):
        place = f"{shard.file}: row {shard.first_row + index}"
        try:
            images[index] = _pixels(encoded, layout)
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
        except Exception as error:  # Pillow's decoders raise almost any exception for damaged bytes
            raise UserError(f"{place}: {first_line(error)}; copy or download it again") from error
    return images


def _pixels(encoded: bytes | None, layout: Layout) -> NDArray[np.uint8]:
    """Decode one image to uint8 [3, size, size]; it is checked before its pixels are decoded."""
    if encoded is None:
        raise ValueError("no image bytes")
    try:
        image = Image.open(BytesIO(encoded), formats=layout.codecs)
    except UnidentifiedImageError:
        raise ValueError(f"cannot identify image: it is damaged, or not {' or '.join(layout.codecs)}") from None
    with image:
        _check_image(image, encoded, layout.size)
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _check_image(image: Image.Image, encoded: bytes, size: int) -> None:
    """Raise UserError for an image whose conversion to `size` x `size` 8-bit RGB pixels would lose something."""
    if image.size != (size, size):
        raise UserError(
            f"the image has {image.width}x{image.height} pixels, not {size}x{size}; is this the right data set?"
        )
    if image.format == "PNG" and encoded[PNG_DEPTH] > 8:
        raise UserError(f"the image has {encoded[PNG_DEPTH]} bits a channel, at most 8 are read; save it with 8")
    if getattr(image, "is_animated", False):
        raise UserError("the image is animated; save one frame of it")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise UserError("the image has transparent pixels, which have no colour; save it without transparency")
