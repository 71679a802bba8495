from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
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
from kdq.data.dataset import open_dataset, stratified
from kdq.data.parquet import Layout, find_split, read_split
from kdq.data.sources import DATASETS, load_source, statistics
from kdq.errors import UserError
from kdq.store.folder_store import StageStore

TRAIN, TEST = 60, 20
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
        for split in ("train", "test"):
            file = tmp_path / f"cifar100/cifar100/{split}-00000-of-00001.parquet"
            write_parquet(file, [encode(image) for image in pixels(4, 0)], [0, 99, 7, 8], label="fine_label")
        stage = load_source("cifar100", tmp_path, store)
        dataset = open_dataset(store.path(stage), train_images=None, val_images=1)
        assert dataset.classes == 100
        assert dataset.test_labels.tolist() == [0, 99, 7, 8]

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
    "no label": (rewrite(good(), [0, None, 2]), "row 1: label None must be 0 to 9"),
    "no image": (rewrite([good()[0], None], [0, 1]), "row 1: no image bytes"),
    "no image at all": (rewrite([good()[0], b""], [0, 1]), "row 1: cannot identify image"),
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
    for (images, labels), count in zip(source.decode(), (shape.train, shape.test), strict=True):
        assert images.shape == (count, shape.channels, shape.size, shape.size)
        assert set(labels) == set(range(shape.classes))


@pytest.mark.parametrize(
    ("name", "mean"), [("cifar10", (0.4914, 0.4822, 0.4465)), ("cifar100", (0.5071, 0.4865, 0.4409))]
)
def test_the_real_test_images(name, mean, shared_data):
    layouts = {"cifar10": LAYOUT, "cifar100": Layout("cifar100/cifar100", "fine_label", 100, 32)}
    images, labels = read_split(find_split(shared_data, layouts[name], "test"), layouts[name])
    assert set(np.bincount(labels)) == {len(images) // layouts[name].classes}
    # Published statistics of the training images; those of the test images differ in the third digit.
    np.testing.assert_allclose(statistics(images).mean, mean, atol=0.005)
