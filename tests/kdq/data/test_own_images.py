"""Folders of a user's own photographs: what is read, how it is split, and what a user learns of it."""

import os
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdq.data import dataset as dataset_module
from kdq.data.arrange import TEST_SHARE, by_content
from kdq.data.audit import remarks
from kdq.data.dataset import Dataset, open_dataset
from kdq.data.decode import NAMES
from kdq.data.encoded import EncodedSplit, Survey, survey
from kdq.data.image_files import read_image, resized
from kdq.data.image_folder import of_files
from kdq.data.sources import fill, find_shape, find_source, load_source
from kdq.data.spec import DataSpec
from kdq.errors import UserError
from kdq.store.folder_store import StageStore
from tests.kdq.data.own import CLASSES, photo, write_classes

SIZE = 8


def opened(folder: Path, val_images: int | None = None, train_images: int | None = None, **settings: object) -> Dataset:
    store = StageStore(folder.parent / "stages")
    path = store.path(load_source(spec_of(folder, **settings), None, store))
    return open_dataset(path, train_images=train_images, val_images=val_images)


def found(folder: Path, **settings: object) -> str:
    """What the user learns of a folder, in lines."""
    spec, store = spec_of(folder, **settings), StageStore(folder.parent / "stages")
    source, stage = find_source(spec, None, store)
    data = open_dataset(fill(source, stage, store), train_images=None, val_images=None)
    return "\n".join([*source.found, *remarks(data)])


def spec_of(folder: Path, **settings: object) -> DataSpec:
    return DataSpec.parse({"dataset": f"folder:{folder}", "image_size": SIZE, **settings})


def refused(folder: Path, **settings: object) -> str:
    with pytest.raises(UserError) as error:
        opened(folder, **settings)
    return str(error.value)


def pictures(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def counts(labels: torch.Tensor) -> list[int]:
    return np.bincount(labels, minlength=len(CLASSES)).tolist()


class TestSplits:
    def test_the_three_folders_are_the_three_splits(self, tmp_path: Path) -> None:
        for number, (name, count) in enumerate([("train", 9), ("val", 3), ("test", 4)]):
            write_classes(tmp_path / "x" / name, [count] * 3, first=100 * number)
        data = opened(tmp_path / "x")
        assert (len(data.train_labels), len(data.val_labels), len(data.test_labels)) == (27, 9, 12)
        assert data.class_names == CLASSES
        for label in range(3):
            expected = {
                resized(photo(label, number), (SIZE, SIZE), "crop").numpy().tobytes() for number in range(200, 204)
            }
            assert pictures(data.test_images[data.test_labels == label]) == expected
        assert counts(opened(tmp_path / "x", val_images=6).val_labels) == [2, 2, 2]
        assert counts(opened(tmp_path / "x", train_images=6).train_labels) == [2, 2, 2]
        assert refused(tmp_path / "x", val_images=10).startswith("27 training and 10 validation images were requested")

    @pytest.mark.parametrize("names", [("training", "testing"), ("train", "validation"), ("train", "eval")])
    def test_of_two_folders_the_second_reports(self, names: tuple[str, str], tmp_path: Path) -> None:
        write_classes(tmp_path / "x" / names[0], [20, 20, 20])
        write_classes(tmp_path / "x" / names[1], [4, 4, 4], first=100)
        data = opened(tmp_path / "x")
        assert (counts(data.train_labels), counts(data.val_labels)) == ([18] * 3, [2] * 3)
        assert counts(data.test_labels) == [4] * 3
        assert ("those for validation are the test images" in found(tmp_path / "x")) == (names[1] == "validation")

    @pytest.mark.parametrize("names", [("Training", "Testing"), ("Train", "Test"), ("TRAIN", "Valid")])
    def test_the_case_of_their_names_does_not_matter(self, names: tuple[str, str], tmp_path: Path) -> None:
        write_classes(tmp_path / "x" / names[0], [20, 20, 20])
        write_classes(tmp_path / "x" / names[1], [4, 4, 4], first=100)
        (tmp_path / "x" / "more").mkdir()
        data = opened(tmp_path / "x")
        assert data.class_names == CLASSES
        assert counts(data.test_labels) == [4] * 3
        assert f"ignored: the folders more beside {names[0]}/" in found(tmp_path / "x")

    @pytest.mark.skipif(sys.platform != "linux", reason="one folder elsewhere")
    def test_two_folders_of_a_split_are_refused(self, tmp_path: Path) -> None:
        for name in ("Train", "train", "test"):
            write_classes(tmp_path / "x" / name, [4, 4])
        assert refused(tmp_path / "x").endswith("x: has Train, train; keep one folder for each split")

    def test_one_folder_is_split(self, tmp_path: Path) -> None:
        data = opened(write_classes(tmp_path / "x", [50, 100, 150]))
        assert counts(data.test_labels) == [10, 20, 30]
        assert counts(data.val_labels) == [4, 8, 12]
        assert counts(data.train_labels) == [36, 72, 108]
        assert f"{TEST_SHARE:.0%} of all images test" in found(tmp_path / "x")
        parts = [pictures(images) for images in (data.train_images, data.val_images, data.test_images)]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 300

    def test_names_of_files_do_not_matter_and_few_more_images_change_little(self, tmp_path: Path) -> None:
        first = opened(write_classes(tmp_path / "a" / "x", [50, 50]))
        renamed = write_classes(tmp_path / "b" / "x", [50, 50])
        for file in sorted(renamed.glob("*/*.png")):
            file.rename(file.with_name(file.name[::-1] + ".png"))
        assert opened(renamed).fingerprint == first.fingerprint
        larger = opened(write_classes(tmp_path / "c" / "x", [52, 52]))
        assert larger.fingerprint != first.fingerprint
        assert len(pictures(first.test_images) & pictures(larger.test_images)) >= 18

    def test_a_folder_named_train_that_holds_images_is_a_class(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "x", [10, 10])
        (tmp_path / "x" / "bee").rename(tmp_path / "x" / "train")
        assert opened(tmp_path / "x").class_names == ("moth", "train")

    def test_folders_of_splits_that_hold_images_are_no_classes(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "x", [10, 10])
        (tmp_path / "x" / "bee").rename(tmp_path / "x" / "train")
        (tmp_path / "x" / "moth").rename(tmp_path / "x" / "test")
        assert "x: has test, train, but no class folders to train on; sort the images" in refused(tmp_path / "x")

    def test_links_and_subfolders_are_followed_and_hidden_files_are_not(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "x", [10, 10])
        write_classes(tmp_path / "y", [0, 0, 10])
        (tmp_path / "x" / "wasp").symlink_to(tmp_path / "y" / "wasp")
        (tmp_path / "x" / "bee" / "more").mkdir()
        photo(0, 99).save(tmp_path / "x" / "bee" / "more" / "a.JPG")
        for name in (".DS_Store", ".hidden.png", "notes.txt", "Thumbs.db"):
            (tmp_path / "x" / "bee" / name).write_bytes(b"x")
        data = opened(tmp_path / "x")
        assert len(data.train_labels) + len(data.val_labels) + len(data.test_labels) == 31
        assert "ignored: 2 files that are no images by their names (bee/Thumbs.db, bee/notes.txt)" in found(
            tmp_path / "x"
        )

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.randoms())
    def test_every_beginning_is_stratified(self, labels: list[int], random: object) -> None:
        numbers = np.unique(labels, return_inverse=True)[1].astype(np.int64)
        keys = np.array([random.randbytes(32) for _ in labels], dtype="S32")  # type: ignore[attr-defined]
        order = by_content(numbers, keys)
        assert sorted(order.tolist()) == list(range(len(labels)))
        sizes = np.bincount(numbers)
        for count in range(len(labels) + 1):
            held = np.bincount(numbers[order[:count]], minlength=len(sizes))
            assert (abs(held - count * sizes / len(labels)) < 1 + len(sizes) / 2).all()
        for label in range(len(sizes)):
            own = keys[order[numbers[order] == label]]
            assert all(a <= b for a, b in pairwise(own))


class TestClasses:
    def test_unequal_or_empty_folders_are_refused_by_name(self, tmp_path: Path) -> None:
        root = tmp_path / "x"
        write_classes(root / "train", [5, 5])
        write_classes(root / "test", [2, 2, 2])
        assert "1 class folders in" in (text := refused(root))
        assert "are not among those to train on (wasp)" in text
        (root / "train" / "wasp").mkdir()
        assert "1 of 3 class folders in" in (text := refused(root))
        assert "hold no images (wasp)" in text

    def test_less_than_two_classes_are_refused(self, tmp_path: Path) -> None:
        assert "has 1 subfolders; it must have one for each class" in refused(write_classes(tmp_path / "x", [5]))
        (tmp_path / "y").mkdir()
        assert "has 0 subfolders" in refused(tmp_path / "y")
        assert "is no folder; give one that exists" in refused(tmp_path / "z")

    @pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode elsewhere")
    def test_a_name_that_is_not_utf8_is_refused_of_a_class_and_read_of_an_image(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [5, 5])
        first = next((root / CLASSES[0]).iterdir())
        first.rename(first.with_name("\udcff.png"))
        data = opened(root)
        assert sum(map(len, (data.train_labels, data.val_labels, data.test_labels))) == 10
        (root / CLASSES[0]).rename(root / "\udcff")
        assert r"the class folder '\udcff' has a name that is not UTF-8; rename it" in refused(root)

    def test_a_class_that_other_splits_lack_is_accepted(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "x" / "train", [10, 10, 10])
        write_classes(tmp_path / "x" / "test", [2, 2], first=20)
        assert counts(opened(tmp_path / "x").test_labels) == [2, 2, 0]

    def test_a_folder_beside_the_splits_is_ignored_aloud(self, tmp_path: Path) -> None:
        write_classes(tmp_path / "x" / "train", [10, 10])
        (tmp_path / "x" / "originals").mkdir()
        assert "ignored: the folders originals beside train/" in found(tmp_path / "x")

    def test_images_outside_of_the_class_folders_are_counted(self, tmp_path: Path) -> None:
        flat = write_classes(tmp_path / "x", [10, 10])
        for place in ("a.jpg", "b.PNG", ".hidden.png", "labels.csv"):
            (flat / place).write_bytes(b"x")
        assert "ignored: 2 images outside of the class folders (a.jpg, b.PNG)" in found(flat)
        split = tmp_path / "y"
        for number, name in enumerate(("train", "val", "test")):
            write_classes(split / name, [10, 10], first=100 * number)
            (split / name / "a.jpg").write_bytes(b"x")
        (split / "b.jpg").write_bytes(b"x")
        names = "b.jpg, train/a.jpg, val/a.jpg, test/a.jpg"
        assert f"ignored: 4 images outside of the class folders ({names})" in found(split)

    @pytest.mark.parametrize("name", ["test", "val", "Testing"])
    def test_a_split_without_images_in_class_folders_is_refused(self, name: str, tmp_path: Path) -> None:
        root = tmp_path / "x"
        write_classes(root / "train", [10, 10])
        (root / name).mkdir()
        for number in range(3):
            photo(0, 50 + number).save(root / name / f"{number}.png")
        text = refused(root)
        assert f"x/{name} has no images in class folders, 3 outside of them; sort them into a folder for each" in text
        assert f"or move {name}/ elsewhere" in text
        (root / name / "bee").mkdir()
        assert refused(root) == text


class TestSize:
    def test_the_common_size_is_the_default(self, tmp_path: Path) -> None:
        data = opened(write_classes(tmp_path / "x", [10, 10], size=(9, 9)), image_size=None)
        assert data.train_images.shape[1:] == (3, 9, 9)
        assert (
            found(tmp_path / "x", image_size=None)
            .splitlines()[0]
            .endswith("20 images of 2 classes (bee, moth), of 9x9 pixels, kept at 9x9, RGB")
        )

    @pytest.mark.parametrize("size", [(12, 8), (300, 300)])
    def test_otherwise_it_must_be_given(self, size: tuple[int, int], tmp_path: Path) -> None:
        text = refused(write_classes(tmp_path / "x", [3, 3], size=size), image_size=None)
        assert f"image_size is missing: its images are {size[0]}x{size[1]} pixels" in text
        assert "--set image_size=64" in text

    @pytest.mark.parametrize("how", ["crop", "stretch", "pad"])
    def test_images_are_those_that_predictions_see(self, how: str, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [5, 5], suffix=".jpg", size=(20, 13))
        data = opened(root, resize=how)
        assert data.signature.resize == how
        expected = {
            resized(read_image(file, "RGB"), (SIZE, SIZE), how).numpy().tobytes() for file in root.glob("*/*.jpg")
        }
        assert pictures(torch.cat([data.train_images, data.val_images, data.test_images])) == expected

    def test_grey_images_stay_grey(self, tmp_path: Path) -> None:
        for label in range(2):
            (tmp_path / "x" / CLASSES[label]).mkdir(parents=True)
            for number in range(10):
                photo(label, number).convert("L").save(tmp_path / "x" / CLASSES[label] / f"{number}.png")
        data = opened(tmp_path / "x")
        assert data.train_images.shape[1:] == (1, SIZE, SIZE)
        assert "converted" not in found(tmp_path / "x")
        photo(0, 50).save(tmp_path / "x" / "bee" / "colour.png")
        assert "converted: 20 grey (to RGB)" in found(tmp_path / "x")

    def test_an_estimate_comes_before_anything_is_decoded(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [10, 10])
        shape = find_shape(DataSpec(f"folder:{root}", image_size=SIZE), None)
        assert (shape.channels, shape.size, shape.classes) == (3, SIZE, 2)
        assert (shape.train, shape.val, shape.test) == (16, 0, 4)

    def test_a_relative_folder_is_below_the_data_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_classes(tmp_path / "x", [5, 5])
        spec = DataSpec("folder:x", image_size=SIZE)
        assert find_shape(spec, tmp_path).classes == 2
        with pytest.raises(UserError, match=r"is no folder; give one"):
            find_shape(spec, None)
        monkeypatch.chdir(tmp_path)
        assert find_shape(spec, None).classes == 2


def damage(name: str) -> Callable[[Path], None]:
    """Return a function that writes a bad image to a path."""

    def empty(path: Path) -> None:
        path.write_bytes(b"")

    def text(path: Path) -> None:
        path.write_text("no image")

    def truncated(path: Path) -> None:
        photo(0, 7, (64, 64)).save(path, "JPEG")
        os.truncate(path, path.stat().st_size // 2)

    def bomb(path: Path) -> None:
        Image.new("1", (20_000, 20_000)).save(path, "PNG")

    def postscript(path: Path) -> None:
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")

    def folder(path: Path) -> None:
        os.mkfifo(path)

    return {
        "empty": empty,
        "text": text,
        "truncated": truncated,
        "bomb": bomb,
        "postscript": postscript,
        "pipe": folder,
    }[name]


REASONS = {
    "empty": "is empty (0 bytes)",
    "text": "is no image that Pillow reads, or damaged",
    "truncated": "cannot be decoded (",
    "bomb": "has far too many pixels",
    "postscript": "is no image that Pillow reads",
    "pipe": "is no file",
}


class TestQuality:
    @pytest.mark.parametrize("name", REASONS)
    def test_an_unreadable_file_is_refused_or_left_out(self, name: str, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [10, 10])
        damage(name)(root / "bee" / "bad.jpg")
        text = refused(root)
        assert text.startswith(f"folder:{root}: 1 of 21 images are unreadable: bee/bad.jpg {REASONS[name]}")
        assert text.endswith("replace or delete them, or leave them out by unreadable=drop")
        data = opened(root, unreadable="drop")
        assert len(data.train_labels) + len(data.val_labels) + len(data.test_labels) == 20
        assert f"left out: 1 unreadable images (bee/bad.jpg {REASONS[name]}" in found(root, unreadable="drop")

    def test_all_unreadable_files_are_counted_and_the_first_are_named(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [10, 10])
        for number in range(7):
            (root / "moth" / f"z{number}.png").write_text(f"text {number}")
        text = refused(root)
        assert "7 of 27 images are unreadable" in text
        assert [f"moth/z{number}.png" in text for number in range(7)] == [True] * 5 + [False] * 2
        assert "and 2 more" in text
        kept, clean = opened(root, unreadable="drop"), opened(write_classes(tmp_path / "y", [10, 10]))
        for split in ("train", "val", "test"):
            images, labels = getattr(kept, f"{split}_images"), getattr(kept, f"{split}_labels")
            for image, label in zip(images, labels, strict=True):
                whole = torch.cat([clean.train_images, clean.val_images, clean.test_images])
                own = torch.cat([clean.train_labels, clean.val_labels, clean.test_labels])
                assert own[(whole == image).all((1, 2, 3))].tolist() == [label]

    def test_nothing_readable_is_refused_even_if_dropped(self, tmp_path: Path) -> None:
        for name in CLASSES[:2]:
            (tmp_path / "x" / name).mkdir(parents=True)
            (tmp_path / "x" / name / "a.png").write_text(name)
        assert "no image is readable" in refused(tmp_path / "x", image_size=None, unreadable="drop")
        assert "no image is readable" in refused(tmp_path / "x", unreadable="drop")

    @pytest.mark.parametrize("name", ["train", "val", "test"])
    def test_a_split_of_which_nothing_is_readable_is_refused_even_if_dropped(self, name: str, tmp_path: Path) -> None:
        root = tmp_path / "x"
        for number, split in enumerate(NAMES):
            write_classes(root / split, [4, 4], first=10 * number)
        for number, file in enumerate(sorted((root / name).glob("*/*.png"))):
            file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{number}\n")
        first = f"{name}/bee/{10 * list(NAMES).index(name)}.png is no image that Pillow reads"
        assert f": all 8 {NAMES[name]} images are unreadable: {first}" in (text := refused(root, unreadable="drop"))
        assert text.endswith(" and 3 more; replace or delete them")

    def test_what_is_converted_is_counted(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [20, 20])
        upright = photo(0, 101)
        photo(0, 100).convert("CMYK").save(root / "bee" / "cmyk.jpg")
        exif = upright.getexif()
        exif[0x0112] = 6
        turned = upright.transpose(Image.Transpose.ROTATE_90)
        turned.save(root / "bee" / "turned.png", exif=exif)
        photo(0, 102).convert("P").save(root / "bee" / "palette.png")
        photo(0, 103).save(root / "bee" / "moving.gif", save_all=True, append_images=[photo(1, 104)])
        Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600).save(root / "bee" / "deep.png")
        photo(0, 105).convert("RGBA").save(root / "bee" / "opaque.png")
        data = opened(root)
        line = next(line for line in data.found if line.startswith("converted"))
        for part in (
            "1 CMYK",
            "1 animated (first frame)",
            "1 rotated or mirrored by their EXIF data",
            "1 of more than 8 bits a channel",
            "1 grey (to RGB)",
            "2 with a palette",
            "1 with transparency (on white)",
        ):
            assert part in line
        whole = pictures(torch.cat([data.train_images, data.val_images, data.test_images]))
        assert resized(upright, (SIZE, SIZE), "crop").numpy().tobytes() in whole

    def test_copies_are_left_out_before_images_are_split(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [30, 30])
        before = opened(root)
        for number in range(10):
            shutil.copy(root / "bee" / f"{number}.png", root / "bee" / f"copy{number}.png")
        after = opened(root)
        assert "left out: 10 train images that are copies of others in the same class" in found(root)
        assert after.fingerprint == before.fingerprint

    def test_copies_in_other_classes_are_left_out_or_refused(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [150, 150])
        shutil.copy(root / "bee" / "3.png", root / "moth" / "b3.png")
        text = found(root)
        assert "left out: 2 train images with copies in other classes (bee/3.png (bee), moth/b3.png (moth))" in text
        for number in range(4, 8):
            shutil.copy(root / "bee" / f"{number}.png", root / "moth" / f"b{number}.png")
        assert "10 train images have copies in other classes (bee/3.png (bee), " in refused(root)

    def test_many_duplicates_over_given_splits_are_refused_and_few_are_counted(self, tmp_path: Path) -> None:
        root = tmp_path / "x"
        write_classes(root / "train", [120, 120])
        write_classes(root / "test", [60, 60], first=500)
        photo(0, 500).save(root / "train" / "bee" / "a.bmp")  # the same pixels in another file
        pair = "test/bee/500.png = train/bee/a.bmp"
        assert f"duplicates: 1 test image is also a training image ({pair})" in found(root)
        shutil.copytree(root / "train" / "moth", root / "test" / "moth", dirs_exist_ok=True)
        assert "121 test images are also training images, of 240: at most 1% may be duplicates (" in (
            text := refused(root)
        )
        assert " and 116 more); remove copies of files" in text

    def test_images_saved_again_are_named_and_many_are_refused(self, tmp_path: Path) -> None:
        root = tmp_path / "x"
        write_classes(root / "train", [10, 10])
        write_classes(root / "test", [5, 5], first=500)
        for number in range(2):
            photo(0, number).save(root / "train" / "bee" / f"{number}again.bmp")
        line = next(line for line in found(root).splitlines() if line.startswith("duplicates"))
        assert line.startswith("duplicates: 2 training images repeat others of the same class (")
        for number in range(2):
            pair = [f"train/bee/{number}.png", f"train/bee/{number}again.bmp"]
            assert " = ".join(pair) in line or " = ".join(pair[::-1]) in line
        photo(1, 500).save(root / "test" / "moth" / "a.bmp")
        photo(1, 501).save(root / "test" / "moth" / "b.bmp")
        text = refused(root)
        assert ": 2 test images repeat others of the same class, of 12: at most 10% may be duplicates (" in text
        assert "test/moth/a.bmp" in text

    def test_one_image_saved_again_in_another_class_is_refused(self, tmp_path: Path) -> None:
        root = tmp_path / "x"
        write_classes(root / "train", [20, 20])
        write_classes(root / "test", [5, 5], first=500)
        photo(0, 3).save(root / "train" / "moth" / "b3.bmp")
        text = refused(root)
        assert ": 1 training image repeats another, of 41: at most 1% may be duplicates (" in text
        assert "train/moth/b3.bmp" in text
        assert "train/bee/3.png" in text

    def test_a_full_disk_is_an_error_and_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        root = write_classes(tmp_path / "x", [5, 5])
        monkeypatch.setattr("kdq.data.decode.os.pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            opened(root)
        assert [path for path in (tmp_path / "stages" / "data").glob("*") if path.suffix != ".lock"] == []


def test_files_of_a_block_are_read_one_by_one(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(b"first")
    (block,) = of_files([str(file) for file in files])
    contents = iter(block.read())
    assert next(contents) == b"first"
    files[1].write_bytes(b"second")
    assert list(contents) == [b"second"]


class TestStage:
    def test_it_is_made_once_whatever_the_number_of_cores(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = write_classes(tmp_path / "x", [100, 100])
        stages = []
        for cores in (1, 5):
            monkeypatch.setattr("kdq.data.encoded.os.cpu_count", lambda cores=cores: cores)
            store = StageStore(tmp_path / f"stages{cores}")
            path = store.path(load_source(DataSpec(f"folder:{root}", image_size=SIZE), None, store))
            stages.append({file.name: file.read_bytes() for file in path.iterdir()})
        assert stages[0] == stages[1]

    @pytest.mark.parametrize("share", [0.25, 0.0])
    def test_images_are_parts_of_the_mapped_file(
        self, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dataset_module, "COPIED_SHARE", share)
        data = opened(write_classes(tmp_path / "x", [50, 50]), val_images=20)
        start, step = data.val_images.data_ptr(), data.val_images[0].numel()
        assert data.train_images.data_ptr() == start + 20 * step
        assert data.train_images[torch.tensor([3, 1])].shape == (2, 3, SIZE, SIZE)

    def test_files_are_read_again_only_if_they_changed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = write_classes(tmp_path / "x", [10, 10])
        first = opened(root)
        read = []

        def watched(split: EncodedSplit) -> Survey:
            read.append(split)
            return survey(split)

        monkeypatch.setattr("kdq.data.own_images.survey", watched)
        assert opened(root).fingerprint == first.fingerprint
        assert read == []
        pixels = photo(1, 99, (12, 8))
        pixels.save(root / "moth" / "3.png")
        os.utime(root / "moth" / "3.png", ns=(1, 2))
        assert opened(root).fingerprint != first.fingerprint
        assert len(read) == 1
        for path in (tmp_path / "stages" / "survey").glob("*/train.npz"):
            path.write_bytes(b"damaged")
        with pytest.raises(UserError, match=r"damaged stage \(train\.npz: "):
            opened(root)
        shutil.rmtree(tmp_path / "stages" / "survey")
        assert opened(root).fingerprint != first.fingerprint
        assert len(read) == 2

    def test_the_settings_are_part_of_its_identity(self, tmp_path: Path) -> None:
        root = write_classes(tmp_path / "x", [5, 5])
        store = StageStore(tmp_path / "stages")
        settings = [{}, {"image_size": 9}, {"resize": "pad"}, {"unreadable": "drop"}]
        specs = [DataSpec.parse({"dataset": f"folder:{root}", "image_size": SIZE, **each}) for each in settings]
        assert len({find_source(spec, None, store)[1].id for spec in specs}) == 4
        assert not store.root.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "digits", "image_size": 64}, "image_size: the images of 'digits' are known"),
        ({"dataset": "folder:"}, "dataset = 'folder:': must name a folder, as in folder:DIR"),
        ({"dataset": "folder:x", "label_column": "y"}, "label_column: only parquet files have columns"),
        ({"dataset": "folder:x", "image_size": 0}, "image_size = 0: must be from 1 to 4096"),
        ({"dataset": "folder:x", "resize": "fit"}, "unknown resize 'fit'"),
        ({"dataset": "folder:x", "unreadable": "skip"}, "unknown unreadable 'skip'"),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataSpec.parse(settings)


def test_an_unknown_name_lists_the_kinds() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'fodler:x': .*folder:DIR.*parquet:DIR"):
        find_shape(DataSpec("fodler:x"), None)
