"""Parquet files of any image-classification data set: columns, labels and splits are found or refused with a reason."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kdq.data.audit import remarks
from kdq.data.dataset import Dataset, open_dataset
from kdq.data.sources import fill, find_shape, find_source
from kdq.data.spec import DataSpec
from kdq.errors import UserError
from kdq.store.folder_store import StageStore
from tests.kdq.data.own import encoded, write_table

NAMES = ["ant", "bee", "cat"]
DECLARED = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": NAMES}}


def opened(root: Path, **settings: object) -> tuple[Dataset, str]:
    """The data set, and what the user learns of it, in lines."""
    spec, store = DataSpec.parse({"dataset": f"parquet:{root}", **settings}), StageStore(root.parent / "stages")
    source, stage = find_source(spec, None, store)
    data = open_dataset(fill(source, stage, store), train_images=None, val_images=None)
    return data, "\n".join([*source.found, *remarks(data)])


def refused(root: Path, **settings: object) -> str:
    with pytest.raises(UserError) as error:
        opened(root, **settings)
    return str(error.value)


def images(labels: Sequence[int], first: int = 0) -> list[bytes | None]:
    return [encoded(label, first + number) for number, label in enumerate(labels)]


def write(root: Path, labels: Any, features: Any = None, name: str = "train-00000-of-00001", **columns: Any) -> Path:
    """Write one file of 30 images of three classes in turn. labels: of its label column, by class."""
    own = [number % 3 for number in range(30)]
    if labels is not None:
        columns["label"] = pa.array([labels[label] for label in own])
    write_table(root / f"{name}.parquet", images(own), features, **columns)
    return root


def whole(data: Dataset) -> dict[bytes, int]:
    """Class by pixels."""
    parts = [
        (data.train_images, data.train_labels),
        (data.val_images, data.val_labels),
        (data.test_images, data.test_labels),
    ]
    return {image.numpy().tobytes(): int(label) for part in parts for image, label in zip(*part, strict=True)}


class TestColumns:
    def test_declared_ones_are_found_and_their_classes_named(self, tmp_path: Path) -> None:
        write(tmp_path / "x", [0, 1, 2], DECLARED, thumbnail=pa.array([b"x"] * 30), source=pa.array(["web"] * 30))
        data, _ = opened(tmp_path / "x")
        assert data.class_names == ("ant", "bee", "cat")
        assert len(whole(data)) == 30

    def test_one_of_several_classes_must_be_named(self, tmp_path: Path) -> None:
        features = DECLARED | {"coarse": {"_type": "ClassLabel", "names": ["a", "b"]}}
        write(tmp_path / "x", [0, 1, 2], features, coarse=pa.array([0, 1] * 15))
        text = refused(tmp_path / "x")
        assert "of its columns coarse, label, several may be the label; name it by label_column" in text
        assert opened(tmp_path / "x", label_column="label")[0].class_names == ("ant", "bee", "cat")
        assert opened(tmp_path / "x", label_column="coarse")[0].class_names == ("a", "b")
        assert "unknown column 'lable': did you mean 'label'?" in refused(tmp_path / "x", label_column="lable")

    def test_without_declarations_types_and_usual_names_decide(self, tmp_path: Path) -> None:
        write(tmp_path / "x", [0, 1, 2], width=pa.array([8] * 30))
        assert opened(tmp_path / "x")[0].class_names == ("0", "1", "2")
        write(tmp_path / "y", None, species=pa.array(["a", "b", "c"] * 10))
        assert opened(tmp_path / "y")[0].class_names == ("a", "b", "c")
        write(tmp_path / "z", None, width=pa.array([1, 2, 3] * 10), height=pa.array([1, 2, 3] * 10))
        assert "of its columns width, height, several may be the label" in refused(tmp_path / "z")

    def test_images_may_be_bytes_alone(self, tmp_path: Path) -> None:
        write_table(tmp_path / "x" / "a.parquet", images([0, 1, 2] * 5), label=pa.array([0, 1, 2] * 5))
        own = [0, 1, 2] * 5
        table = pa.table({"png": images(own), "label": own})
        pa.parquet.write_table(table, tmp_path / "x" / "a.parquet")
        assert len(whole(opened(tmp_path / "x")[0])) == 15

    def test_files_without_images_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        pa.parquet.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "x" / "a.parquet")
        assert "of its columns text, label, none is the image by its type" in refused(tmp_path / "x")
        assert "column text is string, not images as their bytes" in refused(tmp_path / "x", image_column="text")
        (tmp_path / "y").mkdir()
        assert "no parquet files of training images below" in refused(tmp_path / "y")
        (tmp_path / "y" / "a.parquet").write_text("no")
        assert "not a valid parquet file" in refused(tmp_path / "y")


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "names", "line"),
        [
            ([1, 2, 3], ("1", "2", "3"), "labels 1 to 3 are the classes 0 to 2, in that order"),
            ([0, 5, 9], ("0", "5", "9"), "labels 0 to 9, with gaps are the classes 0 to 2, in that order"),
            (["x", "y", "a b"], ("a b", "x", "y"), ""),
            ([False, True, True], ("False", "True"), ""),
        ],
    )
    def test_become_classes_in_ascending_order(
        self, labels: list[Any], names: tuple[str, ...], line: str, tmp_path: Path
    ) -> None:
        data, text = opened(write(tmp_path / "x", labels))
        assert data.class_names == names
        assert line in text
        assert ("are the classes" in text) == bool(line)
        order = sorted(set(labels))
        counts = np.bincount(list(whole(data).values())).tolist()
        assert counts == [10 * labels.count(value) for value in order]

    def test_a_dictionary_of_texts_is_read(self, tmp_path: Path) -> None:
        write(tmp_path / "x", None, label=pa.array(["c", "a", "b"] * 10).dictionary_encode())
        assert opened(tmp_path / "x")[0].class_names == ("a", "b", "c")

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0.0, 1.0, 2.0], "column label is double; a class must be a whole number or a text"),
            ([0, 1, None], "row 2: label is missing; remove such rows"),
            ([0, 1, -2], "column label has the label -2; classes must be at least 0"),
            ([7, 7, 7], "column label has 1 different labels; it must have at least 2"),
        ],
    )
    def test_others_are_refused(self, labels: list[Any], message: str, tmp_path: Path) -> None:
        assert message in refused(write(tmp_path / "x", labels))

    @pytest.mark.parametrize("names", [["ant", "ant", "bee"], [1, 2, 3], [None, "ant", "bee"]])
    def test_declared_names_that_are_no_different_texts_are_refused(self, names: list[Any], tmp_path: Path) -> None:
        write(tmp_path / "x", [0, 1, 2], DECLARED | {"label": {"_type": "ClassLabel", "names": names}})
        assert "must be different texts" in refused(tmp_path / "x")

    def test_of_huge_labels_none_between_them_is_made(self, tmp_path: Path) -> None:
        write(tmp_path / "x", [0, 5, 2**63 - 1])
        data, text = opened(tmp_path / "x")
        assert f"labels 0 to {2**63 - 1}, with gaps are the classes 0 to 2" in text
        assert data.classes == 3

    def test_a_label_beyond_the_declared_names_is_refused(self, tmp_path: Path) -> None:
        text = refused(write(tmp_path / "x", [0, 1, 3], DECLARED))
        assert "row 2: label 3 is none of the 3 classes in training" in text


class TestSplits:
    @pytest.mark.parametrize(
        "names",
        [
            (
                "data/train-00000-of-00001-0123456789abcdef",
                "data/validation-00000-of-00001",
                "data/test-00000-of-00001",
            ),
            ("default/train/0000", "default/validation/0000", "default/test/0000"),
            ("train", "val", "test"),
        ],
    )
    def test_names_of_files_and_folders_decide(self, names: tuple[str, ...], tmp_path: Path) -> None:
        for number, (name, count) in enumerate(zip(names, (30, 6, 9), strict=True)):
            own = [label % 3 for label in range(count)]
            write_table(tmp_path / "x" / f"{name}.parquet", images(own, 100 * number), DECLARED, label=pa.array(own))
        spec = DataSpec(f"parquet:{tmp_path / 'x'}")
        data, _ = opened(tmp_path / "x")
        assert [len(labels) for labels in (data.train_labels, data.val_labels, data.test_labels)] == [30, 6, 9]
        shape = find_shape(spec, None)
        assert (shape.train, shape.val, shape.test, shape.size, shape.classes) == (30, 6, 9, 8, 3)

    def test_shards_are_read_in_order_and_must_be_complete(self, tmp_path: Path) -> None:
        for shard in range(2):
            own = [0, 1, 2] * 70
            name = f"train-{shard:05}-of-00002.parquet"
            write_table(tmp_path / "x" / name, images(own, 1000 * shard), DECLARED, label=pa.array(own))
        data, _ = opened(tmp_path / "x")
        expected = {}
        for shard in range(2):
            for number in range(210):
                image = np.random.default_rng([number % 3, 1000 * shard + number])
                pixels = image.integers(0, 100, (8, 8, 3), dtype=np.uint8)
                pixels[..., number % 3] += 100
                expected[pixels.transpose(2, 0, 1).tobytes()] = number % 3
        assert whole(data) == expected
        (tmp_path / "x" / "train-00001-of-00002.parquet").rename(tmp_path / "x" / "train-00002-of-00003.parquet")
        assert "incomplete or mixed parquet files" in refused(tmp_path / "x")

    def test_several_data_sets_below_a_folder_are_refused_by_name(self, tmp_path: Path) -> None:
        write(tmp_path / "x" / "small", [0, 1, 2])
        write(tmp_path / "x" / "large", [0, 1, 2])
        assert "train files are in several folders (large, small); give the one to use" in refused(tmp_path / "x")

    @pytest.mark.parametrize(
        ("features", "name", "message"),
        [
            ({"label": {"_type": "ClassLabel", "names": NAMES[::-1]}}, "label", "its classes are cat, bee, ant, those"),
            ({}, "other", "unknown column 'label': "),
        ],
    )
    def test_a_file_of_other_classes_or_columns_is_refused(
        self, features: dict[str, Any], name: str, message: str, tmp_path: Path
    ) -> None:
        """Else the labels of the test images would be those of other classes, in silence."""
        root = write(tmp_path / "x", [0, 1, 2], DECLARED)
        labels = {name: pa.array([0, 1, 2])}
        write_table(root / "test-00000-of-00001.parquet", images([0, 1, 2], 50), DECLARED | features, **labels)
        assert message in refused(root)

    def test_a_test_split_without_labels_is_ignored_aloud(self, tmp_path: Path) -> None:
        write(tmp_path / "x", [0, 1, 2], DECLARED)
        write(tmp_path / "x", [-1, -1, -1], DECLARED, name="test-00000-of-00001")
        data, text = opened(tmp_path / "x")
        assert "ignored: the test files, which have no labels" in text
        assert len(data.test_labels) == 6

    def test_bad_images_are_refused_by_row(self, tmp_path: Path) -> None:
        own = images([0, 1, 2] * 10)
        own[4], own[5] = None, b"no image"
        write_table(tmp_path / "x" / "train.parquet", own, DECLARED, label=pa.array([0, 1, 2] * 10))
        text = refused(tmp_path / "x")
        assert "2 of 30 images are unreadable: train.parquet: row 4: has no bytes, " in text
        assert "train.parquet: row 5: is no image that Pillow reads" in text
        assert len(whole(opened(tmp_path / "x", unreadable="drop")[0])) == 28
