"""Data sets of torchvision by name: from its verified downloads, or from files in a folder of the user's."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdq.data.encoded import TEST, TRAIN, VAL, EncodedSplit, OwnImages
from kdq.data.image_folder import of_files
from kdq.data.source import Source, Split
from kdq.errors import UserError, first_line, unknown

IDX_FILES = {
    TRAIN: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    TEST: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MAT_FILES = {TRAIN: "train_32x32.mat", TEST: "test_32x32.mat"}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a data set without reading it.

    size: pixels of a side, None for photographs of different sizes, whose files torchvision lists; val: the number of
    validation images of its own; splits: torchvision's names of TRAIN, VAL and TEST.
    """

    channels: int
    size: int | None
    classes: int
    train: int
    test: int
    val: int = 0
    splits: tuple[str, ...] = ("train", "test")


SETS = {
    "MNIST": Known(1, 28, 10, 60_000, 10_000),
    "FashionMNIST": Known(1, 28, 10, 60_000, 10_000),
    "KMNIST": Known(1, 28, 10, 60_000, 10_000),
    "SVHN": Known(3, 32, 10, 73_257, 26_032),
    "Flowers102": Known(3, None, 102, 1_020, 6_149, 1_020, ("train", "val", "test")),
    "DTD": Known(3, None, 47, 1_880, 1_880, 1_880, ("train", "val", "test")),
    "FGVCAircraft": Known(3, None, 100, 3_334, 3_333, 3_333, ("train", "val", "test")),
    "OxfordIIITPet": Known(3, None, 37, 3_680, 3_669, 0, ("trainval", "test")),
    "Food101": Known(3, None, 101, 75_750, 25_250),
    "GTSRB": Known(3, None, 43, 26_640, 12_630),
}
"""torchvision's name -> what it is."""


def known(name: str) -> Known:
    """Return what is known of a data set. Raises UserError for a name that is none of SETS."""
    if name not in SETS:
        raise unknown("data set of torchvision", name, SETS)
    return SETS[name]


def find_arrays(name: str, data_dir: Path | None, downloads: Path) -> Source:
    """Return the source of a data set of equal small images: files below `data_dir`, or else a download.

    The files are those that torchvision downloads: idx files, bare or as .gz, or SVHN's mat files. Raises UserError if
    they are missing or damaged.
    """
    full, is_svhn = f"torchvision:{name}", name == "SVHN"
    if data_dir is None:
        return _downloaded(name, downloads)
    names = list(MAT_FILES.values()) if is_svhn else [file for pair in IDX_FILES.values() for file in pair]
    files = [_find(full, data_dir, name, file) for file in names]
    identity = {"name": full, "sha256": [sha256(_content(file)).hexdigest() for file in files]}
    classes = known(name).classes

    def decode() -> tuple[Split, Split]:
        if is_svhn:
            return read_mat(files[0]), read_mat(files[1])
        return read_idx(files[0], files[1], classes), read_idx(files[2], files[3], classes)

    return Source(identity, _class_names(name), decode)


def _find(full: str, data_dir: Path, name: str, file: str) -> Path:
    folders = (data_dir, data_dir / name, data_dir / name / "raw")
    for folder in folders:
        for suffix in ("", ".gz"):
            if (path := folder / f"{file}{suffix}").is_file():
                return path
    raise UserError(
        f"{full}: no {file} in any of {', '.join(map(str, folders))}; copy it there, or leave --data-dir out on a "
        f"machine with internet access to download it"
    )


def _content(file: Path) -> bytes:
    """Return a file's bytes, decompressed."""
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError) as error:
        raise _damaged(file, first_line(error)) from error


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(f"{file}: {reason}; copy or download it again")


def read_idx(images: Path, labels: Path, classes: int) -> Split:
    """Return images and labels of two idx files (LeCun et al. 1998), uint8 [N, 1, H, W] and int64 [N]."""
    pixels, numbers = _idx(images, 3), _idx(labels, 1).astype(np.int64)
    if len(pixels) != len(numbers):
        raise _damaged(labels, f"has {len(numbers):,} labels for the {len(pixels):,} images in {images.name}")
    if len(numbers) and numbers.max() >= classes:
        raise _damaged(labels, f"has the label {numbers.max()}, must be 0 to {classes - 1}")
    return pixels[:, None], numbers


def _idx(file: Path, dimensions: int) -> NDArray[np.uint8]:
    content = _content(file)
    head = 4 * (1 + dimensions)
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < head:  # 8: unsigned bytes
        raise _damaged(file, f"is no idx file of bytes in {dimensions} dimensions")
    shape = np.frombuffer(content[4:head], dtype=">u4").astype(int).tolist()
    if len(content) - head != np.prod(shape) or not len(content) > head:
        raise _damaged(file, f"has {len(content) - head:,} values, not those of {shape}")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def read_mat(file: Path) -> Split:
    """Return images and labels of one of SVHN's files (Netzer et al. 2011), whose label 10 is the digit 0."""
    from scipy.io import loadmat

    try:
        fields = loadmat(file)
        images, labels = fields["X"], fields["y"].astype(np.int64).reshape(-1)
    except Exception as error:  # the reader raises almost any exception for damaged bytes
        raise _damaged(file, f"is no file of SVHN ({first_line(error)})") from error
    fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[:3] == (32, 32, 3)
    if not fits or images.shape[3] != len(labels) or not len(labels) or not ((labels >= 1) & (labels <= 10)).all():
        raise _damaged(file, "must hold X, bytes [32, 32, 3, N], and y, N labels from 1 to 10")
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % 10


def _downloaded(name: str, downloads: Path) -> Source:
    """Return the source that torchvision downloads; its published checksums identify it before that."""
    dataset = _dataset(name)
    files = dataset.split_list if name == "SVHN" else dict(dataset.resources)
    checksums = [files[split][2] for split in (TRAIN, TEST)] if name == "SVHN" else sorted(files.values())

    def read(split: str) -> Split:
        arguments = {"split": split} if name == "SVHN" else {"train": split == TRAIN}
        found = _made(name, downloads, download=True, **arguments)
        if name == "SVHN":
            return found.data, found.labels
        return found.data.numpy()[:, None], found.targets.numpy().astype(np.int64)

    return Source(
        {"name": f"torchvision:{name}", "md5": checksums}, _class_names(name), lambda: (read(TRAIN), read(TEST))
    )


def find_photographs(name: str, data_dir: Path | None, downloads: Path) -> OwnImages:
    """Return the images of a data set of photographs, as torchvision lists their files, downloading them if needed.

    data_dir: has them where torchvision puts them. Raises UserError if they are missing or the download fails.
    """
    splits, found = known(name).splits, {}
    for target, split in zip((TRAIN, VAL, TEST) if len(splits) == 3 else (TRAIN, TEST), splits, strict=True):
        made = _made(name, data_dir or downloads, download=data_dir is None, split=split)
        files, labels = _listed(made)
        found[target] = EncodedSplit([Path(file).name for file in files], labels, partial(of_files, files), files)
    return OwnImages(f"torchvision:{name}", _class_names(name, made), found)


def _listed(made: Any) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Return the files that a data set reads, and their labels; torchvision does not publish these attributes."""
    if (samples := getattr(made, "_samples", None)) is not None:
        files, labels = zip(*samples, strict=True)
    else:
        files, labels = getattr(made, "_image_files", None) or made._images, made._labels
    return [str(file) for file in files], np.array(labels, dtype=np.int64)


def _dataset(name: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, name)


def _made(name: str, folder: Path, *, download: bool, **arguments: Any) -> Any:
    try:
        if download:
            folder.mkdir(parents=True, exist_ok=True)
        return _dataset(name)(folder, download=download, **arguments)
    except (OSError, RuntimeError) as error:  # no connection; a file that fails its checksum
        what = f"the download into {folder} failed" if download else f"{folder} does not have its files"
        raise UserError(
            f"torchvision:{name}: {what} ({first_line(error)}); give --data-dir DIR with the files as torchvision "
            f"keeps them, or leave it out on a machine with internet access"
        ) from error


def _class_names(name: str, made: Any = None) -> tuple[str, ...]:
    names = getattr(made or _dataset(name), "classes", None)
    classes = known(name).classes
    return tuple(names) if names and len(names) == classes else tuple(map(str, range(classes)))
