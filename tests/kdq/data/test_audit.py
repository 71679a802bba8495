"""Duplicated images and classes without images, against counts that are known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdq.data.audit import LARGEST_SHARE, check_duplicates, find_duplicates, remarks
from kdq.data.dataset import Dataset, open_dataset
from kdq.data.sources import load_source
from kdq.errors import UserError
from kdq.store.folder_store import StageStore


def images(*values: int) -> np.ndarray:
    """uint8 [N, 1, 1, 2]: an image for each value, equal where the values are."""
    return np.array([[[[value % 256, value // 256]]] for value in values], dtype=np.uint8).reshape(-1, 1, 1, 2)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    store = StageStore(tmp_path_factory.mktemp("stages"))
    return open_dataset(store.path(load_source("digits", None, store)), train_images=None, val_images=240)


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 9), max_size=12))
def test_equal_to_the_naive_count(train, test):
    expected = {
        ("training", "training"): len(train) - len(set(train)),
        ("test", "training"): sum(value in train for value in test),
        ("test", "test"): len([v for v in test if v not in train]) - len({v for v in test if v not in train}),
    }
    actual = find_duplicates({"training": images(*train), "test": images(*test)})
    assert actual == {pair: count for pair, count in expected.items() if count}


def test_one_pixel_makes_the_difference():
    first, second = np.zeros((2, 1, 3, 32, 32), dtype=np.uint8)
    second[0, 2, 31, 31] = 1
    assert find_duplicates({"training": first, "test": second}) == {}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([*range(100), *range(100)], [500], r"x: 100 training images repeat others, of 200: at most 1% may be"),
        (range(300), [500, *range(3)], r"x: 3 test images are also training images, of 4"),
        (range(300), [500, 500], r"x: 1 test image repeats another, of 2"),
    ],
)
def test_a_large_share_is_refused(train, test, message):
    with pytest.raises(UserError, match=message):
        check_duplicates("x", {"training": images(*train), "test": images(*test)})


def test_a_small_share_is_accepted():
    assert LARGEST_SHARE == 0.01
    check_duplicates("x", {"training": images(*range(99), 0), "test": images(*range(500, 599), 7)})
    with pytest.raises(UserError):
        check_duplicates("x", {"training": images(*range(98), 0), "test": images(999)})


class TestRemarks:
    def test_nothing_is_odd_about_the_digits(self, digits):
        assert remarks(digits) == []

    def test_duplicates_are_counted_in_one_line(self, digits):
        test = digits.test_images.clone()
        test[3:5] = digits.train_images[7]
        test[8] = digits.val_images[2]
        (line,) = remarks(dataclasses.replace(digits, test_images=test))
        assert line == "duplicates: 2 test images are also training images; 1 test image is also a validation image"

    def test_a_class_without_images_is_named(self, tmp_path):
        store = StageStore(tmp_path)
        folder: Path = store.path(load_source("digits", None, store))
        data = open_dataset(folder, train_images=8, val_images=240)
        present = set(data.train_labels.tolist())
        missing = [name for label, name in enumerate(data.class_names) if label not in present]
        assert remarks(data) == [f"warning: 2 of 10 classes have no training images ({', '.join(missing)})"]
        few = remarks(open_dataset(folder, train_images=1, val_images=1))
        assert [line.partition(" (")[0] for line in few] == [
            "warning: 9 of 10 classes have no training images",
            "warning: 9 of 10 classes have no validation images",
        ]
        assert few[0].count(",") == 5
