"""Images and labels from parquet files in the layout of the Hugging Face Hub's image data sets.

A split is one or more files `SPLIT-00000-of-00002.parquet` with a struct column `img` (or `image`) that holds
the `bytes` of an encoded image, and an integer label column. Any codec that Pillow reads is accepted (PNG, WebP, …).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdq.errors import UserError, first_line

IMAGE_COLUMNS = ("img", "image")
ROWS_A_TASK = 500
SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.parquet")


@dataclass(frozen=True, slots=True)
class Layout:
    """The content of a data set's files: RGB images of size x size pixels, labels 0 .. classes - 1 in `label`."""

    folder: str
    label: str
    classes: int
    size: int


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

    Raises UserError if some of its numbered files are missing.
    """
    for folder in folders(data_dir, layout):
        if files := sorted(folder.glob(f"{split}-*.parquet")):
            _check_complete(files)
            return files
    return []


def _check_complete(files: list[Path]) -> None:
    numbers = [match.groups() for file in files if (match := SHARD.fullmatch(file.name))]
    if len(numbers) < len(files):
        return  # not named as shards: their number is unknown
    totals = {int(total) for _, total in numbers}
    if len(totals) > 1 or [int(number) for number, _ in numbers] != list(range(max(totals))):
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"{files[0].parent}: incomplete or mixed parquet files ({names}): each name gives the number of files "
            f"in its split; copy the missing ones or remove the others"
        )


def read_split(files: Iterable[Path], layout: Layout) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decode the images of a split on all cores, in the order of files and rows.

    Returns uint8 [N, 3, size, size] and int64 [N]. Raises UserError, naming the file and the row, for a file
    that is truncated or corrupt, a missing column, an image that cannot be decoded or has another size, and a
    label out of range.
    """
    shards = chain.from_iterable(_read_file(file, layout) for file in files)
    with ThreadPoolExecutor() as pool:  # Pillow's decoders release the GIL
        decoded = list(pool.map(lambda shard: (_decode(shard, layout.size), shard.labels), shards))
    images, labels = zip(*decoded, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_file(file: Path, layout: Layout) -> Iterator[Shard]:
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as parquet:
            image = _image_column(file, parquet.schema_arrow, layout)
            first_row = 0
            for batch in parquet.iter_batches(ROWS_A_TASK, columns=[image, layout.label]):
                encoded = batch.column(image).field("bytes").to_pylist()
                labels = _labels(file, first_row, batch.column(layout.label), layout.classes)
                yield Shard(file, first_row, encoded, labels)
                first_row += len(labels)
    except UserError:
        raise
    except Exception as error:  # the reader raises almost any exception for damaged bytes
        raise UserError(f"{file}: not a valid parquet file ({first_line(error)}); copy or download it again") from error
    if not first_row:
        raise UserError(f"{file}: holds no rows; copy or download it again")


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
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise UserError(f"{file}: column {image} is {kind}, but must be a struct with the image's bytes")
    if not types.is_integer(schema.field(layout.label).type):
        raise UserError(f"{file}: column {layout.label} is {schema.field(layout.label).type}, not an integer")
    return image


def _labels(file: Path, first_row: int, column: Any, classes: int) -> NDArray[np.int64]:
    labels = np.array(column.fill_null(-1), dtype=np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        value = column[int(wrong[0])].as_py()
        raise UserError(f"{file}: row {first_row + wrong[0]}: label {value} must be 0 to {classes - 1}")
    return labels


def _decode(shard: Shard, size: int) -> NDArray[np.uint8]:
    images = np.empty((len(shard.encoded), 3, size, size), dtype=np.uint8)
    for index, encoded in enumerate(shard.encoded):
        try:
            images[index] = _pixels(encoded, size)
        except Exception as error:  # Pillow's decoders raise almost any exception for damaged bytes
            place = f"{shard.file}: row {shard.first_row + index}"
            raise UserError(f"{place}: {error or type(error).__name__}; copy or download it again") from error
    return images


def _pixels(encoded: bytes | None, size: int) -> NDArray[np.uint8]:
    """Decode one image to uint8 [3, size, size]; its size is checked before its pixels are decoded."""
    if encoded is None:
        raise ValueError("no image bytes")
    with Image.open(BytesIO(encoded)) as image:
        if image.size != (size, size):
            raise ValueError(f"the image has {image.width}x{image.height} pixels, not {size}x{size}")
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
