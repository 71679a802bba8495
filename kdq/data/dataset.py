"""Data sets in memory: a `data` stage opened as one uint8 tensor per split.

A stage of kind `data` holds `{train,test}_{images,labels}.npy` (uint8 [N, C, H, W]; int64 [N]) and
`data.json` (name, class names, mean and standard deviation of each channel of the training images in [0, 1]).
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdq.errors import UserError
from kdq.models.classifier import Normalization
from kdq.store.stage import digest

SPLIT_VERSION = 1


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory. Images are uint8 [N, C, H, W], labels int64 [N].

    Training and validation images are disjoint parts of the source's training images; the test images are all
    those of the source. fingerprint: SHA-256 of the source's identity and the split.
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

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data set with its tensors on `device`."""
        return dataclasses.replace(
            self,
            train_images=self.train_images.to(device),
            train_labels=self.train_labels.to(device),
            val_images=self.val_images.to(device),
            val_labels=self.val_labels.to(device),
            test_images=self.test_images.to(device),
            test_labels=self.test_labels.to(device),
        )


def open_dataset(stage_path: Path, *, train_images: int | None, val_images: int) -> Dataset:
    """Open a `data` stage, its training images split, stratified by class, into training and validation images.

    The `val_images` validation images are drawn first, so they do not depend on `train_images`, the number drawn
    from the rest (None: all of it). The test images are memory-mapped from the stage's file. Raises UserError if
    there are too few images.
    """
    images, labels = _map(stage_path, "train_images"), _map(stage_path, "train_labels")
    train, val = _split(labels.numpy(), train_images, val_images)
    split = {"train_images": len(train), "val_images": len(val), "version": SPLIT_VERSION}
    description = json.loads((stage_path / "data.json").read_text())
    return Dataset(
        name=description["name"],
        class_names=tuple(description["class_names"]),
        normalization=Normalization(tuple(description["mean"]), tuple(description["std"])),
        train_images=images[train],
        train_labels=labels[train],
        val_images=images[val],
        val_labels=labels[val],
        test_images=_map(stage_path, "test_images"),
        test_labels=_map(stage_path, "test_labels"),
        fingerprint=digest({"source": stage_path.name, **split}),
    )


def _split(
    labels: NDArray[np.int64], train_images: int | None, val_images: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the training and of the validation images."""
    total = len(labels)
    asked = max(1, total - val_images) if train_images is None else train_images
    if val_images < 1 or asked < 1 or val_images + asked > total:
        raise UserError(
            f"{asked} training and {val_images} validation images were requested, {total} are available: each must "
            f"be at least 1, and their sum at most {total}"
        )
    val = stratified(labels, val_images, seed=0)
    rest = np.setdiff1d(np.arange(total), val)
    return rest[stratified(labels[rest], asked, seed=1)], val


def _map(folder: Path, name: str) -> Tensor:
    # Copy-on-write: a tensor may be written to, a stage may not.
    return torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))


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
