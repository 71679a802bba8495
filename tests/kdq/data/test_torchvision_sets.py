"""torchvision's data sets: from made-up files in its formats, and from downloads that are stand-ins."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from scipy.io import savemat

from kdq.data.dataset import Dataset, open_dataset
from kdq.data.sources import find_shape, find_source, load_source, needs_download
from kdq.data.spec import DataSpec
from kdq.data.torchvision_sets import IDX_FILES, SETS
from kdq.errors import UserError
from kdq.store.folder_store import StageStore
from tests.kdq.data.own import photo

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
LABELS = np.arange(60, dtype=np.uint8) % 10


def idx(values: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return head + values.tobytes()


def write_idx(folder: Path, compressed: bool = False) -> Path:
    folder.mkdir(parents=True)
    parts = {"train": slice(0, 40), "test": slice(40, 60)}
    for split, (images, labels) in IDX_FILES.items():
        for name, values in ((images, PIXELS), (labels, LABELS)):
            content = idx(values[parts[split]])
            path = folder / f"{name}{'.gz' if compressed else ''}"
            path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def opened(name: str, data_dir: Path | None, store: StageStore, **settings: object) -> Dataset:
    spec = DataSpec.parse({"dataset": f"torchvision:{name}", **settings})
    return open_dataset(store.path(load_source(spec, data_dir, store)), train_images=None, val_images=None)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "runs" / "stages")


@pytest.mark.parametrize("place", [".", "FashionMNIST", "FashionMNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_idx_files_are_read_wherever_and_however_they_lie(
    compressed: bool, place: str, tmp_path: Path, store: StageStore
) -> None:
    write_idx(tmp_path / "x" / place, compressed)
    data = opened("FashionMNIST", tmp_path / "x", store)
    assert torch.equal(data.test_images, torch.from_numpy(PIXELS[40:, None]))
    assert data.test_labels.tolist() == LABELS[40:].tolist()
    assert data.class_names[9] == "Ankle boot"
    assert len(data.train_labels) == 36
    assert data.name == "torchvision:FashionMNIST"


def test_the_identity_is_the_content_of_the_files(tmp_path: Path, store: StageStore) -> None:
    spec = DataSpec("torchvision:MNIST")
    ids = []
    for name, compressed in (("a", True), ("b", False)):
        ids.append(find_source(spec, write_idx(tmp_path / name, compressed), store)[1].id)
    assert ids[0] == ids[1]
    other = DataSpec("torchvision:KMNIST")
    assert find_source(other, tmp_path / "a", store)[1].id != ids[0]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda content: content[:-1], "has 31,359 values, not those of"),
    "longer": (lambda content: content + b"x", "has 31,361 values, not those of"),
    "another kind": (lambda content: b"\x00\x00\x0d\x03" + content[4:], "is no idx file of bytes in 3 dimensions"),
    "empty": (lambda content: b"", "is no idx file of bytes in 3 dimensions"),
    "fewer": (lambda content: idx(PIXELS[:39]), "has 40 labels for the 39 images"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_idx_file_is_refused_by_name(name: str, tmp_path: Path, store: StageStore) -> None:
    damage, message = DAMAGES[name]
    path = write_idx(tmp_path / "x") / IDX_FILES["train"][0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        opened("MNIST", tmp_path / "x", store)


def test_damaged_labels_archives_and_missing_files_are_refused(tmp_path: Path, store: StageStore) -> None:
    path = write_idx(tmp_path / "x", compressed=True) / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx(LABELS[:40] + 1)))
    with pytest.raises(UserError, match="has the label 10, must be 0 to 9"):
        opened("MNIST", tmp_path / "x", store)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"train-labels-idx1-ubyte\.gz: .*; copy or download it again"):
        opened("MNIST", tmp_path / "x", store)
    path.unlink()
    with pytest.raises(UserError, match="torchvision:MNIST: no train-labels-idx1-ubyte in any of"):
        opened("MNIST", tmp_path / "x", store)


class TestSvhn:
    IMAGES = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 50), dtype=np.uint8)
    DIGITS = np.arange(50) % 10 + 1

    def write(self, folder: Path, **fields: Any) -> Path:
        folder.mkdir()
        for name, part in (("train", slice(0, 30)), ("test", slice(30, 50))):
            own = {"X": self.IMAGES[..., part], "y": self.DIGITS[part, None].astype(np.uint8), **fields}
            savemat(folder / f"{name}_32x32.mat", own)
        return folder

    def test_the_label_10_is_the_digit_0(self, tmp_path: Path, store: StageStore) -> None:
        data = opened("SVHN", self.write(tmp_path / "x"), store)
        assert torch.equal(data.test_images, torch.from_numpy(self.IMAGES.transpose(3, 2, 0, 1)[30:].copy()))
        assert data.test_labels.tolist() == [digit % 10 for digit in self.DIGITS[30:]]
        assert data.class_names == tuple("0123456789")

    @pytest.mark.parametrize(
        "fields",
        [
            {"y": np.zeros((30, 1))},
            {"y": np.full((30, 1), 11)},
            {"X": np.zeros((32, 32, 3, 30))},
            {"y": np.ones((7, 1))},
        ],
    )
    def test_others_are_refused(self, fields: dict[str, Any], tmp_path: Path, store: StageStore) -> None:
        with pytest.raises(UserError, match=r"train_32x32\.mat: must hold X, bytes \[32, 32, 3, N\], and y"):
            opened("SVHN", self.write(tmp_path / "x", **fields), store)

    def test_a_text_is_refused(self, tmp_path: Path, store: StageStore) -> None:
        (self.write(tmp_path / "x") / "train_32x32.mat").write_text("no")
        with pytest.raises(UserError, match=r"train_32x32\.mat: is no file of SVHN"):
            opened("SVHN", tmp_path / "x", store)


class TestDownloads:
    def test_a_download_goes_beside_the_store_and_happens_once(
        self, tmp_path: Path, store: StageStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []

        def fake(folder: Path, *, train: bool, download: bool) -> SimpleNamespace:
            calls.append((folder, train, download))
            part = slice(0, 40) if train else slice(40, 60)
            return SimpleNamespace(data=torch.from_numpy(PIXELS[part]), targets=torch.from_numpy(LABELS[part]))

        real = torchvision.datasets.FashionMNIST
        fake.resources, fake.classes = real.resources, real.classes  # type: ignore[attr-defined]
        monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fake)
        for _ in range(2):
            data = opened("FashionMNIST", None, store)
        assert calls == [(store.root.parent / "downloads", train, True) for train in (True, False)]
        assert torch.equal(data.test_images, torch.from_numpy(PIXELS[40:, None]))

    @pytest.mark.parametrize("name", ["MNIST", "SVHN", "Flowers102"])
    def test_one_that_fails_names_both_ways(
        self, name: str, store: StageStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(*_: object, **__: object) -> None:
            raise URLError("no connection")

        monkeypatch.setattr(getattr(torchvision.datasets, name), "__init__", failing)
        settings = {"image_size": 8} if SETS[name].size is None else {}
        with pytest.raises(UserError, match=rf"torchvision:{name}: the download into .* failed .*give --data-dir DIR"):
            opened(name, None, store, **settings)

    def test_nothing_is_downloaded_to_know_the_shape(self) -> None:
        shape = find_shape(DataSpec("torchvision:Flowers102", image_size=64), None)
        assert (shape.train, shape.val, shape.test, shape.size) == (1020, 1020, 6149, 64)
        assert find_shape(DataSpec("torchvision:SVHN"), None).train == 73_257
        assert needs_download(DataSpec("torchvision:SVHN"), None)
        assert not needs_download(DataSpec("torchvision:SVHN"), Path())


def write_flowers(root: Path) -> None:
    (root / "flowers-102" / "jpg").mkdir(parents=True)
    for number in range(1, 31):
        photo(number % 3, number).save(root / "flowers-102" / "jpg" / f"image_{number:05}.jpg")
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.arange(1, 31) % 3 + 1})
    ids = {"trnid": range(1, 11), "valid": range(11, 21), "tstid": range(21, 31)}
    savemat(root / "flowers-102" / "setid.mat", {name: np.array(own) for name, own in ids.items()})


def write_food(root: Path) -> None:
    (root / "food-101" / "meta").mkdir(parents=True)
    for split, first in (("train", 0), ("test", 100)):
        files = {f"dish{label}": [f"dish{label}/{first + n}" for n in range(5)] for label in range(3)}
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(files))
        for label, own in enumerate(files.values()):
            for number, file in enumerate(own):
                path = root / "food-101" / "images" / f"{file}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                photo(label, first + number).save(path)


def write_signs(root: Path) -> None:
    training, test = root / "gtsrb/GTSRB/Training", root / "gtsrb/GTSRB/Final_Test/Images"
    test.mkdir(parents=True)
    rows = []
    for label in range(3):
        (training / f"{label:05}").mkdir(parents=True)
        for number in range(5):
            photo(label, number).save(training / f"{label:05}" / f"{number}.ppm")
            photo(label, 100 + number).save(test / f"{label}-{number}.ppm")
            rows.append({"Filename": f"{label}-{number}.ppm", "ClassId": label})
    with (root / "gtsrb" / "GT-final_test.csv").open("w") as file:
        writer = csv.DictWriter(file, ["Filename", "ClassId"], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def write_pets(root: Path) -> None:
    (root / "oxford-iiit-pet" / "images").mkdir(parents=True)
    (root / "oxford-iiit-pet" / "annotations").mkdir()
    for split, first in (("trainval", 0), ("test", 100)):
        lines = []
        for label in range(3):
            for number in range(first, first + 5):
                photo(label, number).save(root / "oxford-iiit-pet" / "images" / f"breed{label}_{number}.jpg")
                lines.append(f"breed{label}_{number} {label + 1} 1 1\n")
        (root / "oxford-iiit-pet" / "annotations" / f"{split}.txt").write_text("".join(lines))


@pytest.mark.parametrize(
    ("name", "write", "counts"),
    [
        ("Flowers102", write_flowers, (10, 10, 10)),
        ("Food101", write_food, (14, 1, 15)),
        ("GTSRB", write_signs, (14, 1, 15)),
        ("OxfordIIITPet", write_pets, (14, 1, 15)),
    ],
)
def test_photographs_are_those_that_torchvision_lists(
    name: str,
    write: Callable[[Path], None],
    counts: tuple[int, int, int],
    tmp_path: Path,
    store: StageStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The few made-up classes are fewer than the real ones, of which those without images are named in a warning."""
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    write(tmp_path)
    data = opened(name, tmp_path, store, image_size=8)
    assert (len(data.train_labels), len(data.val_labels), len(data.test_labels)) == counts
    assert data.train_images.shape[1:] == (3, 8, 8)
    assert data.classes == SETS[name].classes
    for images, labels in ((data.train_images, data.train_labels), (data.test_images, data.test_labels)):
        colours = images.float().mean((2, 3)).argmax(1)
        assert torch.equal(colours, labels)  # each class has its own colour


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "torchvision:MINST"}, r"unknown data set of torchvision 'MINST': did you mean 'MNIST'\?"),
        ({"dataset": "torchvision:MNIST", "image_size": 32}, "image_size: the images of 'torchvision:MNIST' are known"),
        ({"dataset": "torchvision:DTD"}, "image_size is missing: torchvision:DTD has photographs of many sizes"),
    ],
)
def test_settings_that_do_not_suit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_shape(DataSpec.parse(settings), None)
