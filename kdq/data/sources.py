"""Data sets by name: where each comes from, decoded once into a stage.

A stage of kind `data` holds `{train,test}_{images,labels}.npy` (uint8 [N, C, H, W]; int64 [N]) and
`data.json` (name, class names, mean and standard deviation of each channel of the training images in [0, 1])."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

from kdq import plugins
from kdq.data.audit import check_duplicates
from kdq.data.dataset import stratified
from kdq.data.own_images import OwnSource, estimate, find_images, find_own
from kdq.data.parquet import Layout, count_rows, find_split, folders, read_split
from kdq.data.source import Shape, Source, Split
from kdq.data.spec import DataSpec
from kdq.data.statistics import statistics
from kdq.data.torchvision_sets import find_arrays, find_photographs, known
from kdq.errors import UserError, first_line, unknown
from kdq.store.files import content_hash
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

DATA_VERSION = 1
DIGITS_TEST_IMAGES = 500
DIGITS_SHA256 = (
    "6f9d4f819b9f93b490e381c8634a4ecc80351e7a701eb388928f17ce90d9bb0a",
    "ce65a15085cd84a9accb9746d6f019e09bd2e0eced48a7bb8ed246855fd326f7",
    "e29a4e9a3f340e74e748667d726dc835fad45afe721af804bcd98125af504c37",
    "7367ab3acd5ef6f9ed74c4ff1b3e53d1a3491c68ce80946fec70af0f896b01e7",
)
"""Of the bytes of the images and labels for training, and of those for testing."""
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


@dataclass(frozen=True, slots=True)
class Entry:
    """A data set as it is known without reading it.

    find: function of (folder given by the user or None, folder for downloads) that finds the source; is_embedded: the
    data set is part of an installed package, and nothing is downloaded.
    """

    shape: Shape
    find: Callable[[Path | None, Path], Source]
    is_embedded: bool = False


def _digits(data_dir: Path | None, downloads: Path) -> Source:
    """The 1,797 real 8x8 grey images that scikit-learn ships (Alpaydin and Kaynak 1998), scaled to 0..255.

    They have no official split: 500 of them, stratified by class with a fixed seed, are the test images, the
    other 1,297 the training images.
    """
    # The known content identifies them, so a finished stage needs no scikit-learn, whose import takes seconds.
    return Source({"name": "digits", "sha256": list(DIGITS_SHA256)}, tuple("0123456789"), _read_digits)


def _read_digits() -> tuple[Split, Split]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    test[stratified(labels, DIGITS_TEST_IMAGES, seed=0)] = True
    splits = (images[~test], labels[~test]), (images[test], labels[test])
    if tuple(sha256(array.tobytes()).hexdigest() for split in splits for array in split) != DIGITS_SHA256:
        raise UserError(
            "digits: this scikit-learn or NumPy gives other images than before; install the versions of constraints.txt"
        )
    return splits


def _cifar_entry(name: str, class_names: tuple[str, ...], folder: str, label: str) -> Entry:
    """folder, label: where the Hub's repository has the files, and the labels in them."""
    shape = Shape(channels=3, size=32, classes=len(class_names), train=50_000, test=10_000)
    layout = Layout(folder, label, shape.classes, shape.size)
    return Entry(shape, partial(_cifar, name, class_names, shape, layout))


def _cifar(
    name: str, class_names: tuple[str, ...], shape: Shape, layout: Layout, data_dir: Path | None, downloads: Path
) -> Source:
    """CIFAR (Krizhevsky 2009) from the Hub's parquet files in `data_dir`, or else downloaded by torchvision."""
    if data_dir is None:
        return _downloaded_cifar(name, class_names, layout, downloads)
    train, test = (find_split(data_dir, layout, split) for split in ("train", "test"))
    if not (train and test):
        searched = ", ".join(str(folder) for folder in folders(data_dir, layout))
        raise _nowhere(name, layout, f"no train-*.parquet and test-*.parquet in any of {searched}")
    hashes = _distinct_hashes([*train, *test])
    identity = {"name": name, "train": hashes[: len(train)], "test": hashes[len(train) :]}

    def decode() -> tuple[Split, Split]:
        _check_count(train, shape.train)
        _check_count(test, shape.test)
        return read_split(train, layout), read_split(test, layout)

    return Source(identity, class_names, decode)


def _distinct_hashes(files: list[Path]) -> list[str]:
    """Return the content hash of each file. Raises UserError if two are equal, or one is unreadable."""
    found: dict[str, Path] = {}
    for file in files:
        try:
            key = content_hash(file)
        except OSError as error:
            raise UserError(f"{file}: unreadable ({first_line(error)}); copy or download it again") from error
        if key in found:
            raise UserError(f"{file}: is a copy of {found[key]}; replace the wrong one of the two")
        found[key] = file
    return list(found)


def _check_count(files: list[Path], most: int) -> None:
    """Raise UserError if the files of a split hold more images than the data set has in it."""
    if (count := count_rows(files)) > most:
        names = ", ".join(file.name for file in files)
        raise UserError(
            f"{files[0].parent}: {names}: {count:,} images, where the data set has {most:,}; copy or download it again"
        )


def _downloaded_cifar(name: str, class_names: tuple[str, ...], layout: Layout, downloads: Path) -> Source:
    from torchvision import datasets

    dataset = getattr(datasets, name.upper())

    def read(train: bool) -> Split:
        try:
            split = dataset(downloads, train=train, download=True)
        except (OSError, RuntimeError) as error:  # no connection; a file that fails its checksum
            raise _nowhere(name, layout, f"the download into {downloads} failed ({error})") from error
        return split.data.transpose(0, 3, 1, 2), np.array(split.targets, dtype=np.int64)

    # The archive's published checksum identifies its content, so a finished stage needs no download.
    return Source({"name": name, "md5": dataset.tgz_md5}, class_names, lambda: (read(True), read(False)))


def _nowhere(name: str, layout: Layout, reason: str) -> UserError:
    return UserError(
        f"{name}: {reason}. Either give --data-dir DIR with {layout.folder}/{{train,test}}-*.parquet (the "
        f"layout of the Hugging Face Hub), or leave it out on a machine with internet access to download it"
    )


EXAMPLES = ("folder:DIR", "parquet:DIR", "torchvision:NAME")
"""Data sets that are no name, as messages show them."""

DATASETS: dict[str, Entry] = {
    "digits": Entry(Shape(1, 8, 10, train=1297, test=DIGITS_TEST_IMAGES), _digits, is_embedded=True),
    "cifar10": _cifar_entry("cifar10", CIFAR10_CLASSES, "cifar10/plain_text", "label"),
    "cifar100": _cifar_entry("cifar100", tuple(CIFAR100_CLASSES.split()), "cifar100/cifar100", "fine_label"),
}
"""All that is known of a data set is here: its name and its entry."""


def find_shape(spec: DataSpec, data_dir: Path | None) -> Shape:
    """Return what a data set holds; of a user's own images, as far as their number and the first few tell.

    Raises UserError for an unknown name, and for a folder without such images.
    """
    if spec.kind == "torchvision":
        found = known(spec.place)
        if (size := found.size or spec.image_size) is None:
            raise UserError(f"image_size is missing: {spec.dataset} has photographs of many sizes; give it, such as 64")
        return Shape(found.channels, size, found.classes, found.train, found.test, found.val)
    return estimate(spec, data_dir) if spec.kind else _entry(spec.dataset).shape


def needs_download(spec: DataSpec, data_dir: Path | None) -> bool:
    """Return whether a data set that is not there yet must be downloaded."""
    if data_dir is not None or spec.kind in ("folder", "parquet"):
        return False
    return spec.kind == "torchvision" or not _entry(spec.dataset).is_embedded


def _entry(name: str) -> Entry:
    if name not in DATASETS:
        raise unknown("data set", name, [*DATASETS, *EXAMPLES])
    return DATASETS[name]


def register_dataset(name: str, entry: Entry) -> None:
    """Add a data set, from a plugin. Raises UserError for a name that is taken."""
    plugins.add("data set", DATASETS, name, entry, "kdq.conformance.datasets")


def load_source(name: str | DataSpec, data_dir: Path | None, store: StageStore) -> Stage:
    """Return the stage that holds the decoded arrays of a data set, building it if it is missing.

    Its identity is the content of the source, not its path. A data set that must be downloaded is saved to
    `downloads` beside the store. Raises UserError for an unknown name and for missing or damaged files.
    """
    source, stage = find_source(name, data_dir, store)
    fill(source, stage, store)
    return stage


def find_source(name: str | DataSpec, data_dir: Path | None, store: StageStore) -> tuple[Source | OwnSource, Stage]:
    """Return where a data set comes from, and the stage that holds it, or would. Raises UserError as `load_source`."""
    spec = DataSpec(name) if isinstance(name, str) else name
    source = _find(spec, data_dir, store)
    inputs = {"source": source.identity, **plugins.identity(("data set", spec.dataset))}
    return source, Stage("data", DATA_VERSION, inputs)


def _find(spec: DataSpec, data_dir: Path | None, store: StageStore) -> Source | OwnSource:
    downloads = store.root.parent / "downloads"
    if not spec.kind:
        return _entry(spec.dataset).find(data_dir, downloads)
    if spec.kind != "torchvision":
        return find_own(spec, find_images(spec, data_dir), store)
    if known(spec.place).size is None:
        return find_own(spec, find_photographs(spec.place, data_dir, downloads), store)
    return find_arrays(spec.place, data_dir, downloads)


def fill(source: Source | OwnSource, stage: Stage, store: StageStore) -> Path:
    """Return the folder of the stage of a source, decoding its images if it is missing."""
    if isinstance(source, OwnSource):
        return source.fill(stage, store)
    return store.make(stage, lambda folder: _write(folder, source))


def _write(folder: Path, source: Source) -> None:
    name = source.identity["name"]
    (train_images, train_labels), (test_images, test_labels) = source.decode()
    check_duplicates(name, {"training": train_images, "test": test_images})
    normalization = statistics(train_images)
    arrays = {
        "train_images": train_images,
        "train_labels": train_labels,
        "test_images": test_images,
        "test_labels": test_labels,
    }
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", np.ascontiguousarray(array))
    description = {"name": name, "class_names": source.class_names, **asdict(normalization)}
    (folder / "data.json").write_text(json.dumps(description, indent=1))
