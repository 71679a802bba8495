"""Data sets in parts that travel: images as lossless WebP strips, joined to the stage that a study decodes.

The images of a set, training then test, are written one below the other, STRIP a strip; a part is a NumPy archive of
strips of at most a given number of bytes. `NAME.json` describes the set, `NAME.labels.npz` has its labels. CIFAR takes
7 % fewer bytes than as single images.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdq.data.sources import DATA_VERSION
from kdq.errors import UserError
from kdq.store.files import content_hash
from kdq.store.folder_store import StageStore
from kdq.store.stage import Json, Stage

TALLEST = 16383  # pixels of a WebP image
SPLITS = ("train", "test")


def split(stage: Path, folder: Path, most: int) -> list[Path]:
    """Write a data stage as parts of at most `most` bytes into a folder; return these."""
    description = json.loads((stage / "data.json").read_text())
    arrays = [np.load(stage / f"{name}_images.npy") for name in SPLITS]
    labels = {name: np.load(stage / f"{name}_labels.npy").astype(np.uint8) for name in SPLITS}
    size = arrays[0].shape[-1]
    images = np.concatenate([array.transpose(0, 2, 3, 1) for array in arrays])
    count = TALLEST // size
    with ThreadPoolExecutor() as pool:
        strips = list(pool.map(_encode, [images[i : i + count] for i in range(0, len(images), count)]))
    name = description["name"]
    parts = []
    for number, numbers in enumerate(_groups([strip.size for strip in strips], most)):
        part = folder / f"{name}.{number}.npz"
        np.savez(part, **{f"{index:04}": strips[index] for index in numbers})  # type: ignore[arg-type]
        parts.append(part)
    np.savez_compressed(folder / f"{name}.labels.npz", **labels)
    about = {
        "source": json.loads((stage / "stage.json").read_text())["inputs"]["source"],
        "description": description,
        "size": size,
        "strips": len(strips),
        "parts": {part.name: content_hash(part) for part in parts},
    }
    (folder / f"{name}.json").write_text(json.dumps(about, indent=1))
    return parts


def _encode(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode images [n, size, size, 3]."""
    file = BytesIO()
    Image.fromarray(images.reshape(-1, *images.shape[2:])).save(file, "WEBP", lossless=True, exact=True)
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def _decode(strip: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(BytesIO(strip.tobytes())).convert("RGB"))
    return pixels.reshape(-1, size, size, 3)


def _groups(sizes: list[int], most: int) -> Iterator[list[int]]:
    """Consecutive indices whose sizes sum to at most `most`."""
    group: list[int] = []
    overhead = 300  # bytes of an archive's entry
    for index, size in enumerate(sizes):
        if group and sum(sizes[i] + overhead for i in group) + size + overhead > most:
            yield group
            group = []
        group.append(index)
    yield group


def missing(folder: Path, name: str) -> list[str]:
    """The files that the data set `name` still lacks in a folder."""
    if not (folder / f"{name}.json").exists():
        return [f"{name}.json"]
    wanted = [f"{name}.labels.npz", *_about(folder, name)["parts"]]
    return [file for file in wanted if not (folder / file).exists()]


def join(folder: Path, name: str, store: StageStore) -> Path:
    """Make the data stage of a complete set, the same as a study's; return its folder. Raises UserError for damage."""
    about = _about(folder, name)
    stage = Stage("data", DATA_VERSION, {"source": about["source"]})

    def write(target: Path) -> None:
        strips: dict[str, NDArray[np.uint8]] = {}
        for file, wanted in about["parts"].items():
            if content_hash(folder / file) != wanted:
                raise UserError(f"{folder / file}: differs from what was written; copy it again")
            with np.load(folder / file) as part:
                strips |= {key: part[key] for key in part.files}
        with ThreadPoolExecutor() as pool:
            decoded = list(pool.map(lambda key: _decode(strips[key], about["size"]), sorted(strips)))
        images, first = np.concatenate(decoded).transpose(0, 3, 1, 2), 0
        with np.load(folder / f"{name}.labels.npz") as labels:
            for key in SPLITS:
                last = first + len(labels[key])
                np.save(target / f"{key}_images.npy", np.ascontiguousarray(images[first:last]))
                np.save(target / f"{key}_labels.npy", labels[key].astype(np.int64))
                first = last
        (target / "data.json").write_text(json.dumps(about["description"], indent=1))

    return store.make(stage, write)


def _about(folder: Path, name: str) -> dict[str, Json]:
    about: dict[str, Json] = json.loads((folder / f"{name}.json").read_text())
    return about
