import struct
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision.datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from kdq.data import sources
from kdq.data.audit import check_duplicates, find_duplicates
from kdq.data.dataset import open_dataset, stratified
from kdq.data.parquet import Layout, find_split, read_split
from kdq.data.sources import DATASETS, load_source
from kdq.data.statistics import statistics
from kdq.errors import UserError
from kdq.store.folder_store import StageStore

TRAIN, TEST = 60, 20
KNOWN_DUPLICATES = {
    "cifar100": {("training", "training"): 14, ("test", "training"): 10, ("test", "test"): 2},
}
FOLDER = Path("cifar10/plain_text")
LAYOUT = Layout("cifar10/plain_text", "label", 10, 32)


def pixels(count: int, seed: int) -> np.ndarray:
    """uint8 [count, 3, 32, 32]; the first pixel is the number of the image."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return images


def encode(image: np.ndarray, codec: str = "PNG") -> bytes:
    stream = BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(stream, codec, **({"lossless": True} if codec == "WEBP" else {}))
    return stream.getvalue()


def write_parquet(
    path: Path,
    encoded: Sequence[bytes | None],
    labels: Sequence[object],
    image: str = "img",
    label: str = "label",
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": item, "path": f"{index}.png"} for index, item in enumerate(encoded)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({image: pa.array(rows, kind), label: pa.array(labels)}), path, row_group_size=16)
    return path


def write_cifar(root: Path, codec: str = "PNG") -> Path:
    """A small CIFAR-10: TRAIN and TEST images, the classes in turn."""
    for split, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
        encoded = [encode(image, codec) for image in pixels(count, seed)]
        labels = [index % 10 for index in range(count)]
        write_parquet(root / FOLDER / f"{split}-00000-of-00001.parquet", encoded, labels)
    return root


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar(tmp_path_factory.mktemp("cifar"))


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "study" / "stages")


@pytest.fixture(scope="module")
def stage_path(cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = StageStore(tmp_path_factory.mktemp("stages"))
    return store.path(load_source("cifar10", cifar, store))


class TestSources:
    def test_digits_are_scikit_learns(self, store):
        path = store.path(load_source("digits", None, store))
        splits = [(np.load(path / f"{s}_images.npy"), np.load(path / f"{s}_labels.npy")) for s in ("train", "test")]
        assert [images.shape for images, _ in splits] == [(1297, 1, 8, 8), (500, 1, 8, 8)]
        actual = {
            (image.tobytes(), label) for images, labels in splits for image, label in zip(images, labels, strict=True)
        }
        bunch = load_digits()
        scaled = np.round(bunch.images * 255 / 16).astype(np.uint8)
        assert actual == {(image.tobytes(), label) for image, label in zip(scaled, bunch.target, strict=True)}
        assert splits[0][0].max() == 255
        assert set(np.bincount(splits[1][1])) <= {48, 49, 50, 51}  # each class by its share

    @pytest.mark.parametrize("codec", ["PNG", "WEBP"])
    def test_images_come_out_as_they_were(self, tmp_path, store, codec):
        path = store.path(load_source("cifar10", write_cifar(tmp_path, codec), store))
        for split, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
            np.testing.assert_array_equal(np.load(path / f"{split}_images.npy"), pixels(count, seed))
            assert np.load(path / f"{split}_labels.npy").tolist() == [i % 10 for i in range(count)]

    def test_the_folder_may_be_given_at_any_depth(self, cifar, store):
        stages = [load_source("cifar10", folder, store) for folder in (cifar, cifar / "cifar10", cifar / FOLDER)]
        assert len({stage.id for stage in stages}) == 1

    def test_a_source_is_decoded_once(self, cifar, store, monkeypatch):
        stage = load_source("cifar10", cifar, store)
        monkeypatch.setattr(sources, "read_split", None)
        assert load_source("cifar10", cifar, store).id == stage.id

    def test_the_identity_is_the_content_and_not_the_path(self, cifar, tmp_path, store):
        stage = load_source("cifar10", cifar, store)
        copy = write_cifar(tmp_path / "copy")
        assert load_source("cifar10", copy, store).id == stage.id
        encoded = [encode(255 - image) for image in pixels(TEST, 1)]
        write_parquet(copy / FOLDER / "test-00000-of-00001.parquet", encoded, [i % 10 for i in range(TEST)])
        assert load_source("cifar10", copy, store).id != stage.id

    def test_shards_are_read_in_order(self, tmp_path):
        images = pixels(30, 2)
        for shard in range(3):
            part = range(shard * 10, shard * 10 + 10)
            name = f"train-0000{shard}-of-00003.parquet"
            write_parquet(tmp_path / name, [encode(images[i]) for i in part], [i % 7 for i in part])
        actual, labels = read_split(find_split(tmp_path, LAYOUT, "train"), LAYOUT)
        np.testing.assert_array_equal(actual, images)
        assert labels.tolist() == [i % 7 for i in range(30)]
        assert (actual.dtype, labels.dtype) == (np.uint8, np.int64)

    def test_the_image_column_may_have_the_hubs_other_name(self, tmp_path):
        file = write_parquet(tmp_path / "train.parquet", [encode(pixels(1, 0)[0])], [3], image="image")
        assert read_split([file], LAYOUT)[1].tolist() == [3]

    def test_cifar100_has_its_own_columns_and_folder(self, tmp_path, store):
        for seed, split in enumerate(("train", "test")):
            file = tmp_path / f"cifar100/cifar100/{split}-00000-of-00001.parquet"
            write_parquet(file, [encode(image) for image in pixels(4, seed)], [0, 99, 7, 8], label="fine_label")
        stage = load_source("cifar100", tmp_path, store)
        dataset = open_dataset(store.path(stage), train_images=None, val_images=1)
        assert dataset.classes == 100
        assert dataset.test_labels.tolist() == [0, 99, 7, 8]

    @pytest.mark.parametrize("kind", [pa.uint8(), pa.int32(), pa.uint64()])
    def test_labels_are_integers_of_any_type(self, kind, tmp_path):
        file = write_parquet(tmp_path / "train.parquet", good(), pa.array([0, 9, 3], kind))
        assert read_split([file], LAYOUT)[1].tolist() == [0, 9, 3]

    @pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA"])
    def test_any_opaque_image_of_8_bits_becomes_rgb(self, mode, tmp_path):
        grey = Image.new("L", (32, 32), 255)
        stream = BytesIO()
        grey.convert(mode).save(stream, "PNG")
        images, _ = read_split([write_parquet(tmp_path / "train.parquet", [stream.getvalue()], [3])], LAYOUT)
        assert (images == 255).all()

    def test_class_names_are_in_the_published_alphabetical_order(self):
        for names in (sources.CIFAR10_CLASSES, sources.CIFAR100_CLASSES.split()):
            assert sorted(set(names)) == list(names)
        assert len(sources.CIFAR100_CLASSES.split()) == 100

    def test_an_unknown_name_lists_the_known_ones(self, store):
        with pytest.raises(UserError, match=r"unknown data set 'cifar': did you mean 'cifar10'\?.*digits"):
            load_source("cifar", None, store)


Damage = Callable[[Path], object]


def rewrite(encoded: Sequence[bytes | None], labels: Sequence[object], **columns: str) -> Damage:
    return lambda file: write_parquet(file, encoded, labels, **columns)


def good(count: int = 3) -> list[bytes | None]:
    return [encode(image) for image in pixels(count, 0)]


def encode_as(codec: str, mode: str, value: int | tuple[int, ...] = 200, **options: Any) -> bytes:
    """A 32x32 image of one colour, in any of Pillow's codecs and modes."""
    stream = BytesIO()
    Image.new(mode, (32, 32), value).save(stream, codec, **options)
    return stream.getvalue()


def black_png(size: int, depth: int = 8) -> bytes:
    """An RGB PNG of size x size pixels with `depth` bits a channel, as Pillow reads but does not write it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", size, size, depth, 2, 0, 0, 0)
    rows = bytes(min(size, 32) * (1 + size * 3 * depth // 8))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def two_frames(codec: str) -> bytes:
    other = Image.new("RGB", (32, 32), (0, 0, 9))
    return encode_as(codec, "RGB", (9, 0, 0), save_all=True, append_images=[other])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "not a valid parquet file .*again"),
    "empty": (lambda f: f.write_bytes(b""), "not a valid parquet file"),
    "text": (lambda f: f.write_text("version https://git-lfs\n" * 9), "not a valid parquet file"),
    "no rows": (rewrite([], pa.array([], pa.int64())), "holds no rows"),
    "other image column": (
        rewrite(good(), [0, 1, 2], image="picture"),
        "has the columns picture, label, but needs",
    ),
    "other label column": (
        rewrite(good(), [0, 1, 2], label="fine_label"),
        "img, fine_label, but needs .* label",
    ),
    "text labels": (rewrite(good(), ["a", "b", "c"]), "label is string, not an integer"),
    "label too large": (rewrite(good(), [0, 10, 2]), "row 1: label 10 must be 0 to 9"),
    "negative label": (rewrite(good(), [0, 1, -1]), "row 2: label -1 must be 0 to 9"),
    "label beyond 64 bits": (
        lambda f: write_parquet(f, good(), pa.array([0, 1, 2**64 - 1], pa.uint64())),
        f"row 2: label {2**64 - 1} must be 0 to 9",
    ),
    "fractional labels": (rewrite(good(), [0.0, 1.0, 2.0]), "label is double, not an integer"),
    "truth values as labels": (rewrite(good(), [True, False, True]), "label is bool, not an integer"),
    "images of text": (
        lambda f: pq.write_table(pa.table({"img": [{"bytes": "x"}], "label": [0]}), f),
        "column img is struct<bytes: string>, but must be a struct with the image's bytes",
    ),
    "no label": (rewrite(good(), [0, None, 2]), "row 1: label None must be 0 to 9"),
    "no image": (rewrite([good()[0], None], [0, 1]), "row 1: no image bytes"),
    "no image at all": (rewrite([good()[0], b""], [0, 1]), "row 1: cannot identify image"),
    "PostScript": (rewrite([encode_as("EPS", "RGB")], [0]), "row 0: cannot identify image: .* not PNG or WEBP"),
    "a codec that no data set has": (rewrite([encode_as("BMP", "RGB")], [0]), "row 0: cannot identify image"),
    "16-bit grey": (
        rewrite([good()[0], encode_as("PNG", "I;16", 300)], [0, 1]),
        "row 1: .* 16 bits a channel, at most 8",
    ),
    "16-bit colour": (rewrite([good()[0], black_png(32, 16)], [0, 1]), "row 1: .* 16 bits a channel, at most 8"),
    "transparent": (rewrite([encode_as("PNG", "RGBA", (9, 9, 9, 254))], [0]), "row 0: .* transparent pixels"),
    "a transparent colour": (rewrite([encode_as("PNG", "L", 9, transparency=9)], [0]), "row 0: .* transparent pixels"),
    "animated PNG": (rewrite([two_frames("PNG")], [0]), "row 0: .* animated"),
    "animated WebP": (rewrite([two_frames("WEBP")], [0]), "row 0: .* animated"),
    "large enough for a warning of Pillow": (rewrite([black_png(10_000)], [0]), "row 0: .* 10000x10000 pixels"),
    "large enough for an error of Pillow": (rewrite([black_png(30_000)], [0]), "row 0: Image size"),
    "half an image": (rewrite([*good(2), encode(pixels(1, 0)[0])[:900]], [0, 1, 2]), "row 2: .*truncated"),
    "larger image": (
        rewrite([encode(np.zeros((3, 28, 64), np.uint8))], [0]),
        "row 0: .* 64x28 pixels, not 32x32",
    ),
    "images without struct": (
        lambda f: pq.write_table(pa.table({"img": [b"x"], "label": [0]}), f),
        "column img is binary, but must be a struct",
    ),
}


class TestDamage:
    @pytest.mark.parametrize("name", DAMAGES)
    def test_damage_is_said_in_one_message(self, name, tmp_path, store):
        damage, message = DAMAGES[name]
        file = write_cifar(tmp_path) / FOLDER / "train-00000-of-00001.parquet"
        damage(file)
        with pytest.raises(UserError, match=f"^{file}: .*{message}") as raised:
            load_source("cifar10", tmp_path, store)
        assert "\n" not in str(raised.value)
        assert not list(store.root.rglob("*.npy"))

    def test_the_row_is_counted_over_the_whole_file(self, tmp_path):
        encoded = [encode(pixels(1, 0)[0])] * 1200
        encoded[1100] = b"broken"
        file = write_parquet(tmp_path / "train.parquet", encoded, [0] * 1200)
        with pytest.raises(UserError, match="row 1100: "):
            read_split([file], LAYOUT)

    @pytest.mark.parametrize("present", [[0], [1], [0, 2], []])
    def test_a_missing_shard_is_noticed(self, present, cifar, tmp_path, store):
        shards = tmp_path / FOLDER
        write_parquet(shards / "test-00000-of-00001.parquet", good(), [0, 1, 2])
        for shard in present:
            write_parquet(shards / f"train-0000{shard}-of-00003.parquet", good(), [0, 1, 2])
        with pytest.raises(UserError, match="incomplete" if present else "Either give --data-dir"):
            load_source("cifar10", tmp_path, store)

    @pytest.mark.parametrize(
        "name",
        [
            "train-00000-of-00001 (1).parquet",
            "train-00000-of-00001-b42c3b2db42c3b2d.parquet",
            "train-00000-of-00001_old.parquet",
            "train-00001-of-00002.parquet",
            "train-000000-of-00001.parquet",
            "train-copy.parquet",
        ],
    )
    @pytest.mark.parametrize("split", ["train", "test"])
    def test_another_file_beside_the_first_is_refused(self, split, name, tmp_path, store):
        folder = write_cifar(tmp_path) / FOLDER
        write_parquet(folder / name.replace("train", split), [encode(image) for image in pixels(3, 5)], [0, 1, 2])
        with pytest.raises(UserError, match=rf"incomplete or mixed parquet files \({split}-.*copies"):
            load_source("cifar10", tmp_path, store)

    def test_the_message_does_not_name_hundreds_of_files(self, tmp_path):
        for number in range(300):
            (tmp_path / f"train-{number:05}-of-00400.parquet").touch()
        with pytest.raises(UserError, match=r"00005-of-00400\.parquet, …") as raised:
            find_split(tmp_path, LAYOUT, "train")
        assert len(str(raised.value)) < 600

    @pytest.mark.parametrize("names", [["00000-of-00002", "00001-of-00002"], ["00000-of-00001"], ["all"]])
    @pytest.mark.parametrize("suffix", ["", "-b42c3b2db42c3b2d"])
    def test_one_file_or_consistent_numbers_are_accepted(self, names, suffix, tmp_path):
        files = [tmp_path / f"train-{name}{suffix}.parquet" for name in names]
        for file in files:
            file.touch()
        assert find_split(tmp_path, LAYOUT, "train") == files

    @pytest.mark.parametrize("copied", ["train-00000-of-00002", "train-00001-of-00002"])
    def test_a_copy_under_a_right_name_is_refused(self, copied, tmp_path, store):
        folder = write_cifar(tmp_path) / FOLDER
        content = (folder / "test-00000-of-00001.parquet").read_bytes()
        (folder / "train-00000-of-00001.parquet").rename(folder / "train-00000-of-00002.parquet")
        write_parquet(folder / "train-00001-of-00002.parquet", [encode(image) for image in pixels(3, 5)], [0, 1, 2])
        (folder / f"{copied}.parquet").write_bytes(content)
        with pytest.raises(UserError, match=r"test-00000-of-00001.parquet: is a copy of .*/train-0000"):
            load_source("cifar10", tmp_path, store)

    def test_more_images_than_the_data_set_has_are_refused(self, tmp_path, store):
        folder = write_cifar(tmp_path) / FOLDER
        table = pa.table({"img": pa.array([{"bytes": b"x"}] * 10_001), "label": pa.array([0] * 10_001)})
        pq.write_table(table, folder / "test-00000-of-00001.parquet")
        with pytest.raises(UserError, match=r"test-00000-of-00001.parquet: 10,001 images, .* has 10,000"):
            load_source("cifar10", tmp_path, store)

    @pytest.mark.parametrize("broken", ["a folder", "a broken link"])
    def test_what_is_no_file_is_refused(self, broken, tmp_path, store):
        file = write_cifar(tmp_path) / FOLDER / "train-00000-of-00001.parquet"
        file.unlink()
        file.mkdir() if broken == "a folder" else file.symlink_to("nowhere")
        with pytest.raises(UserError, match=f"^{file}: unreadable"):
            load_source("cifar10", tmp_path, store)

    @pytest.mark.parametrize("folder", [".", "nowhere"])
    def test_a_folder_without_the_data_set_names_both_ways(self, folder, tmp_path, store):
        with pytest.raises(UserError, match=r"Either give --data-dir DIR with cifar10/plain_text/.* internet"):
            load_source("cifar10", tmp_path / folder, store)

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cut=st.floats(0, 1, exclude_max=True))
    def test_a_file_cut_anywhere_is_refused(self, cut, cifar, tmp_path):
        whole = (cifar / FOLDER / "test-00000-of-00001.parquet").read_bytes()
        file = tmp_path / "cut.parquet"
        file.write_bytes(whole[: int(cut * len(whole))])
        with pytest.raises(UserError, match="not a valid parquet file"):
            read_split([file], LAYOUT)

    @settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
    def test_a_file_with_a_wrong_byte_is_read_or_refused(self, place, value, cifar, tmp_path):
        content = bytearray((cifar / FOLDER / "test-00000-of-00001.parquet").read_bytes())
        content[int(place * len(content))] = value
        file = tmp_path / "damaged.parquet"
        file.write_bytes(content)
        try:
            images, labels = read_split([file], LAYOUT)
        except UserError as error:
            assert str(file) in str(error)  # noqa: PT017  (either outcome is right)
        else:
            assert images.shape[1:] == (3, 32, 32)
            assert len(images) == len(labels)


class TestDownload:
    def test_a_download_that_fails_names_both_ways(self, store, monkeypatch):
        for error in (URLError("no route to host"), RuntimeError("File not found or corrupted.")):
            monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", raising(error))
            with pytest.raises(UserError, match=r"--data-dir DIR with cifar10/plain_text/.* internet"):
                load_source("cifar10", None, store)
        assert store.find(load_stage_of_download()) is None

    def test_a_download_goes_beside_the_store_and_happens_once(self, store, monkeypatch):
        roots = []

        def download(self: SimpleNamespace, root: Path, train: bool, download: bool) -> None:
            assert download
            roots.append(root)
            count, seed = (TRAIN, 0) if train else (TEST, 1)
            self.data, self.targets = (
                pixels(count, seed).transpose(0, 2, 3, 1),
                [i % 10 for i in range(count)],
            )

        monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", download)
        path = store.path(load_source("cifar10", None, store))
        load_source("cifar10", None, store)
        assert roots == [store.root.parent / "downloads"] * 2  # the two splits, once
        np.testing.assert_array_equal(np.load(path / "test_images.npy"), pixels(TEST, 1))


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def load_stage_of_download() -> sources.Stage:
    identity = {"name": "cifar10", "md5": torchvision.datasets.CIFAR10.tgz_md5}
    return sources.Stage("data", sources.DATA_VERSION, {"source": identity})


class TestStratified:
    @given(data=st.data(), labels=st.lists(st.integers(0, 5), min_size=1, max_size=60), seed=st.integers(0, 9))
    def test_every_class_has_its_share(self, data, labels, seed):
        labels = np.array(labels)
        count = data.draw(st.integers(0, len(labels)))
        chosen = stratified(labels, count, seed)
        assert len(chosen) == count
        assert (np.diff(chosen) > 0).all()
        exact = np.bincount(labels, minlength=6) * count / len(labels)
        assert (np.abs(np.bincount(labels[chosen], minlength=6) - exact) < 1).all()
        np.testing.assert_array_equal(chosen, stratified(labels, count, seed))

    def test_the_seed_decides(self):
        labels = np.arange(100) % 10
        assert stratified(labels, 50, 0).tolist() != stratified(labels, 50, 1).tolist()

    def test_what_remains_goes_to_the_largest_remainder(self):
        labels = np.repeat([0, 1, 2], [5, 3, 2])
        assert np.bincount(labels[stratified(labels, 4, 0)]).tolist() == [2, 1, 1]  # exact shares 2, 1.2, 0.8


class TestOpen:
    def test_training_and_validation_images_are_disjoint_parts(self, stage_path):
        dataset = open_dataset(stage_path, train_images=None, val_images=20)
        numbers = [dataset.train_images[:, 0, 0, 0].tolist(), dataset.val_images[:, 0, 0, 0].tolist()]
        assert sorted(numbers[0] + numbers[1]) == list(range(TRAIN))
        for images, labels in (
            (dataset.train_images, dataset.train_labels),
            (dataset.val_images, dataset.val_labels),
        ):
            np.testing.assert_array_equal(images, pixels(TRAIN, 0)[images[:, 0, 0, 0]])
            assert torch.equal(labels, images[:, 0, 0, 0].long() % 10)
        assert dataset.val_labels.bincount().tolist() == [2] * 10

    @pytest.mark.parametrize("val_images", [1, 7, 20])
    def test_the_validation_images_do_not_depend_on_the_training_images(self, stage_path, val_images):
        all_of_them = open_dataset(stage_path, train_images=None, val_images=val_images)
        for count in (1, 13, TRAIN - val_images):
            dataset = open_dataset(stage_path, train_images=count, val_images=val_images)
            assert torch.equal(dataset.val_images, all_of_them.val_images)
            assert len(dataset.train_images) == len(dataset.train_labels) == count
            overlap = set(dataset.train_images[:, 0, 0, 0].tolist()) & set(dataset.val_images[:, 0, 0, 0].tolist())
            assert not overlap

    def test_all_test_images_are_there(self, stage_path):
        dataset = open_dataset(stage_path, train_images=10, val_images=10)
        np.testing.assert_array_equal(dataset.test_images, pixels(TEST, 1))
        assert dataset.test_images.dtype == torch.uint8
        assert dataset.test_labels.dtype == torch.int64
        assert (dataset.name, dataset.classes, dataset.class_names[3]) == ("cifar10", 10, "cat")

    @pytest.mark.parametrize(
        ("train_images", "val_images"),
        [(50, 11), (None, 60), (None, 61), (0, 5), (5, 0), (-1, 5), (5, -1), (1, 60)],
    )
    def test_more_than_there_is_is_refused_with_the_numbers(self, stage_path, train_images, val_images):
        with pytest.raises(
            UserError, match=rf"{val_images} validation images were requested, 60 are available: .* at most 60"
        ):
            open_dataset(stage_path, train_images=train_images, val_images=val_images)

    def test_the_fingerprint_is_that_of_source_and_split(self, stage_path, store):
        def fingerprint(path: Path, train_images: int | None, val_images: int) -> str:
            return open_dataset(path, train_images=train_images, val_images=val_images).fingerprint

        digits = store.path(load_source("digits", None, store))
        distinct = [(stage_path, 10, 10), (stage_path, 11, 10), (stage_path, 10, 11), (digits, 10, 10)]
        assert len({fingerprint(*arguments) for arguments in distinct}) == 4
        assert fingerprint(stage_path, None, 10) == fingerprint(stage_path, 50, 10)

    def test_writing_to_a_tensor_leaves_the_stage_alone(self, stage_path):
        dataset = open_dataset(stage_path, train_images=10, val_images=10)
        dataset.test_images.zero_()
        dataset.train_images.zero_()
        again = open_dataset(stage_path, train_images=10, val_images=10)
        np.testing.assert_array_equal(again.test_images, pixels(TEST, 1))
        assert again.train_images.any()

    def test_to_moves_every_tensor(self, stage_path):
        dataset = open_dataset(stage_path, train_images=10, val_images=10)
        moved = dataset.to("meta")
        tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
        assert len(tensors) == 6
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert moved.fingerprint == dataset.fingerprint


class TestStatistics:
    def test_a_channel_without_contrast_is_refused(self):
        images = pixels(3, 0)
        images[:, 1] = 77
        with pytest.raises(UserError, match="channel 1 has the same value in all training images"):
            statistics(images)

    @given(st.integers(1, 3), st.integers(1, 6), st.integers(0, 999))
    def test_equal_to_the_naive_formula(self, channels, count, seed):
        images = np.random.default_rng(seed).integers(0, 256, (count, channels, 4, 4), dtype=np.uint8)
        scaled = images.astype(np.float64).transpose(1, 0, 2, 3).reshape(channels, -1) / 255
        actual = statistics(images)
        np.testing.assert_allclose(actual.mean, scaled.mean(1), rtol=1e-12)
        np.testing.assert_allclose(actual.std, scaled.std(1), rtol=1e-12)

    def test_the_stage_has_those_of_the_training_images(self, stage_path):
        expected = statistics(pixels(TRAIN, 0))
        assert open_dataset(stage_path, train_images=5, val_images=5).normalization == expected


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_holds_what_its_entry_declares(name, store, request):
    """Every entry that is here to be read: the embedded ones, and all where there is real data."""
    entry = DATASETS[name]
    source = entry.find(None if entry.is_embedded else request.getfixturevalue("shared_data"), store.root)
    shape = entry.shape
    assert len(source.class_names) == shape.classes
    splits = source.decode()
    for (images, labels), count in zip(splits, (shape.train, shape.test), strict=True):
        assert images.shape == (count, shape.channels, shape.size, shape.size)
        assert set(labels) == set(range(shape.classes))
    assert find_duplicates({"training": splits[0][0], "test": splits[1][0]}) == KNOWN_DUPLICATES.get(name, {})
    check_duplicates(name, {"training": splits[0][0], "test": splits[1][0]})


@pytest.mark.parametrize(
    ("name", "mean"), [("cifar10", (0.4914, 0.4822, 0.4465)), ("cifar100", (0.5071, 0.4865, 0.4409))]
)
def test_the_real_test_images(name, mean, shared_data):
    layouts = {"cifar10": LAYOUT, "cifar100": Layout("cifar100/cifar100", "fine_label", 100, 32)}
    images, labels = read_split(find_split(shared_data, layouts[name], "test"), layouts[name])
    assert set(np.bincount(labels)) == {len(images) // layouts[name].classes}
    # Published statistics of the training images; those of the test images differ in the third digit.
    np.testing.assert_allclose(statistics(images).mean, mean, atol=0.005)
