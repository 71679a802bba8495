"""Architectures of libraries and of files: strings, options, pins, and what they contribute to stages."""

import os
import py_compile
import shutil
import sys
import warnings
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from safetensors import safe_open
from transformers import ViTConfig, ViTForImageClassification

from kdq.distill.teachers import Checkpoint, Trained, parse_spec
from kdq.errors import UserError
from kdq.models.checkpoint import save
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import logits
from kdq.models.sources import (
    identity,
    is_sourced,
    parse_architecture,
    pinned,
    short_name,
    split_weights,
    with_code,
    without_path,
)
from kdq.models.transformers_nets import WEIGHTS
from kdq.pack.file import load, pack
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize

RGB, GREY = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)), Normalization((0.5,), (0.2,))
NETS = Path(__file__).with_name("user_nets.py")
SMALL = "torchvision:mobilenet_v2?width_mult=0.25&stem=small"


def made(arch: str, normalization: Normalization = RGB, classes: int = 5) -> Classifier:
    return build(arch, classes=classes, normalization=normalization, seed=0).eval()


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A user's file of its own."""
    return Path(shutil.copy(NETS, tmp_path / "nets.py"))


class TestStrings:
    def test_a_seed_gives_the_same_weights(self) -> None:
        one, other = made(SMALL).state_dict(), made(SMALL).state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one)

    def test_a_small_stem_is_that_of_our_resnets(self) -> None:
        theirs, ours = made("torchvision:resnet18?stem=small"), made("resnet18")
        shapes = [[(key, value.shape) for key, value in model.state_dict().items()] for model in (theirs, ours)]
        assert shapes[0] == shapes[1]
        assert isinstance(theirs.net.maxpool, torch.nn.Identity)

    @pytest.mark.parametrize(("arch", "side"), [(SMALL, 4), (SMALL.replace("&stem=small", ""), 2)])
    def test_a_small_stem_halves_the_downsampling(self, arch: str, side: int) -> None:
        features = made(arch).net.get_submodule("features")
        assert features(torch.rand(1, 3, 64, 64)).shape[-1] == side

    def test_an_option_is_json_or_text(self) -> None:
        text = "torchvision:resnet18?a=false&b=[1,2]&c=None_of&d=%22False%22&e=0.5&f=a%20b"
        assert parse_architecture(text).keywords == {
            "a": False, "b": [1, 2], "c": "None_of", "d": "False", "e": 0.5, "f": "a b",
        }  # fmt: skip

    def test_images_of_one_channel(self) -> None:
        assert logits(made("torchvision:mobilenet_v3_small", GREY), torch.rand(2, 1, 16, 16)).shape == (2, 5)

    @pytest.mark.parametrize(
        ("arch", "message"),
        {
            "torchvision:mobilnet_v2": "unknown model of torchvision 'mobilnet_v2': did you mean 'mobilenet_v2'",
            "torchvision:": "unknown architecture 'torchvision:'",
            "torchvison:resnet18": "did you mean 'torchvision:NAME'",
            "torchvision:resnet18?stem=tiny": "unknown stem of .* 'tiny': known: imagenet, small",
            "torchvision:resnet18?width_mult=1": "cannot be built .*width_mult",
            "torchvision:mobilenet_v2?inverted_residual_setting=None": "write values as JSON, such as false, true",
            "torchvision:resnet18?zero_init_residual=False": "option zero_init_residual=False; write values as JSON",
            "torchvision:resnet50?replace_stride_with_dilation=[False,True,True]": "write values as JSON",
            "torchvision:resnet18?stem": "option 'stem'; write each once",
            "torchvision:resnet18?a=1&a=2": "option 'a=2'; write each once",
            "torchvision:resnet18?weights=missing.pt": "missing.pt: No such file",
            f"{SMALL}&weights={NETS}": "not a valid checkpoint",
            "torchvision:vit_b_16?stem=small": "one position embedding a patch.*give the size of the images",
            "python:missing.py:net": "there is no file missing.py",
            "python:nets:net": "must be python:FILE.py:FUNCTION",
            f"python:{NETS}:nothing": "has no function nothing",
            f"python:{NETS}:as_text": "returns a str; must return an nn.Module",
            f"python:{NETS}:branching?depth=2": "cannot be built .*depth",
            f"python:{NETS}:branching?stem=small": "stem is for models of libraries",
        }.items(),
    )
    def test_what_is_wrong_is_named(self, arch: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            made(arch)

    def test_a_file_that_fails_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
        with pytest.raises(UserError, match=r"bad\.py fails: ModuleNotFoundError"):
            made(f"python:{tmp_path / 'bad.py'}:net")

    def test_our_own_names_stay_as_they_are(self) -> None:
        assert not is_sourced("resnet20")
        assert pinned("resnet20") == identity("resnet20") == without_path("resnet20") == "resnet20"


class TestFiles:
    def test_the_identity_is_content_and_options_not_the_path(self, nets: Path, tmp_path: Path) -> None:
        arch = f"python:{nets}:branching?width=8"
        before = identity(arch)
        assert before == identity(pinned(arch)) != identity(f"python:{nets}:branching")
        moved = nets.rename(tmp_path / "moved.py")
        assert identity(f"python:{moved}:branching?width=8") == before
        moved.write_text(moved.read_text() + "# changed\n")
        assert identity(f"python:{moved}:branching?width=8") != before

    def test_a_pinned_file_may_not_change(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(nets.parent)
        arch = pinned("python:nets.py:branching")
        assert arch.startswith(f"python:{nets.absolute()}:branching#")
        assert pinned(arch) == arch
        assert short_name(arch) == f"python:nets.py:branching#{arch[-64:][:8]}"
        made(arch)
        nets.write_text(nets.read_text() + "# changed\n")
        with pytest.raises(UserError, match=r"nets.py has changed.*begin a new study"):
            made(arch)

    def test_what_is_run_is_what_is_hashed_even_if_it_changes_within_a_second(self, tmp_path: Path) -> None:
        """Python takes the code in __pycache__ for that of a file of the same size, changed in the same second."""
        file = tmp_path / "nets.py"
        source = "from torch import nn\ndef net(classes, channels):\n    return nn.Linear({}, classes)\n"
        for width, change in ((4, 0), (8, 1)):
            file.write_text(source.format(width))
            os.utime(file, ns=(10**18 + change, 10**18 + change))
            if not change:
                py_compile.compile(str(file), doraise=True)
        assert made(pinned(f"python:{file}:net")).net.in_features == 8

    def test_nothing_is_written_beside_the_file(self, nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "dont_write_bytecode", False)
        made(f"python:{nets}:branching")
        assert list(nets.parent.iterdir()) == [nets]

    def test_a_file_may_have_dataclasses(self, tmp_path: Path) -> None:
        (tmp_path / "nets.py").write_text(
            "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n\n"
            "@dataclass\nclass Config:\n    width: int = 8\n\n"
            "def net(classes, channels):\n    return nn.Linear(Config().width, classes)\n"
        )
        assert made(f"python:{tmp_path}/nets.py:net").net.in_features == 8

    def test_a_packed_model_runs_only_the_file_that_is_named(self, nets: Path, tmp_path: Path) -> None:
        model, images = made(pinned(f"python:{nets}:branching?width=8")), torch.rand(3, 3, 32, 32)
        quantized, file = quantize(model, images, QuantizeConfig(4)), tmp_path / "model.safetensors"
        pack(quantized, file)
        with safe_open(file, framework="pt") as opened:
            assert str(tmp_path) not in str(opened.metadata())
        with pytest.raises(UserError, match=r"branching\(\) of a user's file, 'nets.py'.*--code FILE"):
            load(file)
        moved = Path(shutil.copy(nets, tmp_path / "elsewhere.py"))
        assert torch.equal(logits(load(file, code=moved), images), logits(quantized.model, images))
        moved.write_text(moved.read_text() + "# changed\n")
        with pytest.raises(UserError, match="has changed"):
            load(file, code=moved)

    def test_a_library_needs_no_file(self) -> None:
        assert with_code(SMALL, None) == SMALL
        with pytest.raises(UserError, match="needs no file; leave it out"):
            with_code(SMALL, "nets.py")


class TestTransformers:
    SIZES = "hidden_size=16&num_hidden_layers=1&num_attention_heads=2&intermediate_size=16&image_size=16&patch_size=8"

    def test_a_folder_is_its_configuration(self, tmp_path: Path) -> None:
        sizes = {key: int(value) for key, _, value in (part.partition("=") for part in self.SIZES.split("&"))}
        ViTConfig(**sizes, id2label={0: "cat", 1: "a & b = c"}).save_pretrained(tmp_path)
        arch = pinned(f"transformers:{tmp_path}")
        one, other = made(arch).state_dict(), made(f"transformers:vit?{self.SIZES}").state_dict()
        assert [(key, value.shape) for key, value in one.items()] == [
            (key, value.shape) for key, value in other.items()
        ]
        (tmp_path / "config.json").unlink()
        assert pinned(arch) == arch
        assert str(tmp_path) not in arch
        assert all(torch.equal(value, one[key]) for key, value in made(arch).state_dict().items())
        assert short_name(arch).startswith("transformers:vit#")

    def test_options_change_a_setting_of_a_folder(self, tmp_path: Path) -> None:
        ViTConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=3).save_pretrained(tmp_path)
        net = made(pinned(f"transformers:{tmp_path}?num_hidden_layers=1&image_size=16&patch_size=4"), GREY).net
        assert net.model.config.num_hidden_layers == 1
        assert logits(net, torch.rand(2, 1, 16, 16)).shape == (2, 5)

    @pytest.mark.parametrize(
        ("name", "message"),
        {
            "vitt": "unknown type of image classifier .*did you mean 'vit'",
            "bert?hidden_size=8": "unknown type of image classifier",
            "vit?stem=small": "has no stem to adapt",
            "vit?hidden_size=7": "cannot be built",
        }.items(),
    )
    def test_what_is_wrong_is_named(self, name: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            made(f"transformers:{name}")

    def test_a_folder_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"has no config\.json"):
            made(f"transformers:{tmp_path}")
        for text in ("[]", "{}", "no JSON", '{"model_type": "bert"}'):
            (tmp_path / "config.json").write_text(text)
            with pytest.raises(UserError, match=r"no configuration of a model|unknown type"):
                made(f"transformers:{tmp_path}")


class TestTransformersWeights:
    def saved(self, folder: Path, classes: int = 5, **settings: int) -> ViTForImageClassification:
        parts = (part.partition("=") for part in TestTransformers.SIZES.split("&"))
        sizes = {key: int(value) for key, _, value in parts}
        torch.manual_seed(7)
        model = ViTForImageClassification(ViTConfig(**{**sizes, "num_labels": classes, **settings}))
        model.save_pretrained(folder)
        return model

    @pytest.mark.parametrize(
        ("classes", "normalization", "new"),
        [
            (5, RGB, set()),
            (3, RGB, {"classifier.weight", "classifier.bias"}),
            (5, GREY, {"vit.embeddings.patch_embeddings.projection.weight"}),
        ],
        ids=["equal", "other classes", "other channels"],
    )
    def test_a_student_starts_from_the_weights_of_a_folder(
        self, classes: int, normalization: Normalization, new: set[str], tmp_path: Path
    ) -> None:
        trained, arch = self.saved(tmp_path).state_dict(), f"transformers:{tmp_path}"
        fresh, own = (made(name, normalization, classes).net for name in (arch, f"{arch}?weights=pretrained"))
        for name, value in own.state_dict().items():
            kept = name.removeprefix("model.")
            assert torch.equal(value, fresh.state_dict()[name] if kept in new else trained[kept])

    def test_the_weights_are_part_of_the_identity_and_not_of_a_packed_file(self, tmp_path: Path) -> None:
        self.saved(tmp_path)
        arch = f"transformers:{tmp_path}?weights=pretrained"
        before = identity(arch)
        assert before == identity(pinned(arch)) == identity(f"transformers:{tmp_path}?weights={tmp_path}/{WEIGHTS}")
        assert str(tmp_path) not in str(before) + without_path(pinned(arch))
        self.saved(tmp_path, classes=4)
        assert identity(arch) != before

    @pytest.mark.parametrize(
        ("options", "message"),
        {
            "image_size=32": r"position_embeddings has shape \[1, 5, 16\], the model's \[1, 17, 16\]",
            "num_hidden_layers=2": "lacks vit.layers.1.attention.k_proj.bias and 15 others",
            "intermediate_size=8": "has shape",
        }.items(),
    )
    def test_weights_of_another_shape_are_refused(self, options: str, message: str, tmp_path: Path) -> None:
        self.saved(tmp_path)
        with pytest.raises(UserError, match=message):
            made(f"transformers:{tmp_path}?{options}&weights=pretrained")

    def test_weights_of_more_layers_are_refused(self, tmp_path: Path) -> None:
        self.saved(tmp_path, num_hidden_layers=2)
        with pytest.raises(UserError, match=r"the model has no vit\.layers\.1\."):
            made(f"transformers:{tmp_path}?num_hidden_layers=1&weights=pretrained")

    @pytest.mark.parametrize(
        ("arch", "message"),
        {
            "transformers:vit?weights=pretrained": "a type has no weights",
            "transformers:vit?weights=imagenet": "weights=imagenet are those of torchvision",
            "torchvision:resnet18?weights=pretrained": "weights=pretrained are those of transformers",
        }.items(),
    )
    def test_published_weights_are_those_of_their_source(self, arch: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            made(arch)


class TestWeights:
    def test_a_student_starts_from_weights_of_other_classes(self, tmp_path: Path) -> None:
        trained, path = made(SMALL, classes=7), tmp_path / "weights.safetensors"
        save(trained, path)
        fresh, student = made(SMALL), made(f"{SMALL}&weights={path}")
        for key, value in student.net.state_dict().items():
            source = fresh if key.startswith("classifier.1.") else trained
            assert torch.equal(value, source.net.state_dict()[key])
        assert without_path(student.arch) == SMALL

    def kept(self, arch: str, file: Path, normalization: Normalization = RGB) -> tuple[set[str], set[str]]:
        """Return which parameters a student of 5 classes has from those of 7 of the same network, and which not."""
        torch.save(made(arch, classes=7).net.state_dict(), file)
        fresh = dict(made(arch, normalization).net.named_parameters())
        student = made(f"{arch}{'&' if '?' in arch else '?'}weights={file}", normalization).net
        trained = torch.load(file, weights_only=True)
        names = dict(student.named_parameters())
        from_file = {name for name, value in names.items() if torch.equal(value, trained[name])}
        new = {name for name, value in names.items() if torch.equal(value, fresh[name])}
        assert from_file | new == names.keys()
        return from_file, names.keys() - from_file

    def test_the_first_convolution_and_every_head_may_have_another_shape(self, nets: Path, tmp_path: Path) -> None:
        """A ViT's first parameter is its token, and it may have two heads, the last of which is not last."""
        heads = {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
        arch = f"python:{nets}:tokens"
        assert self.kept(arch, tmp_path / "a.pt")[1] == heads
        assert self.kept(arch, tmp_path / "a.pt", GREY)[1] == heads | {"patches.weight"}

    @pytest.mark.parametrize(("options", "message"), [("width=8", r"token: expected"), ("depth=2", r"body\.1\.weight")])
    def test_other_layers_may_not(self, options: str, message: str, nets: Path, tmp_path: Path) -> None:
        arch = f"python:{nets}:tokens"
        torch.save(made(arch, classes=7).net.state_dict(), tmp_path / "a.pt")
        with pytest.raises(UserError, match=f"does not fit .*{message}"):
            made(f"{arch}?{options}&weights={tmp_path / 'a.pt'}")

    def test_auxiliary_classifiers_are_new_or_passed_over(self, tmp_path: Path) -> None:
        arch, file = "torchvision:googlenet", tmp_path / "a.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision advises another initialisation
            heads = self.kept(arch, file)[1]
            without = made(f"{arch}?aux_logits=false&weights={file}").net
        assert {name.rpartition(".")[0] for name in heads} == {"aux1.fc2", "aux2.fc2", "fc"}
        assert torch.equal(without.conv1.conv.weight, torch.load(file, weights_only=True)["conv1.conv.weight"])

    def test_two_layers_alone_are_a_network(self, tmp_path: Path) -> None:
        (tmp_path / "nets.py").write_text(
            "from torch import nn\ndef net(classes, channels):\n"
            "    return nn.Sequential(nn.Conv2d(channels, 8, 3), nn.Flatten(), nn.Linear(8, classes))\n"
        )
        assert self.kept(f"python:{tmp_path}/nets.py:net", tmp_path / "a.pt")[1] == {"2.weight", "2.bias"}

    def test_imagenet_weights_come_from_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        source = build("torchvision:squeezenet1_1", classes=1000, normalization=RGB, seed=3)
        content = BytesIO()
        torch.save(source.net.state_dict(), content)
        name = f"squeezenet1_1-{sha256(content.getvalue()).hexdigest()[:8]}.pth"
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / name).write_bytes(content.getvalue())
        weights = SimpleNamespace(DEFAULT=SimpleNamespace(url=f"file:///none/{name}"))
        monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: weights)
        student = made("torchvision:squeezenet1_1?weights=imagenet").net
        assert torch.equal(student.features[3].squeeze.weight, source.net.features[3].squeeze.weight)
        assert student.classifier[1].out_channels == 5
        assert pinned("torchvision:squeezenet1_1?weights=imagenet").endswith(f"?weights={tmp_path}/checkpoints/{name}")
        with pytest.raises(UserError, match="weights=imagenet are those of torchvision"):
            pinned(f"python:{NETS}:branching?weights=imagenet")

    def test_they_are_part_of_the_identity(self, tmp_path: Path) -> None:
        arch = f"{SMALL}&weights={tmp_path / 'weights.pt'}"
        found = []
        for content in ("one", "two"):
            (tmp_path / "weights.pt").write_text(content)
            found.append(identity(arch))
        assert found[0] != found[1]
        assert split_weights(arch) == (SMALL, str(tmp_path / "weights.pt"))

    def test_a_teacher_needs_them(self, tmp_path: Path) -> None:
        (tmp_path / "weights.pt").touch()
        assert parse_spec(f"{SMALL}&weights={tmp_path / 'weights.pt'}#ema") == Checkpoint(
            SMALL, tmp_path / "weights.pt", key="ema"
        )
        assert parse_spec(f"train:{SMALL}") == Trained(SMALL)
        with pytest.raises(UserError, match="add the option weights=FILE, or use train:torchvision"):
            parse_spec(SMALL)
