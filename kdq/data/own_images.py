"""Images of the user's own as a source: `folder:DIR` or `parquet:DIR`, found, surveyed, and decoded into a stage."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np

from kdq.data import hub_parquet, image_folder
from kdq.data.arrange import TEST_SHARE, Arrangement, arrange
from kdq.data.decode import Geometry, write_stage
from kdq.data.encoded import TEST, TRAIN, VAL, Bytes, EncodedSplit, OwnImages, Survey, listed, survey
from kdq.data.image_files import is_grey, opened, quiet
from kdq.data.source import Shape
from kdq.data.spec import DROP, DataSpec
from kdq.errors import UserError
from kdq.store.stage import Json

OWN_VERSION = 1
LARGEST_DEFAULT = 256
"""Pixels: a common size of the images that is not above it is theirs by default."""
SAMPLE = 64  # images from which a shape is estimated


@dataclass(frozen=True)
class OwnSource:
    """The origin of a data set: `identity` determines its content; found: what a user should know, a line each."""

    identity: Json
    class_names: tuple[str, ...]
    found: tuple[str, ...]
    own: OwnImages
    arrangement: Arrangement
    geometry: Geometry
    drop: bool

    def write(self, folder: Path) -> None:
        """Decode the images into the folder of a stage."""
        write_stage(folder, self.own, self.arrangement, self.geometry, drop=self.drop)


def find_images(spec: DataSpec, data_dir: Path | None) -> OwnImages:
    """Return what the folder holds, without reading an image. Raises UserError as the functions of each kind do."""
    folder = spec.folder(data_dir)
    if not folder.is_dir():
        below = "" if data_dir is None or Path(spec.place).is_absolute() else " (below --data-dir)"
        raise UserError(f"{spec.dataset}: {folder} is no folder{below}; give one that exists")
    if spec.kind == "folder":
        return image_folder.find_images(spec.dataset, folder)
    return hub_parquet.find_images(spec.dataset, folder, spec.image_column, spec.label_column)


def find_own(spec: DataSpec, own: OwnImages) -> OwnSource:
    """Return the source of images that were found, after reading every file once.

    Its identity is the content of the files and their classes, not their names. Raises UserError for a size that must
    be given.
    """
    surveys = {name: survey(split) for name, split in own.splits.items()}
    arrangement = arrange(own, surveys)
    order = "L" if all(each.grey[each.sizes[:, 0] > 0].all() for each in surveys.values()) else "RGB"
    sizes = np.concatenate([each.sizes[each.sizes[:, 0] > 0] for each in surveys.values()])
    _check_readable(spec, sizes)
    geometry = Geometry(_size(spec, sizes), order, spec.resize or "crop")
    identity = {
        "name": "images",
        "version": OWN_VERSION,
        "class_names": own.class_names,
        **{target: _digest(own, surveys, arrangement, target) for target in arrangement.rows},
        **asdict(geometry),
        "unreadable": spec.unreadable or "refuse",
    }
    found = (_on_sizes(own, sizes, geometry), *own.found, *arrangement.found)
    return OwnSource(identity, own.class_names, found, own, arrangement, geometry, spec.unreadable == DROP)


def estimate(spec: DataSpec, data_dir: Path | None) -> Shape:
    """Return what the images hold, from their number and the first few. Raises UserError as `find_own`."""
    own = find_images(spec, data_dir)
    counts = {name: len(split.labels) for name, split in own.splits.items()}
    if VAL in counts and TEST not in counts:
        counts[TEST] = counts.pop(VAL)
    elif TEST not in counts:
        counts[TEST] = max(1, round(TEST_SHARE * counts[TRAIN]))
        counts[TRAIN] -= counts[TEST]
    headers = list(islice(_headers(own.splits[TRAIN]), SAMPLE))
    sizes = np.array([size for size, _ in headers], dtype=np.int64).reshape(-1, 2)
    channels = 1 if headers and all(grey for _, grey in headers) else 3
    return Shape(channels, _size(spec, sizes), len(own.class_names), counts[TRAIN], counts[TEST], counts.get(VAL, 0))


def _headers(split: EncodedSplit) -> Iterator[tuple[tuple[int, int], bool]]:
    """Yield size and greyness of the readable images."""
    for block in split.blocks():
        with quiet():
            found = [header for encoded in block.read() if (header := _header(encoded))]
        yield from found


def _header(encoded: Bytes) -> tuple[tuple[int, int], bool] | None:
    try:
        if isinstance(encoded, UserError):
            return None
        with opened(BytesIO(encoded)) as image:
            return image.size, is_grey(image)
    except UserError:
        return None


def _size(spec: DataSpec, sizes: np.ndarray) -> int:
    """Return the side of the decoded images: the one given, or that of all images. sizes: int64 [N, 2], readable."""
    if spec.image_size is not None:
        return spec.image_size
    _check_readable(spec, sizes)
    width, height = sizes[0].tolist()
    if (sizes == sizes[0]).all() and width == height <= LARGEST_DEFAULT:
        return int(width)
    raise UserError(
        f"{spec.dataset}: image_size is missing: its images are {_range(sizes)} pixels, not all one square of at most "
        f"{LARGEST_DEFAULT}; give it, as in --set image_size=64 (less work) or 224 (as for ImageNet)"
    )


def _check_readable(spec: DataSpec, sizes: np.ndarray) -> None:
    if not len(sizes):
        raise UserError(f"{spec.dataset}: no image is readable; is this the right folder?")


def _range(sizes: np.ndarray) -> str:
    areas = sizes.prod(1)
    ends = (sizes[areas.argmin()], sizes[areas.argmax()])
    texts = [f"{width}x{height}" for width, height in ends]
    return texts[0] if (sizes == sizes[0]).all() else " to ".join(texts)


def _on_sizes(own: OwnImages, sizes: np.ndarray, geometry: Geometry) -> str:
    total = sum(len(split.labels) for split in own.splits.values())
    side, kind = geometry.size, "grey" if geometry.channel_order == "L" else "RGB"
    is_kept = bool((sizes == side).all())
    how = f"kept at {side}x{side}" if is_kept else f"made {side}x{side} by {geometry.resize!r}"
    return (
        f"{own.name}: {total:,} images of {len(own.class_names):,} classes ({listed(own.class_names)}), of "
        f"{_range(sizes)} pixels, {how}, {kind}"
    )


def _digest(own: OwnImages, surveys: Mapping[str, Survey], arrangement: Arrangement, target: str) -> str:
    """Return the SHA-256 of the content and the classes of a target's images in their order."""
    split, rows = arrangement.rows[target]
    return sha256(surveys[split].keys[rows].tobytes() + own.splits[split].labels[rows].tobytes()).hexdigest()
