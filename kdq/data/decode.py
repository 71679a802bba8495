"""Decodes a user's own images into the arrays of a `data` stage, all at one size, on all cores.

Pixels are written to their place in a `.npy` file as soon as they are known, so neither the images nor the arrays need
to fit in memory.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdq.data.arrange import Arrangement
from kdq.data.audit import Pictures, name_duplicates, pixels_key
from kdq.data.encoded import TEST, TRAIN, VAL, Block, Bytes, OwnImages, listed, on_all_cores
from kdq.data.image_files import conversions, opened, resized, upright
from kdq.data.statistics import count_values, from_counts
from kdq.errors import UserError

NAMES = {TRAIN: "training", VAL: "validation", TEST: "test"}
CHUNK = 1024  # images that are moved at a time


@dataclass(frozen=True, slots=True)
class Geometry:
    """The form of decoded images: uint8 [C, size, size]. channel_order: "L" or "RGB"; resize: a name in RESIZES."""

    size: int
    channel_order: str
    resize: str

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.channel_order), self.size, self.size


@dataclass(frozen=True, slots=True)
class Target:
    """The images of one split as they are written. keys: S16 [N], of the pixels; written: bool [N]."""

    descriptor: int
    offset: int
    keys: NDArray[np.bytes_]
    written: NDArray[np.bool_]

    def write(self, position: int, pixels: NDArray[np.uint8]) -> None:
        """Write an image to its place. A full disk raises OSError, where a memory map would kill the process."""
        data = np.ascontiguousarray(pixels).data.cast("B")
        done = 0
        while done < len(data):
            done += os.pwrite(self.descriptor, data[done:], self.offset + position * len(data) + done)
        self.keys[position] = pixels_key(pixels)
        self.written[position] = True


@dataclass(slots=True)
class Outcome:
    """What came of images, of a block or all.

    failures: the target and a text of each; converted: how many how; values: counts of training.
    """

    failures: list[tuple[str, str]]
    converted: Counter[str]
    values: NDArray[np.int64]

    def add(self, other: "Outcome") -> None:
        self.failures.extend(other.failures)
        self.converted.update(other.converted)
        self.values += other.values


def write_stage(folder: Path, own: OwnImages, arrangement: Arrangement, geometry: Geometry, *, drop: bool) -> None:
    """Fill the folder of a `data` stage. drop: leave unreadable images out.

    Raises UserError that names the unreadable images unless they are dropped and leave some of each target, and for
    many duplicates over splits.
    """
    with ExitStack() as stack:
        targets = {
            name: stack.enter_context(_target(folder / f"{name}_images.npy", len(rows), geometry))
            for name, (_, rows) in arrangement.rows.items()
        }
        outcome = _decode(own, arrangement, targets, geometry)
    _check_readable(own.name, targets, outcome.failures, drop=drop)
    for name, (split, rows) in arrangement.rows.items():
        written = targets[name].written
        np.save(folder / f"{name}_labels.npy", own.splits[split].labels[rows][written])
        if not written.all():
            _keep(folder / f"{name}_images.npy", written)
    found = [*_on_images(outcome), *name_duplicates(own.name, _pictures(own, arrangement, targets))]
    images = {"resize": geometry.resize, "found": found}
    description = {"name": own.name, "class_names": own.class_names, **asdict(from_counts(outcome.values)), **images}
    (folder / "data.json").write_text(json.dumps(description, indent=1))


@contextmanager
def _target(file: Path, count: int, geometry: Geometry) -> Iterator[Target]:
    with file.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *geometry.shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.flush()
        offset = stream.tell()
        stream.truncate(offset + count * math.prod(geometry.shape))  # images that are left out are not written
        yield Target(stream.fileno(), offset, np.zeros(count, dtype="S16"), np.zeros(count, dtype=bool))


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes blocks of a split. names, positions: the target of each image, None if it is left out, and its place."""

    places: Sequence[str]
    names: Sequence[str | None]
    positions: NDArray[np.int64]
    targets: Mapping[str, Target]
    geometry: Geometry

    def __call__(self, block: Block) -> Outcome:
        """Write the images of a block to their targets."""
        failures: list[tuple[str, str]] = []
        converted = Counter[str]()
        training = []
        for row, encoded in enumerate(block.read(), block.start):
            if (name := self.names[row]) is None:
                continue
            try:
                pixels, changes = decoded(encoded, self.geometry)
            except UserError as error:
                failures.append((name, f"{self.places[row]} {error}"))
                continue
            self.targets[name].write(int(self.positions[row]), pixels)
            converted.update(changes)
            if name == TRAIN:
                training.append(pixels)
        pixels = np.stack(training) if training else np.zeros((0, *self.geometry.shape), np.uint8)
        return Outcome(failures, converted, count_values(pixels))


def decoded(encoded: Bytes, geometry: Geometry) -> tuple[NDArray[np.uint8], list[str]]:
    """Return an image, uint8 [C, size, size], and what it lost. Raises UserError, without its place, if unreadable."""
    if isinstance(encoded, UserError):
        raise encoded
    with opened(BytesIO(encoded)) as image:
        changes = conversions(image, geometry.channel_order)
        pixels = resized(upright(image, geometry.channel_order), (geometry.size, geometry.size), geometry.resize)
        return pixels.numpy(), changes


def _decode(own: OwnImages, arrangement: Arrangement, targets: Mapping[str, Target], geometry: Geometry) -> Outcome:
    total = Outcome([], Counter(), np.zeros((geometry.shape[0], 256), dtype=np.int64))
    for name, split in own.splits.items():
        decoder = Decoder(split.places, *arrangement.places(name, len(split.labels)), targets, geometry)
        for outcome in on_all_cores(decoder, split.blocks()):
            total.add(outcome)
    return total


def _check_readable(
    name: str, targets: Mapping[str, Target], unreadable: Sequence[tuple[str, str]], *, drop: bool
) -> None:
    """Raise UserError for images that are unreadable and must not be dropped, or of which none is left."""
    if unreadable and not drop:
        total = sum(len(target.written) for target in targets.values())
        raise UserError(
            f"{name}: {len(unreadable):,} of {total:,} images are unreadable: "
            f"{listed([text for _, text in unreadable])}; replace or delete them, or leave them out by unreadable=drop"
        )
    for split, target in targets.items():
        if not target.written.any():
            raise UserError(
                f"{name}: all {len(target.written):,} {NAMES[split]} images are unreadable: "
                f"{listed([text for of, text in unreadable if of == split])}; replace or delete them"
            )


def _keep(file: Path, kept: NDArray[np.bool_]) -> None:
    """Rewrite an array without the images that are not kept."""
    whole, shorter = np.load(file, mmap_mode="r"), file.with_suffix(".shorter")
    rows = np.flatnonzero(kept)
    with shorter.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(rows), *whole.shape[1:])}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(rows), CHUNK):
            stream.write(whole[rows[start : start + CHUNK]].tobytes())
    shorter.replace(file)


def _on_images(outcome: Outcome) -> list[str]:
    counts = ", ".join(f"{count:,} {name}" for name, count in sorted(outcome.converted.items()))
    lines = [f"converted: {counts}"] if counts else []
    if outcome.failures:
        texts = listed([text for _, text in outcome.failures])
        lines.append(f"left out: {len(outcome.failures):,} unreadable images ({texts})")
    return lines


def _pictures(own: OwnImages, arrangement: Arrangement, targets: Mapping[str, Target]) -> dict[str, Pictures]:
    """Return what was written, in the order of NAMES."""
    pictures = {}
    for name in (name for name in NAMES if name in targets):
        split, rows = own.splits[arrangement.rows[name][0]], arrangement.rows[name][1][targets[name].written]
        places = [split.places[row].rstrip(":") for row in rows.tolist()]
        pictures[NAMES[name]] = Pictures(targets[name].keys[targets[name].written], split.labels[rows], places)
    return pictures
