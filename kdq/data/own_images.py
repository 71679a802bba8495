"""Images of the user's own as a source: `folder:DIR` or `parquet:DIR`, found, surveyed, and decoded into a stage."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from kdq.data import hub_parquet, image_folder
from kdq.data.arrange import TEST_SHARE, Arrangement, arrange
from kdq.data.decode import Geometry, write_stage
from kdq.data.encoded import TEST, TRAIN, VAL, OwnImages, Survey, listed, sample, survey
from kdq.data.source import Shape
from kdq.data.spec import DROP, DataSpec
from kdq.errors import UserError, first_line
from kdq.store.damage import damaged
from kdq.store.folder_store import StageStore
from kdq.store.stage import Json, Stage

OWN_VERSION = 1
SURVEY_VERSION = 1
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
    surveys: Mapping[str, Survey]
    survey_stage: Stage | None

    def fill(self, stage: Stage, store: StageStore) -> Path:
        """Return the folder of the stage, decoding the images if it is missing; keep what their headers said."""
        if self.survey_stage:
            store.make(self.survey_stage, self._write_surveys)
        return store.make(stage, self._write)

    def _write(self, folder: Path) -> None:
        write_stage(folder, self.own, self.arrangement, self.geometry, drop=self.drop)

    def _write_surveys(self, folder: Path) -> None:
        for name, each in self.surveys.items():
            np.savez(folder / f"{name}.npz", keys=each.keys, sizes=each.sizes, grey=each.grey)


def find_images(spec: DataSpec, data_dir: Path | None) -> OwnImages:
    """Return what the folder holds, without reading an image. Raises UserError as the functions of each kind do."""
    folder = spec.folder(data_dir)
    if not folder.is_dir():
        below = "" if data_dir is None or Path(spec.place).is_absolute() else " (below --data-dir)"
        raise UserError(f"{spec.dataset}: {folder} is no folder{below}; give one that exists")
    if spec.kind == "folder":
        return image_folder.find_images(spec.dataset, folder)
    return hub_parquet.find_images(spec.dataset, folder, spec.image_column, spec.label_column)


def find_own(spec: DataSpec, own: OwnImages, store: StageStore) -> OwnSource:
    """Return the source of images that were found, after reading every file once.

    If the store has what their headers said, and the files have not changed since by size and time, they are not read.
    Its identity is the content of the files and their classes, not their names. Raises UserError for a size that must
    be given.
    """
    stage = _survey_stage(own)
    kept = store.find(stage) if stage else None
    surveys = {name: _read_survey(kept, name) if kept else survey(split) for name, split in own.splits.items()}
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
    return OwnSource(
        identity, own.class_names, found, own, arrangement, geometry, spec.unreadable == DROP, surveys, stage
    )


def _survey_stage(own: OwnImages) -> Stage | None:
    """Return the stage of what the headers say of files as they are now; None if one of them cannot be looked at."""
    stamps = {name: split.stamp() for name, split in own.splits.items()}
    return None if None in stamps.values() else Stage("survey", SURVEY_VERSION, stamps)


def _read_survey(folder: Path, name: str) -> Survey:
    try:
        with np.load(folder / f"{name}.npz") as arrays:
            return Survey(arrays["keys"], arrays["sizes"], arrays["grey"])
    except Exception as error:  # NumPy raises almost any exception for damaged bytes
        raise damaged(folder, f"{name}.npz: {type(error).__name__}: {first_line(error)}") from error


def estimate(spec: DataSpec, data_dir: Path | None) -> Shape:
    """Return what the images hold, from their number and the first few. Raises UserError as `find_own`."""
    own = find_images(spec, data_dir)
    counts = {name: len(split.labels) for name, split in own.splits.items()}
    if VAL in counts and TEST not in counts:
        counts[TEST] = counts.pop(VAL)
    elif TEST not in counts:
        counts[TEST] = max(1, round(TEST_SHARE * counts[TRAIN]))
        counts[TRAIN] -= counts[TEST]
    first = sample(own.splits[TRAIN], SAMPLE)
    readable = first.sizes[:, 0] > 0
    channels = 1 if first.grey[readable].all() else 3
    size = _size(spec, first.sizes[readable])
    return Shape(channels, size, len(own.class_names), counts[TRAIN], counts[TEST], counts.get(VAL, 0))


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
