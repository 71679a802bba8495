"""Images in folders of classes, as torchvision's ImageFolder and the `datasets` library's imagefolder read them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from kdq.data.encoded import KEYWORDS, TEST, TRAIN, VAL, Block, Bytes, EncodedSplit, OwnImages, listed
from kdq.data.image_files import suffixes
from kdq.errors import UserError, first_line

FILES = 64  # of a block


def find_images(name: str, root: Path) -> OwnImages:
    """Return the images in a folder: of `train/CLASS/…` and its like for the other splits, or else of `CLASS/…`.

    Classes are the subfolders in alphabetical order. Hidden files are skipped; others whose name is not that of an
    image, and images outside of the classes, are skipped and counted. Raises UserError for a folder that does not
    exist, splits without images, fewer than two classes, classes without training images, and classes of other splits
    that training lacks.
    """
    if not root.is_dir():
        raise UserError(f"{name}: {root} is no folder; give the folder whose subfolders are the classes")
    folders = _split_folders(root)
    classes = {split: _subfolders(folder) for split, folder in folders.items()}
    class_names = [folder.name for folder in classes[TRAIN]]
    if len(class_names) < 2:
        raise UserError(
            f"{name}: {folders[TRAIN]} has {len(class_names)} subfolders; it must have one for each class, at least 2"
        )
    if unencodable := [text for text in class_names if not _is_utf8(text)]:
        raise UserError(f"{name}: the class folder {unencodable[0]!r} has a name that is not UTF-8; rename it")
    _check_known(name, classes, class_names)
    found: list[str] = []
    files = {split: [_images(folder, found) for folder in own] for split, own in classes.items()}
    if empty := [folder.name for folder, own in zip(classes[TRAIN], files[TRAIN], strict=True) if not own]:
        raise UserError(
            f"{name}: {len(empty)} of {len(class_names)} class folders in {folders[TRAIN]} hold no images "
            f"({listed(empty)}); fill or remove them"
        )
    _check_filled(name, folders, files)
    splits = {
        split: _split(root, own, [class_names.index(folder.name) for folder in classes[split]])
        for split, own in files.items()
    }
    return OwnImages(name, tuple(class_names), splits, tuple(_remarks(root, folders, found)))


def _remarks(root: Path, folders: Mapping[str, Path], found: Sequence[str]) -> list[str]:
    """Return a line on each kind of what is ignored. found: files in class folders that are no images."""
    others = sorted({folder.name for folder in _subfolders(root)} - {folder.name for folder in folders.values()})
    remarks = []
    if folders[TRAIN] != root and others:
        remarks.append(f"ignored: the folders {listed(others)} beside {folders[TRAIN].name}/")
    if loose := [file for folder in dict.fromkeys([root, *folders.values()]) for file in _loose(folder)]:
        remarks.append(f"ignored: {len(loose):,} images outside of the class folders ({_listed(loose, root)})")
    if found:
        remarks.append(f"ignored: {len(found):,} files that are no images by their names ({_listed(found, root)})")
    return remarks


def _listed(files: Sequence[str], root: Path) -> str:
    return listed([os.path.relpath(file, root) for file in files])


def _is_utf8(text: str) -> bool:
    return text == text.encode(errors="ignore").decode()


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split. A folder `train` that holds files only is a class by that name."""
    inside = _subfolders(root)
    known = {split: [each for each in inside if each.name.lower() in words] for split, words in KEYWORDS.items()}
    if not any(_subfolders(folder) for folder in known[TRAIN]):
        if sum(map(bool, known.values())) > 1 and sum(map(len, known.values())) == len(inside):
            raise UserError(
                f"{root}: has {listed([folder.name for folder in inside])}, but no class folders to train on; sort the "
                "images of each into a folder for each class"
            )
        return {TRAIN: root}
    if several := [found for found in known.values() if len(found) > 1]:
        raise UserError(f"{root}: has {listed([folder.name for folder in several[0]])}; keep one folder for each split")
    return {split: found[0] for split, found in known.items() if found}


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); make the folder readable") from error


def _check_known(name: str, classes: dict[str, list[Path]], class_names: list[str]) -> None:
    for split in (VAL, TEST):
        own = classes.get(split, [])
        if unknown := [folder.name for folder in own if folder.name not in class_names]:
            raise UserError(
                f"{name}: {len(unknown)} class folders in {own[0].parent} are not among those to train on "
                f"({listed(unknown)}); give all splits the same classes"
            )


def _check_filled(name: str, folders: Mapping[str, Path], files: Mapping[str, Sequence[Sequence[str]]]) -> None:
    for split, folder in folders.items():
        if not any(files[split]):
            raise UserError(
                f"{name}: {folder} has no images in class folders, {len(_loose(folder)):,} outside of them; sort them "
                f"into a folder for each class, or move {folder.name}/ elsewhere, to do without it"
            )


def _loose(folder: Path) -> list[str]:
    """Return the images in a folder of classes that belong to none."""
    return sorted(str(entry) for entry in folder.iterdir() if _is_image(entry.name) and not entry.is_dir())


def _is_image(file: str) -> bool:
    """Return whether a file's name is that of an image, and not hidden."""
    return not file.startswith(".") and os.path.splitext(file)[1].lower() in suffixes()  # noqa: PTH122  (a Path a file takes twice as long)


def _images(folder: Path, ignored: list[str]) -> list[str]:
    """Return the image files below a folder in alphabetical order; add to `ignored` those of other names."""
    images: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(name for name in files if not name.startswith(".")):
            (images if _is_image(file) else ignored).append(os.path.join(parent, file))  # noqa: PTH118
    return images


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be listed ({error.strerror}); make the folder readable")


def _split(root: Path, files: Sequence[Sequence[str]], labels: Sequence[int]) -> EncodedSplit:
    """files: of each class folder; labels: of the class folders."""
    paths = [path for own in files for path in own]
    numbers = np.repeat(np.array(labels, dtype=np.int64), [len(own) for own in files])
    return EncodedSplit([os.path.relpath(path, root) for path in paths], numbers, partial(of_files, paths), paths)


def of_files(paths: Sequence[str]) -> Iterator[Block]:
    """Yield the images in files, block by block; each file is read at its turn, since memory may not hold a block."""
    for start in range(0, len(paths), FILES):
        yield Block(start, partial(map, _bytes, paths[start : start + FILES]))


def _bytes(file: str) -> Bytes:
    path = Path(file)
    if not path.is_file():  # a pipe or a device would be waited for
        return UserError("is no file")
    try:
        return path.read_bytes() or UserError("is empty (0 bytes)")
    except OSError as error:
        return UserError(f"cannot be read ({error.strerror or first_line(error)})")
