"""Teachers of the transformers library, offline: small models made from a configuration and saved to a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import LocalEntryNotFoundError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitConfig,
    BitImageProcessor,
    ConvNextImageProcessor,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    EfficientNetImageProcessor,
    PreTrainedConfig,
    ResNetConfig,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from kdq.data.sources import CIFAR10_CLASSES
from kdq.distill.teachers import KINDS, Transformers, parse_spec
from kdq.errors import UserError
from kdq.models.classifier import Classifier
from kdq.models.evaluate import logits
from kdq.models.graph import trace
from kdq.models.huggingface import as_network, label_order, labels, load_pretrained, unnamed

NAMES = ("cat", "dog", "maple_tree")


def vit(**changes: Any) -> PreTrainedConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTConfig(**{**sizes, "image_size": 16, "patch_size": 8, **changes})


def bit(**changes: Any) -> PreTrainedConfig:
    return BitConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_groups=4, **changes)


def resnet(**changes: Any) -> PreTrainedConfig:
    return ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **changes)


def square(edge: int) -> dict[str, int]:
    return {"height": edge, "width": edge}


MODELS: dict[str, tuple[Callable[..., PreTrainedConfig], Any]] = {
    "vit": (vit, ViTImageProcessor(size=square(16))),
    "bit": (bit, BitImageProcessor(size={"shortest_edge": 40}, crop_size=square(36))),
    "resnet": (resnet, ConvNextImageProcessor(size={"shortest_edge": 56}, crop_pct=0.875)),
    "vit as it is": (vit, ViTImageProcessor(do_resize=False, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])),
    "vit not normalised": (vit, ViTImageProcessor(size=square(16), do_normalize=False)),
    "vit of 0 to 255": (
        vit,
        ViTImageProcessor(size=square(16), do_rescale=False, image_mean=[127.5] * 3, image_std=[60.0] * 3),
    ),
    "large": (resnet, ConvNextImageProcessor(size={"shortest_edge": 384})),
}


def save(folder: Path, model: str, names: tuple[str, ...] | None = NAMES, **changes: Any) -> Path:
    """A model with random weights, saved as a user saves a fine-tuned one."""
    make, processor = MODELS[model]
    labels_ = {"id2label": dict(enumerate(names))} if names else {"num_labels": 3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForImageClassification.from_config(make(**labels_, **changes))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def images(size: int = 32, channels: int = 3) -> Tensor:
    """Smooth ones: at sharp edges the library's processors round twice."""
    generator = torch.Generator().manual_seed(1)
    coarse = 255 * torch.rand(5, channels, 4, 4, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bilinear").byte()


def library(folder: Path, pixels: Tensor) -> Tensor:
    """What the library itself makes of the images: its processor, then its model."""
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits_: Tensor = model(processor(images=list(pixels), return_tensors="pt")["pixel_values"]).logits
    return logits_


def size_of(model: str) -> int:
    return 16 if model == "vit as it is" else 32


class TestLoad:
    @pytest.mark.parametrize("model", MODELS)
    def test_it_answers_as_the_library_does(self, model: str, tmp_path: Path) -> None:
        """The library rounds the resized image to 256 levels, we do not: hence the tolerance."""
        folder = save(tmp_path, model)
        loaded = load_pretrained(folder, NAMES, 3)
        pixels = images(size_of(model))
        expected = library(folder, pixels)
        torch.testing.assert_close(logits(loaded, pixels), expected, atol=0.02 * expected.std().item(), rtol=0)
        assert not loaded.training
        assert loaded.arch == f"transformers:{model.split()[0].replace('large', 'resnet')}"
        assert loaded.classes == 3

    def test_a_type_of_several_architectures(self, tmp_path: Path) -> None:
        """DeiT has two in the library; the configuration says which."""
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = DeiTConfig(**sizes, image_size=16, patch_size=8, id2label=dict(enumerate(NAMES)))
        DeiTForImageClassification(config).save_pretrained(tmp_path)
        ViTImageProcessor(size=square(16)).save_pretrained(tmp_path)
        assert load_pretrained(tmp_path, NAMES, 3).arch == "transformers:deit"

    def test_labels_in_another_order_are_mapped(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit", names=("Maple Tree", "CAT", "dog"))
        expected = library(folder, images())[:, [1, 2, 0]]
        got = logits(load_pretrained(folder, NAMES, 3), images())
        torch.testing.assert_close(got, expected, atol=0.02 * expected.std().item(), rtol=0)

    def test_other_labels_are_refused(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit", names=("cat", "frog", "maple_tree"))
        with pytest.raises(UserError, match=r"1 of the data set's classes are not among its labels \(dog; it has cat"):
            load_pretrained(folder, NAMES, 3)

    def test_nameless_labels_are_taken_in_order(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit", names=None)
        assert unnamed(labels(folder))
        assert load_pretrained(folder, NAMES, 3).classes == 3
        with pytest.raises(UserError, match="has 3 classes, the data set 10"):
            load_pretrained(folder, CIFAR10_CLASSES, 3)

    def test_grey_images(self, tmp_path: Path) -> None:
        save(tmp_path, "vit", num_channels=1)
        ViTImageProcessor(size=square(16), image_mean=[0.3], image_std=[0.4]).save_pretrained(tmp_path)
        assert logits(load_pretrained(tmp_path, NAMES, 1), images(8, 1)).shape == (5, 3)
        with pytest.raises(UserError, match="takes images of 1 channels, the data set has 3"):
            load_pretrained(tmp_path, NAMES, 3)

    def test_it_cannot_be_traced_and_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="'transformers:vit' cannot be traced"):
            trace(load_pretrained(save(tmp_path, "vit"), NAMES, 3))

    def test_half_precision_weights_compute_in_float32(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit")
        AutoModelForImageClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
        assert next(load_pretrained(folder, NAMES, 3).parameters()).dtype == torch.float32


def change(folder: Path, name: str, **fields: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


class TestRefused:
    def test_pickled_weights(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit")
        state = AutoModelForImageClassification.from_pretrained(folder).state_dict()
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
        with pytest.raises(UserError, match="no image classifier of the transformers library as safetensors"):
            load_pretrained(folder, NAMES, 3)

    def test_code_that_comes_along_is_not_run(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit")
        (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
        auto_map = {"AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M", "AutoImageProcessor": "evil.P"}
        change(folder, "config.json", auto_map=auto_map, model_type="evil")
        with pytest.raises(UserError, match="no image classifier"):
            load_pretrained(folder, NAMES, 3)
        assert not (tmp_path / "ran").exists()

    def test_a_backbone_without_a_head(self, tmp_path: Path) -> None:
        ViTModel(vit(id2label=dict(enumerate(NAMES)))).save_pretrained(tmp_path)
        ViTImageProcessor(size=square(16)).save_pretrained(tmp_path)
        with pytest.raises(UserError, match=r"its weights lack classifier\.bias and 1 others, which would be random"):
            load_pretrained(tmp_path, NAMES, 3)

    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
    def test_a_folder_that_lacks_a_file_or_has_a_broken_one(self, name: str, tmp_path: Path) -> None:
        folder = save(tmp_path / "whole", "vit")
        broken = Path(shutil.copytree(folder, tmp_path / "broken"))
        (broken / name).write_bytes((broken / name).read_bytes()[:30])
        (folder / name).unlink()
        for place in (folder, broken):
            with pytest.raises(UserError, match="no image classifier") as raised:
                load_pretrained(place, NAMES, 3)
            assert "\n" not in str(raised.value)

    def test_a_processor_that_does_more(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit")
        EfficientNetImageProcessor(size=square(16), rescale_offset=True).save_pretrained(folder)
        with pytest.raises(UserError, match="EfficientNetImageProcessor does more to an image"):
            load_pretrained(folder, NAMES, 3)


class TestAsNetwork:
    @pytest.mark.parametrize("model", ["vit as it is", "vit", "vit not normalised"])
    def test_it_gives_the_same_logits(self, model: str, tmp_path: Path) -> None:
        folder, pixels = save(tmp_path, model, names=("Maple Tree", "CAT", "dog")), images(16)
        loaded = load_pretrained(folder, NAMES, 3)
        network = as_network(loaded, folder, (16, 16))
        assert network is not None
        assert network.arch.startswith("transformers:vit?")
        torch.testing.assert_close(logits(network, pixels), logits(loaded, pixels))

    @pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
    def test_it_is_float32_whatever_its_configuration_says(self, name: str, tmp_path: Path) -> None:
        """Configurations of earlier versions have `torch_dtype`."""
        folder, pixels = save(tmp_path, "resnet"), images(16)
        ViTImageProcessor(do_resize=False).save_pretrained(folder)
        fields = json.loads((folder / CONFIG).read_text())
        fields.pop("dtype", None)
        (folder / CONFIG).write_text(json.dumps({**fields, name: "float16"}))
        loaded = load_pretrained(folder, NAMES, 3)
        network = as_network(loaded, folder, (16, 16))
        assert network is not None
        torch.testing.assert_close(logits(network, pixels), logits(loaded, pixels))

    @pytest.mark.parametrize(("model", "size"), [("vit", 32), ("bit", 40), ("large", 32)])
    def test_one_that_resizes_or_crops_is_none(self, model: str, size: int, tmp_path: Path) -> None:
        folder = save(tmp_path, model)
        assert as_network(load_pretrained(folder, NAMES, 3), folder, (size, size)) is None

    def test_another_head_than_that_of_its_type_is_none(self, tmp_path: Path) -> None:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = DeiTConfig(**sizes, image_size=16, patch_size=8, id2label=dict(enumerate(NAMES)))
        DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path)
        ViTImageProcessor(size=square(16)).save_pretrained(tmp_path)
        assert as_network(load_pretrained(tmp_path, NAMES, 3), tmp_path, (16, 16)) is None


CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"

ODD: dict[str, tuple[str, dict[str, Any], str]] = {
    "more layers than weights, by far": ("resnet", {"depths": [1_000_000, 1]}, "more layers than its safetensors hold"),
    "a layer too many": ("resnet", {"depths": [1, 2]}, r"describes a model of [\d,]+ weights, its safetensors hold"),
    "layers left out": ("vit", {"num_hidden_layers": 0}, r"without vit\.\S+ and \d+ others of its weights"),
    "biases left out": ("vit", {"qkv_bias": False}, r"without vit\.\S+\.bias and 2 others of its weights"),
    "narrower layers": ("resnet", {"hidden_sizes": [8, 8]}, r"has shape \[3, 16\], config\.json describes \[3, 8\]"),
    "images of any size": ("vit", {"image_size": 1_000_000}, r"describes a model of [\d,]+ weights"),
    "labels without end": ("vit", {"num_labels": 10**9}, "a number of 'num_labels' is beyond"),
    "very many labels": ("vit", {"num_labels": 10**6}, "a number of 'num_labels' is beyond"),
    "a number deep inside": ("vit", {"a": {"b": [[{"c": -(10**30)}]]}}, "a number of 'c' is beyond"),
    "very many values": ("vit", {"a": [[0] * 1000] * 101}, "more than 100,000 values"),
    "no logits": ("vit", {"return_dict": False}, "no attribute '\\w+'"),
    "logits that are not finite": ("vit", {"layer_norm_eps": -1.0}, "not finite"),
    "another type": ("vit", {"hidden_size": "16"}, "Field 'hidden_size' expected int, got str"),
    "no such function": ("vit", {"hidden_act": "x"}, "KeyError: 'x'"),
    "text about a model of another kind": ("vit", {"model_type": "bert"}, "Unrecognized configuration class"),
}

ODD_PROCESSOR: dict[str, tuple[dict[str, Any], str]] = {
    "far too large": ({"size": square(1_000_000)}, "size is 1000000 x 1000000, must be 1 to 2048 pixels"),
    "larger than any": ({"size": square(10**12)}, "a number of 'height' is beyond|a number of 'width' is beyond"),
    "nothing": ({"size": square(0)}, "size is 0 x 0"),
    "below nothing": ({"size": {"shortest_edge": -1}}, "size is -1 x -1"),
    "a size of text": ({"size": {"height": "16", "width": 16}}, "size is '16' x 16"),
    "a crop too large": ({"do_center_crop": True, "crop_size": square(10**6)}, "crop_size is 1000000 x 1000000"),
    "an unknown filter": ({"resample": 1}, r"resample is 1, must be one of \[0, 2, 3\]"),
    "a filter of truth": ({"resample": True}, r"resample is True, must be one of"),
    "no mean": ({"image_mean": None}, "TypeError"),
    "a mean of text": ({"image_mean": ["a"] * 3}, "TypeError"),
    "two channels": ({"image_mean": [0.5] * 2}, "takes images of 2 channels, the data set has 3"),
    "a deviation of 0": ({"image_std": [0.0] * 3}, "std above 0"),
    "a deviation below float": ({"image_std": [5e-324] * 3}, "std above 0"),
    "no deviation": ({"image_std": []}, "of equal length"),
    "a factor of 0": ({"rescale_factor": 0}, "ZeroDivisionError"),
    "a switch that is a list": ({"do_normalize": [1]}, "TypeError"),
    "another kind": ({"image_processor_type": "X"}, "Unrecognized image processor"),
}


def _refused(folder: Path, message: str, size: tuple[int, int] | None = None) -> None:
    with pytest.raises(UserError, match=f"^{folder}.*({message})") as raised:
        load_pretrained(folder, NAMES, 3, size)
    assert str(raised.value).isprintable()


class TestOddFolders:
    """What the two JSON files may ask for is limited by the weights beside them; every refusal is one line."""

    @pytest.mark.parametrize("name", ODD)
    def test_an_odd_configuration_is_refused(self, name: str, tmp_path: Path) -> None:
        model, fields, message = ODD[name]
        folder = save(tmp_path, model)
        change(folder, CONFIG, **fields)
        _refused(folder, message)

    @pytest.mark.parametrize("name", ODD_PROCESSOR)
    def test_an_odd_processor_is_refused(self, name: str, tmp_path: Path) -> None:
        fields, message = ODD_PROCESSOR[name]
        folder = save(tmp_path, "vit")
        change(folder, PROCESSOR, **fields)
        _refused(folder, message)

    @pytest.mark.parametrize("share", [None, 0, -1, 1e-9, 10**6, "x", [], True])
    def test_an_odd_share_to_crop_is_refused(self, share: object, tmp_path: Path) -> None:
        folder = save(tmp_path, "resnet")
        change(folder, PROCESSOR, crop_pct=share)
        if share is None:  # the library does not divide by it either
            with pytest.raises(UserError):
                load_pretrained(folder, NAMES, 3)
        else:
            _refused(folder, "crop_pct is .*, must be a number from 0.1 to 1")

    @pytest.mark.parametrize("name", [CONFIG, PROCESSOR])
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"[null, {}]", "is no JSON object"),
            (b"null", "is no JSON object"),
            (b"[" * 200_000, "RecursionError"),
            (b'{"a":' + b"1" * 5000 + b"}", "limit"),
            (b"\xff\xfe{\x00}\x00", "codec can't decode"),
            (b'{"a": "' + b"x" * 10_000_000 + b'"}', "more than 10,000,000 bytes"),
        ],
    )
    def test_what_is_no_json_object_is_refused(self, name: str, content: bytes, message: str, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit")
        (folder / name).write_bytes(content)
        _refused(folder, message)

    def test_a_pointer_instead_of_weights_is_named(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit")
        (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
        _refused(folder, "git lfs pull")

    def test_weights_that_are_not_finite_are_named(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit")
        state = load_file(folder / WEIGHTS)
        state["classifier.bias"][1] = torch.nan
        save_file(state, folder / WEIGHTS, {"format": "pt"})
        _refused(folder, r"classifier\.bias has NaN or infinite values")

    def test_a_model_that_takes_other_images_is_refused(self, tmp_path: Path) -> None:
        folder = save(tmp_path, "vit as it is")
        assert load_pretrained(folder, NAMES, 3, (16, 16)).classes == 3
        _refused(folder, r"Input image size \(32\*32\) doesn't match model", size=(32, 32))

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        model=st.sampled_from(["vit", "resnet"]),
        file=st.sampled_from([CONFIG, PROCESSOR]),
        which=st.integers(0, 99),
        value=st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.sampled_from([10**6, 10**9, 10**30, -1, 0, 2**31, 2**63]),
            st.floats(),
            st.text(max_size=3),
            st.lists(st.integers(-2, 10**6), max_size=3),
            st.dictionaries(st.sampled_from(["height", "width", "shortest_edge", "0"]), st.integers(-1, 10**6)),
        ),
    )
    def test_any_value_of_any_setting_is_loaded_or_refused(
        self, model: str, file: str, which: int, value: object, tmp_path: Path
    ) -> None:
        folder = tmp_path / model
        if not folder.exists():
            save(folder, model)
        whole = (folder / file).read_text()
        settings_ = json.loads(whole)
        key = sorted(settings_)[which % len(settings_)]
        try:
            (folder / file).write_text(json.dumps({**settings_, key: value}))
            loaded = load_pretrained(folder, NAMES, 3, (32, 32))
        except UserError as error:
            assert str(error).startswith(f"{folder}: ")  # noqa: PT017  (either outcome is right)
            assert str(error).isprintable()  # noqa: PT017
        else:
            assert logits(loaded, images()).isfinite().all()
        finally:
            (folder / file).write_text(whole)


class TestLabelOrder:
    @given(st.permutations(range(10)))
    def test_any_permutation_is_undone(self, permutation: list[int]) -> None:
        names = [CIFAR10_CLASSES[i] for i in permutation]
        order = label_order(names, CIFAR10_CLASSES, "x")
        assert tuple(names[i] for i in order) == CIFAR10_CLASSES

    def test_spelling_is_forgiven_and_nothing_else(self) -> None:
        assert label_order(["Pickup-Truck", " lawn  mower"], ["lawn_mower", "pickup_truck"], "x") == (1, 0)
        with pytest.raises(UserError, match="not among its labels"):
            label_order(["a", "a"], ["a", "b"], "x")


class TestSpec:
    def test_forms(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "transformers" in KINDS
        assert parse_spec("transformers:a/b") == Transformers("a/b")
        assert parse_spec("transformers:a/b@main") == Transformers("a/b", "main")
        assert parse_spec(f"transformers:{tmp_path}") == Transformers(tmp_path)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a" / "b").mkdir(parents=True)
        assert parse_spec("transformers:a/b") == Transformers(tmp_path / "a" / "b")
        for wrong in ("transformers", "transformers:", "transformers:vit"):
            with pytest.raises(UserError, match="must be transformers:FOLDER, OWNER/NAME"):
                parse_spec(wrong)

    def test_a_folder_that_is_not_there(self) -> None:
        spec = parse_spec("transformers:./nowhere")
        with pytest.raises(UserError, match="there is no such folder"):
            spec.identity()

    def test_the_identity_is_the_content_of_what_is_read(self, tmp_path: Path) -> None:
        folder = save(tmp_path / "a", "vit")
        spec = Transformers(folder)
        identity = spec.identity()
        (folder / "README.md").write_text("of no account")
        copy = Transformers(Path(shutil.copytree(folder, tmp_path / "b")))
        assert copy.identity() == spec.identity() == identity
        change(folder, "preprocessor_config.json", resample=3)
        assert spec.identity() != identity

    def test_a_repository_is_fetched_without_code_and_pickles(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Any] = []

        def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            asked.append((repo, revision, allow_patterns))
            if repo != "a/b":
                raise LocalEntryNotFoundError("not cached, not to be reached.\nMore lines.")
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
        save(tmp_path, "vit")
        assert Transformers("a/b", "v1").identity() == Transformers(tmp_path).identity()
        assert asked[0][:2] == ("a/b", "v1")
        assert not any(pattern.endswith(("*", ".py", ".bin")) for pattern in asked[0][2])
        with pytest.raises(UserError, match=r"transformers:a/c: unavailable \(not cached.*transformers:FOLDER"):
            Transformers("a/c").identity()


def test_the_weights_do_not_depend_on_the_global_generator(tmp_path: Path) -> None:
    folder = save(tmp_path, "vit")
    before = torch.get_rng_state()
    loaded: Classifier = load_pretrained(folder, NAMES, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(logits(loaded, images()), logits(load_pretrained(folder, NAMES, 3), images()))
