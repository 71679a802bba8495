"""Data sets by name: decoded once into a stage, then opened as one uint8 tensor a split.

A stage of kind `data` holds `{train,test}_{images,labels}.npy` (uint8 [N, C, H, W]; int64 [N]) and
`data.json` (name, class names, mean and standard deviation of each channel of the training images in [0, 1]).
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdq.errors import UserError, unknown
from kdq.models import Normalization
from kdq.parquet import Layout, content_hash, find_split, folders, read_split
from kdq.stages import Json, Stage, StageStore, digest

DATA_VERSION = 1
SPLIT_VERSION = 1
DIGITS_TEST_IMAGES = 500

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
worm
"""

Split = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images uint8 [N, C, H, W] and labels int64 [N]."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from: what determines its content, and how to decode it into (train, test)."""

    identity: Json
    class_names: tuple[str, ...]
    decode: Callable[[], tuple[Split, Split]]


def _digits(data_dir: Path | None, downloads: Path) -> Source:
    """The 1,797 real 8x8 grey images that scikit-learn ships (Alpaydin and Kaynak 1998), scaled to 0..255.

    They have no official division: 500 of them, stratified by class with a fixed seed, are the test images,
    the other 1,297 the training images.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    test[stratified(labels, DIGITS_TEST_IMAGES, seed=0)] = True
    splits = (images[~test], labels[~test]), (images[test], labels[test])
    content = [sha256(array.tobytes()).hexdigest() for split in splits for array in split]
    return Source({"name": "digits", "sha256": content}, tuple("0123456789"), lambda: splits)


def _cifar(name: str, class_names: tuple[str, ...], layout: Layout, data_dir: Path | None, downloads: Path) -> Source:
    """CIFAR (Krizhevsky 2009) from the Hub's parquet files in `data_dir`, else by torchvision's download."""
    if data_dir is None:
        return _downloaded_cifar(name, class_names, layout, downloads)
    train, test = (find_split(data_dir, layout, split) for split in ("train", "test"))
    if not (train and test):
        searched = ", ".join(str(folder) for folder in folders(data_dir, layout))
        raise _nowhere(name, layout, f"no train-*.parquet and test-*.parquet in any of {searched}")
    identity = {"name": name, "train": [*map(content_hash, train)], "test": [*map(content_hash, test)]}
    return Source(identity, class_names, lambda: (read_split(train, layout), read_split(test, layout)))


def _downloaded_cifar(name: str, class_names: tuple[str, ...], layout: Layout, downloads: Path) -> Source:
    from torchvision import datasets

    dataset = getattr(datasets, name.upper())

    def read(train: bool) -> Split:
        try:
            split = dataset(downloads, train=train, download=True)
        except (OSError, RuntimeError) as error:  # no connection; a file that fails its checksum
            raise _nowhere(name, layout, f"the download into {downloads} failed ({error})") from error
        return split.data.transpose(0, 3, 1, 2), np.array(split.targets, dtype=np.int64)

    # The archive's published checksum is its content's name, so a finished stage needs no download.
    return Source({"name": name, "md5": dataset.tgz_md5}, class_names, lambda: (read(True), read(False)))


def _nowhere(name: str, layout: Layout, reason: str) -> UserError:
    return UserError(
        f"{name}: {reason}. Either give --data-dir DIR with {layout.folder}/{{train,test}}-*.parquet (the "
        f"layout of the Hugging Face Hub), or leave it out on a machine with internet to download it"
    )


DATASETS: dict[str, Callable[[Path | None, Path], Source]] = {
    "digits": _digits,
    "cifar10": partial(_cifar, "cifar10", CIFAR10_CLASSES, Layout("cifar10/plain_text", "label", 10, 32)),
    "cifar100": partial(
        _cifar,
        "cifar100",
        tuple(CIFAR100_CLASSES.split()),
        Layout("cifar100/cifar100", "fine_label", 100, 32),
    ),
}
"""Name -> function of (folder given by the user or None, folder for downloads) that finds the source."""


def load_source(name: str, data_dir: Path | None, store: StageStore) -> Stage:
    """The stage that holds the decoded arrays of a data set; it is made if it is not there yet.

    Its identity is the content of the source, not its place. A data set that has to be downloaded goes to
    `downloads` beside the store. Raises UserError for an unknown name, or files that are missing or damaged.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    source = DATASETS[name](data_dir, store.root.parent / "downloads")
    stage = Stage("data", DATA_VERSION, {"source": source.identity})
    store.make(stage, lambda folder: _write(folder, name, source))
    return stage


def _write(folder: Path, name: str, source: Source) -> None:
    (train_images, train_labels), (test_images, test_labels) = source.decode()
    arrays = {
        "train_images": train_images,
        "train_labels": train_labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", np.ascontiguousarray(array))
    normalization = statistics(train_images)
    description = {"name": name, "class_names": source.class_names, **dataclasses.asdict(normalization)}
    (folder / "data.json").write_text(json.dumps(description, indent=1))


def statistics(images: NDArray[np.uint8]) -> Normalization:
    """Mean and standard deviation of each channel of uint8 [N, C, H, W], scaled to [0, 1].

    Exact up to one rounding: they come from the integer counts of the 256 values.
    """
    values = np.arange(256) / 255
    counts = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
    means = [float(np.average(values, weights=count)) for count in counts]
    variances = [np.average((values - mean) ** 2, weights=n) for mean, n in zip(means, counts, strict=True)]
    return Normalization(tuple(means), tuple(float(np.sqrt(variance)) for variance in variances))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory. Images are uint8 [N, C, H, W], labels int64 [N].

    Training and validation images are disjoint parts of the source's training images; the test images are all
    of the source's. fingerprint: SHA-256 of the source's identity and the split.
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
        """The same data set with its tensors on `device`."""
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
    """Open a `data` stage, its training images split by class into training and validation images.

    The `val_images` validation images are taken first, so they are the same whatever `train_images` asks of
    the rest (None: all of it). The test images are mapped from the stage's file, not read. Raises UserError
    if there are too few images.
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
    """Indices of the training and of the validation images."""
    total = len(labels)
    asked = max(1, total - val_images) if train_images is None else train_images
    if val_images < 1 or asked < 1 or val_images + asked > total:
        raise UserError(
            f"{asked} training and {val_images} validation images were asked of {total}: each must be at "
            f"least 1, and their sum at most {total}"
        )
    val = stratified(labels, val_images, seed=0)
    rest = np.setdiff1d(np.arange(total), val)
    return rest[stratified(labels[rest], asked, seed=1)], val


def _map(folder: Path, name: str) -> Tensor:
    # Copy-on-write: a tensor may be written to, a stage may not.
    return torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c"))


def stratified(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Sorted indices of `count` of the labels, each class with its share of them.

    Shares that are no whole numbers are rounded by largest remainder (ties: the lower class), so exactly
    `count` indices come back. The same labels, count and seed give the same indices.
    """
    assert 0 <= count <= len(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).numpy()
    shares = _largest_remainder(np.bincount(labels), count)
    chosen = [order[labels[order] == label][:share] for label, share in enumerate(shares)]
    return np.sort(np.concatenate(chosen))


def _largest_remainder(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Whole shares of `count`, in proportion to `sizes`, that sum to it; none exceeds its size."""
    shares, remainders = np.divmod(sizes * count, sizes.sum())
    largest = np.argsort(-remainders, kind="stable")[: count - shares.sum()]
    shares[largest] += 1
    return shares
