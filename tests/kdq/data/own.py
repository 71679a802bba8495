"""Small photographs made on the fly: each class has a colour, and each image its own noise."""

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("bee", "moth", "wasp")


def photo(label: int, number: int, size: tuple[int, int] = (12, 8)) -> Image.Image:
    """size: width and height."""
    pixels = np.random.default_rng([label, number]).integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., label % 3] += 100
    return Image.fromarray(pixels)


def write_classes(root: Path, counts: Sequence[int], first: int = 0, suffix: str = ".png", **options: Any) -> Path:
    """Write so many photographs of each class to a folder of its own. first: the number of the first."""
    for label, count in enumerate(counts):
        folder = root / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            photo(label, number, **options).save(folder / f"{number}{suffix}")
    return root


def encoded(label: int, number: int) -> bytes:
    stream = BytesIO()
    photo(label, number, (8, 8)).save(stream, "PNG")
    return stream.getvalue()


def write_table(path: Path, images: Sequence[bytes | None], features: Any = None, **columns: Any) -> Path:
    """Write a parquet file with the images as the `datasets` library writes them. features: of its metadata."""
    struct = pa.array(
        [{"bytes": each, "path": None} for each in images], pa.struct({"bytes": "binary", "path": "string"})
    )
    table = pa.table({"image": struct, **columns})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
