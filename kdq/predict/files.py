"""Files of images: those that are named, and those in folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdq.data.image_files import suffixes
from kdq.errors import UserError


def find_files(paths: Iterable[Path]) -> tuple[list[Path], int]:
    """Return the files to read, and how many others the folders among the paths hold.

    A path that is no folder is read whatever its name. In a folder and those below, in the order of their names, files
    are read whose names end as those of images do and begin with no dot. Raises UserError for a folder without any.
    """
    files: list[Path] = []
    others = 0
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = list(_walk(path))
        images = [file for file in inside if file.suffix.lower() in suffixes() and not file.name.startswith(".")]
        if not images:
            raise UserError(f"{path}: holds no image files ({len(inside)} others); name a folder of images, or files")
        files += images
        others += len(inside) - len(images)
    return files, others


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); leave it out or permit it") from error

    for place, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        yield from (Path(place, name) for name in sorted(files))
