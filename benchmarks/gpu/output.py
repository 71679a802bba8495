"""What is brought back: points, measurements, small packed files, a teacher that a later call can resume from.

At most LIMIT bytes in a few files of at most LARGEST, whatever happens: every write leaves the folder whole. The files
are kept in the work folder, and copied to the folder that is brought back, which may be empty at the next call.
"""

import csv
import json
import zipfile
from collections.abc import Mapping
from io import BytesIO, StringIO
from pathlib import Path

from kdq.errors import first_line
from kdq.store.files import publish
from kdq.store.stage import Json

LIMIT = 60_000_000
LARGEST = 15_000_000
SMALL = 300_000  # bytes of a packed file that is brought back
SMALL_BITS = (2, 3, 4)
POINTS, MEASUREMENTS, PACKED = "points.csv", "measurements.json", "packed.zip"
COLUMNS = ("dataset", "row", "student", "bits", "val_top1", "test_top1", "total_bits", "avg_bits", "packed_bytes")
Point = dict[str, str]


class Output:
    """The files in `folder`, and their copies in `mirror`, the folder that is brought back."""

    def __init__(self, folder: Path, mirror: Path) -> None:
        self.folder, self.mirror = folder, mirror
        self.errors: list[str] = []
        """What failed in this call."""
        for place in (folder, mirror):
            place.mkdir(parents=True, exist_ok=True)
            for name in (POINTS, MEASUREMENTS, PACKED, "*.piece*"):
                for left in place.glob(f".{name}-*"):
                    left.unlink()  # of a write that was killed
        for file in folder.iterdir():
            publish(mirror / file.name, file.read_bytes())

    def continue_from(self, parts: Path) -> None:
        """Begin with the files of an earlier machine, if they came back here and the folder has none."""
        for name in (POINTS, MEASUREMENTS, PACKED):
            if (parts / name).exists() and not (self.folder / name).exists():
                self._write(name, (parts / name).read_bytes())

    def _write(self, name: str, content: bytes) -> None:
        for place in (self.folder, self.mirror):
            publish(place / name, content)

    def _remove(self, pattern: str) -> None:
        for place in (self.folder, self.mirror):
            for file in place.glob(pattern):
                file.unlink()

    @property
    def points(self) -> list[Point]:
        file = self.folder / POINTS
        return list(csv.DictReader(StringIO(file.read_text()))) if file.exists() else []

    def has(self, dataset: str, row: str, bits: int) -> bool:
        return any((p["dataset"], p["row"], p["bits"]) == (dataset, row, str(bits)) for p in self.points)

    def add(self, point: Mapping[str, Json], packed: Path) -> None:
        """Add a point, and its packed file if it is small."""
        text = StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*self.points, point])
        self._write(POINTS, text.getvalue().encode())
        size = packed.stat().st_size
        if point["bits"] in SMALL_BITS and size <= SMALL and self._fits(PACKED, self._size(PACKED) + size):
            self._append(f"{point['dataset']}/{point['row']}/{point['bits']}.safetensors", packed)

    def _append(self, name: str, file: Path) -> None:
        archive = self.folder / PACKED
        content = BytesIO(archive.read_bytes() if archive.exists() else b"")
        with zipfile.ZipFile(content, "a") as target:
            if name not in target.namelist():
                target.write(file, name)
        self._write(PACKED, content.getvalue())

    @property
    def measurements(self) -> dict[str, Json]:
        file = self.folder / MEASUREMENTS
        found: dict[str, Json] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def measure(self, name: str, values: Json) -> None:
        self._write(MEASUREMENTS, json.dumps({**self.measurements, name: values}, indent=1).encode())

    def fail(self, name: str, error: BaseException) -> None:
        """Note that something failed, in the measurements and for the exit status; the rest continues."""
        text = f"{name}: {type(error).__name__}: {first_line(error)}"
        print(f"failed: {text}", flush=True)
        self.errors.append(text)
        self.measure("errors", [*self.measurements.get("errors", []), text])

    def keep(self, file: Path) -> None:
        """Bring back a large file in pieces, instead of any other large one; not at all if it does not fit."""
        content = file.read_bytes()
        parts = [content[start : start + LARGEST] for start in range(0, len(content), LARGEST)]
        pieces = {f"{file.name}.piece{number}of{len(parts)}": part for number, part in enumerate(parts)}
        if all((self.folder / name).exists() for name in pieces):
            return
        self._remove("*.piece*")
        if self._fits(file.name, len(content)):
            for name, piece in pieces.items():
                self._write(name, piece)

    def drop(self, file: Path) -> None:
        """Bring a large file back no longer."""
        self._remove(f"{file.name}.piece*")

    def _size(self, name: str) -> int:
        file = self.folder / name
        return file.stat().st_size if file.exists() else 0

    def _fits(self, name: str, size: int) -> bool:
        others = sum(file.stat().st_size for file in self.folder.iterdir() if file.name != name)
        return others + size <= LIMIT


def joined(parts: Path, target: Path) -> bool:
    """Join the pieces of a large file that an earlier call brought back; whether all are there."""
    for first in parts.glob(f"{target.name}.piece0of*"):
        count = int(first.name.rpartition("of")[2])
        pieces = [parts / f"{target.name}.piece{number}of{count}" for number in range(count)]
        if all(piece.exists() for piece in pieces):
            publish(target, b"".join(piece.read_bytes() for piece in pieces))
            return True
    return False
