"""A data stage that is damaged is refused by name, and labels beyond the classes are."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdq.data.dataset import Dataset, open_dataset
from kdq.errors import UserError

COUNTS = {"train": 12, "test": 6}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / ("0" * 64)
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in COUNTS.items():
        np.save(folder / f"{split}_images.npy", random.integers(0, 256, (count, 3, 4, 4), dtype=np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(count) % 3)
    description = {"name": "made", "class_names": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.2] * 3}
    (folder / "data.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def stage(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def opened(folder: Path) -> Dataset:
    return open_dataset(folder, train_images=None, val_images=3)


def gone(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def beheaded(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [gone, cut, beheaded, emptied, longer, folder])
@pytest.mark.parametrize("name", [f"{split}_{kind}.npy" for split in COUNTS for kind in ("images", "labels")])
def test_a_damaged_array_is_named(damage: Callable[[Path], None], name: str, stage: Path) -> None:
    damage(stage / name)
    _refused(stage, name)


def _refused(stage: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"^{stage}: damaged stage \({name}: .*; remove this folder") as raised:
        opened(stage)
    assert "\n" not in str(raised.value)


ARRAYS: dict[str, Callable[[Any], Any]] = {
    "images as numbers": lambda array: array.astype(np.int64 if array.ndim == 4 else np.float32),
    "an axis more": lambda array: array[None],
    "an axis less": lambda array: array[0],
    "none": lambda array: array[:0],
    "objects": lambda array: array.astype(object),
    "columns first": lambda array: np.asfortranarray(array) if array.ndim == 4 else array.astype(np.int32),
}


@pytest.mark.parametrize("change", ARRAYS)
@pytest.mark.parametrize("name", ["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"])
def test_another_array_is_named(change: str, name: str, stage: Path) -> None:
    np.save(stage / name, ARRAYS[change](np.load(stage / name)), allow_pickle=True)
    _refused(stage, name)


@pytest.mark.parametrize("split", COUNTS)
def test_images_and_labels_of_other_numbers_are_refused(split: str, stage: Path) -> None:
    np.save(stage / f"{split}_labels.npy", np.zeros(COUNTS[split] - 1, np.int64))
    _refused(stage, f"{split}_labels.npy")


@pytest.mark.parametrize("label", [-1, 3, 2**40])
@pytest.mark.parametrize("split", COUNTS)
def test_labels_beyond_the_classes_are_refused(label: int, split: str, stage: Path) -> None:
    labels = np.load(stage / f"{split}_labels.npy")
    labels[4] = label
    np.save(stage / f"{split}_labels.npy", labels)
    with pytest.raises(
        UserError, match=rf"{split}_labels\.npy: the labels must be 0 to 2, that of image 4 is {label}\)"
    ):
        opened(stage)


def test_images_of_other_sizes_or_channels_are_refused(stage: Path) -> None:
    np.save(stage / "test_images.npy", np.zeros((6, 3, 5, 5), np.uint8))
    _refused(stage, "test_images.npy")
    np.save(stage / "test_images.npy", np.zeros((6, 1, 4, 4), np.uint8))
    _refused(stage, "test_images.npy")


DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "without a name": lambda fields: {key: fields[key] for key in ("class_names", "mean", "std")},
    "a name that is no text": lambda fields: {**fields, "name": 3},
    "classes in one text": lambda fields: {**fields, "class_names": "abc"},
    "classes twice": lambda fields: {**fields, "class_names": ["a", "b", "b"]},
    "no classes": lambda fields: {**fields, "class_names": []},
    "a mean that is no list": lambda fields: {**fields, "mean": 0.5},
    "a mean of text": lambda fields: {**fields, "mean": ["a"] * 3},
    "a mean too large": lambda fields: {**fields, "mean": [10**400] * 3},
    "a std of 0": lambda fields: {**fields, "std": [0.0] * 3},
    "a std of another length": lambda fields: {**fields, "std": [0.2]},
    "a list": lambda fields: [fields],
    "null": lambda fields: None,
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_damaged_description_is_named(name: str, stage: Path) -> None:
    fields = json.loads((stage / "data.json").read_text())
    (stage / "data.json").write_text(json.dumps(DESCRIPTIONS[name](fields)))
    _refused(stage, "data.json")


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_description_that_is_not_json_is_named(content: bytes | None, stage: Path) -> None:
    (stage / "data.json").unlink()
    if content is not None:
        (stage / "data.json").write_bytes(content)
    _refused(stage, "data.json")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["data.json", "train_images.npy", "train_labels.npy", "test_labels.npy"]),
    place=st.integers(0, 127),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_in_a_head_is_refused_or_harmless(
    name: str, place: int, bit: int, whole: Path, tmp_path: Path
) -> None:
    """A head holds what is parsed. What is left is a data set of the same shape, or with another text or number."""
    folder = tmp_path / whole.name
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    content = bytearray((whole / name).read_bytes())
    content[place % len(content)] ^= 1 << bit
    (folder / name).write_bytes(content)
    try:
        data = opened(folder)
    except UserError as error:
        assert f"{folder}: damaged stage ({name}: " in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert (data.classes, data.train_images.shape, len(data.test_labels)) == (3, (9, 3, 4, 4), 6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 3]), "its val labels must be 0 to 2, that of image 2 is 3"),
        (torch.tensor([0, -1, 3]), "its val labels must be 0 to 2, that of image 1 is -1"),
        (torch.tensor([0, 1]), r"its val labels are torch\.int64 \[2\], must be int64 \[3\]"),
        (torch.tensor([0.0, 1.0, 2.0]), r"its val labels are torch\.float32 \[3\]"),
    ],
)
def test_a_data_set_made_in_memory_is_checked(labels: torch.Tensor, message: str, whole: Path) -> None:
    with pytest.raises(UserError, match=f"^data set 'made': {message}"):
        dataclasses.replace(opened(whole), val_labels=labels)
