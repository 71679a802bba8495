"""Data sets: a `data` stage opened as one uint8 tensor per split.

A stage of kind `data` holds `{train,test}_{images,labels}.npy` (uint8 [N, C, H, W]; int64 [N]) and
`data.json` (name, class names, mean and standard deviation of each channel of the training images in [0, 1]).

A stage of a user's own images has `found` in `data.json`, a line for each thing that was found when they were decoded,
and may have `val_{images,labels}.npy`. Its images are in an order of which every part holds each class in proportion to
its size, so that a split is a part of the file: nothing is copied, and the system keeps in memory what fits.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdq.errors import UserError, first_line
from kdq.models.classifier import CHANNEL_ORDERS, RESIZES, Normalization, Signature
from kdq.store.damage import damaged, read_json
from kdq.store.stage import digest

SPLIT_VERSION = 1
GPU_SHARE = 0.25
"""Of a GPU's memory that the images may take; of more, each batch is copied to it."""
COPIED_SHARE = 0.25
"""Of the machine's memory that a file may take whose tensor can be written to."""

Pair = tuple[Tensor, Tensor]
"""Images uint8 [N, C, H, W] and labels int64 [N]."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory. Images are uint8 [N, C, H, W], labels int64 [N].

    Training and validation images are disjoint parts of the source's training images; the test images are all
    those of the source. A source with validation images of its own gives those. fingerprint: SHA-256 of the source's
    identity and the split; found: what was found when a user's own images were decoded, a line each, None for a data
    set known by its name. Raises UserError for labels that are not one of the classes for each image.
    """

    name: str
    class_names: tuple[str, ...]
    normalization: Normalization
    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    fingerprint: str
    found: tuple[str, ...] | None = None
    resize: str = "crop"

    def __post_init__(self) -> None:
        for split in ("train", "val", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            if labels.device.type != "cpu":
                continue  # moved by `to`, and checked before
            if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
                raise UserError(
                    f"data set {self.name!r}: its {split} labels are {labels.dtype} {list(labels.shape)}, must be "
                    f"int64 [{len(images)}], one for each image"
                )
            if wrong := labels_beyond(labels, self.classes):
                raise UserError(f"data set {self.name!r}: its {split} labels {wrong}")

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def signature(self) -> Signature:
        """What a classifier of these images takes and returns."""
        channels, height, width = self.train_images.shape[1:]
        return Signature(self.class_names, (height, width), CHANNEL_ORDERS.get(channels), self.resize)

    @property
    def device(self) -> torch.device:
        """The device of the labels and of all work on the images, which may be too many to be there themselves."""
        return self.train_labels.device

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data set on `device`; images of more than GPU_SHARE of a GPU's memory stay where they are."""
        names = [field.name for field in dataclasses.fields(self) if isinstance(getattr(self, field.name), Tensor)]
        images = [name for name in names if name.endswith("_images")]
        if sum(getattr(self, name).nbytes for name in images) > _room(torch.device(device)):
            names = [name for name in names if name not in images]
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in names})


def _room(device: torch.device) -> float:
    """Return the bytes that images may take on a device."""
    return GPU_SHARE * torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else math.inf


def open_dataset(stage_path: Path, *, train_images: int | None, val_images: int | None) -> Dataset:
    """Open a `data` stage, its training images split, stratified by class, into training and validation images.

    The `val_images` validation images are drawn first (None: a tenth), so they do not depend on `train_images`, the
    number drawn from the rest (None: all of it). If the stage has validation images of its own, they are the first
    `val_images` of those (None: all). The test images are memory-mapped from the stage's file. Raises UserError if
    there are too few images, or if the stage is damaged.
    """
    name, class_names, normalization, found, resize = _description(stage_path)
    kept = ("train", "val", "test") if (stage_path / "val_labels.npy").exists() else ("train", "test")
    pairs = {split: _pair(stage_path, split, len(class_names), len(normalization.mean)) for split in kept}
    for split, (images, _) in pairs.items():
        if images.shape[1:] != pairs["train"][0].shape[1:]:
            raise damaged(stage_path, f"{split}_images.npy: has images of another size than train_images.npy")
    train, val = _parts(pairs, train_images, val_images, is_ordered=found is not None)
    counts = {"train_images": len(train[1]), "val_images": len(val[1]), "version": SPLIT_VERSION}
    return Dataset(
        name,
        class_names,
        normalization,
        *train,
        *val,
        *pairs["test"],
        fingerprint=digest({"source": stage_path.name, **counts}),
        found=found,
        resize=resize,
    )


def _parts(
    pairs: Mapping[str, Pair], train_images: int | None, val_images: int | None, *, is_ordered: bool
) -> tuple[Pair, Pair]:
    """Return the training and the validation images. is_ordered: their order makes any part of them stratified."""
    images, labels = pairs["train"]
    if "val" in pairs:
        own_images, own_labels = pairs["val"]
        train, val = train_images or len(labels), val_images or len(own_labels)
        if train > len(labels) or val > len(own_labels):
            raise UserError(
                f"{train} training and {val} validation images were requested, {len(labels)} and {len(own_labels)} are "
                f"available; request fewer"
            )
        return (images[:train], labels[:train]), (own_images[:val], own_labels[:val])
    val = max(1, len(labels) // 10) if val_images is None else val_images
    if is_ordered:
        asked = _check_split(len(labels), train_images, val)
        return (images[val : val + asked], labels[val : val + asked]), (images[:val], labels[:val])
    rows, held_out = _split(labels.numpy(), train_images, val)
    return (images[rows], labels[rows]), (images[held_out], labels[held_out])


def labels_beyond(labels: Tensor, classes: int) -> str | None:
    """Return what is wrong with int64 labels that are none of the classes 0 .. classes - 1; None if all are."""
    wrong = (labels < 0) | (labels >= classes)
    if not wrong.any():
        return None
    return f"must be 0 to {classes - 1}, that of image {int(wrong.nonzero()[0])} is {int(labels[wrong][0])}"


def _description(folder: Path) -> tuple[str, tuple[str, ...], Normalization, tuple[str, ...] | None, str]:
    """Return name, class names, normalisation, what was found and how images were resized, as in data.json.

    Raises UserError if it lacks one of the first three.
    """
    try:
        fields = read_json(folder / "data.json")
    except OSError as error:
        raise damaged(folder, f"data.json: {first_line(error)}") from error
    try:
        name, class_names, mean, std = (fields[key] for key in ("name", "class_names", "mean", "std"))
        if not isinstance(name, str) or not _is_list(class_names, str) or len(set(class_names)) != len(class_names):
            raise TypeError("its name must be a text, and its class_names a list of different texts")
        if not _is_list(mean, int | float) or not _is_list(std, int | float):
            raise TypeError("its mean and std must be lists of numbers")
        found = fields.get("found")
        if found not in (None, []) and not _is_list(found, str):
            raise TypeError("its found must be a list of texts")
        lines, resize = None if found is None else tuple(found), fields.get("resize", "crop")
        if resize not in RESIZES:
            raise TypeError(f"its resize must be one of {RESIZES}")
        return name, tuple(class_names), Normalization(tuple(mean), tuple(std)), lines, resize
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise damaged(folder, f"data.json: {type(error).__name__}: {first_line(error)}") from error


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(item, kind) for item in value)


def _pair(folder: Path, split: str, classes: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return images and labels of a split. Raises UserError if they are not what a stage holds."""
    images = _map(folder, f"{split}_images.npy", np.uint8, (None, channels, None, None))
    labels = _map(folder, f"{split}_labels.npy", np.int64, (len(images),))
    if wrong := labels_beyond(labels, classes):
        raise damaged(folder, f"{split}_labels.npy: the labels {wrong}")
    return images, labels


def _map(folder: Path, name: str, dtype: type, shape: Sequence[int | None]) -> Tensor:
    """Return an array of the stage, mapped from its file. shape: the lengths that it must have, None for any."""
    try:
        array = np.load(folder / name, mmap_mode=_mode(folder / name))
        size = array.offset + array.nbytes
    except Exception as error:  # NumPy raises almost any exception for damaged bytes
        raise damaged(folder, f"{name}: {type(error).__name__}: {first_line(error)}") from error
    fits = len(array.shape) == len(shape) and all(
        length > 0 and wanted in (None, length) for length, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits or not array.flags.c_contiguous or size != (folder / name).stat().st_size:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise damaged(folder, f"{name}: holds {array.dtype} {list(array.shape)}, must be {np.dtype(dtype)} [{wanted}]")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def _mode(file: Path) -> Literal["c", "r"]:
    """Return how a file is mapped: copy-on-write, as a tensor may be written to and a stage may not; or read-only.

    The system reserves memory for a copy of the whole file, so a large one is mapped read-only.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "c" if file.stat().st_size <= COPIED_SHARE * memory else "r"


def _split(
    labels: NDArray[np.int64], train_images: int | None, val_images: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the training and of the validation images."""
    total = len(labels)
    asked = _check_split(total, train_images, val_images)
    val = stratified(labels, val_images, seed=0)
    rest = np.setdiff1d(np.arange(total), val)
    return rest[stratified(labels[rest], asked, seed=1)], val


def _check_split(total: int, train_images: int | None, val_images: int) -> int:
    """Return the number of training images. Raises UserError if the images do not suffice."""
    asked = max(1, total - val_images) if train_images is None else train_images
    if val_images < 1 or asked < 1 or val_images + asked > total:
        raise UserError(
            f"{asked} training and {val_images} validation images were requested, {total} are available: each must "
            f"be at least 1, and their sum at most {total}"
        )
    return asked


def stratified(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return sorted indices of `count` of the labels, each class in proportion to its size.

    Fractional shares are rounded by largest remainder (ties: the lower class), so exactly `count` indices are
    returned. The same labels, count and seed give the same indices.
    """
    assert 0 <= count <= len(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).numpy()
    shares = _largest_remainder(np.bincount(labels), count)
    chosen = [order[labels[order] == label][:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(chosen))


def _largest_remainder(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return whole shares of `count`, in proportion to `sizes`, that sum to it; none exceeds its size."""
    shares, remainders = np.divmod(sizes * count, sizes.sum())
    largest = np.argsort(-remainders, kind="stable")[: count - shares.sum()]
    shares[largest] += 1
    return shares
