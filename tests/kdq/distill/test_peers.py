"""Where the second of two students starts."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torchvision.models import resnet18

from kdq.data.dataset import Dataset
from kdq.distill.peers import IMAGENET_WEIGHTS, ImageNet, parse_peer, peer_seed, peer_weights, warm_start
from kdq.distill.teachers import Hub, Trained
from kdq.errors import UserError
from kdq.models.checkpoint import IMAGENET, Checkpoint, save
from kdq.models.classifier import Classifier, Normalization, build

NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
IMAGES, LABELS = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)
DATA = Dataset("none", tuple("abcd"), NORMALIZATION, *(IMAGES, LABELS) * 3, "0" * 64)


def classifier(seed: int, arch: str = "resnet8") -> Classifier:
    return build(arch, classes=4, normalization=NORMALIZATION, seed=seed)


def same(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("imagenet", ImageNet),
        ("train", Trained),
        ("train:resnet18", Trained),
        ("resnet18:w.pt", Checkpoint),
        ("hub:owner/resnet18_cifar10", Hub),
    ],
)
def test_what_a_peer_may_start_from(text: str, kind: type) -> None:
    assert isinstance(parse_peer(text, "resnet18"), kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagenet", "weights are available for resnet18, resnet34, resnet50, not for resnet20; use resnet20:PATH"),
        ("resnet56:w.pt", "both students must have the same architecture; name weights of a resnet20"),
        ("train:resnet8", "both students must have the same architecture"),
        ("transformers:owner/vit", "a peer must be kdq's own resnet20"),
        ("resnet20", "no file is named"),
        ("imagnet", r"^peer_init 'imagnet': unknown .*, or imagenet$"),
    ],
)
def test_what_it_may_not(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_peer(text, "resnet20")


@pytest.mark.parametrize("arch", IMAGENET_WEIGHTS)
def test_torchvision_has_the_imagenet_weights(arch: str) -> None:
    assert torchvision.models.get_weight(f"{IMAGENET_WEIGHTS[arch]}_Weights.IMAGENET1K_V1").url.endswith(".pth")


def test_imagenet_weights_are_fetched_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        weights = resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    served = (tmp_path / "w.pth").rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    monkeypatch.setattr(torchvision.models, "get_weight", lambda name: SimpleNamespace(url=served.as_uri()))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    for _ in range(2):
        spec = ImageNet("resnet18").fetch()
        assert spec.normalization == IMAGENET
        started = warm_start(spec, "resnet18", DATA, seed=0)
        assert torch.equal(started.net.state_dict()["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
        served.unlink(missing_ok=True)  # the second time it is in the cache
    spec.path.unlink()
    with pytest.raises(UserError, match=r"is unavailable .*use resnet18:PATH"):
        ImageNet("resnet18").fetch()


def test_no_peer_begins_as_another_student() -> None:
    seeds = range(1000)
    assert not {peer_seed(seed) for seed in seeds} & set(seeds)
    assert len({peer_seed(seed) for seed in seeds}) == len(seeds)


def test_a_peer_starts_from_weights_on_its_own_data(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save(classifier(3), path)
    started = warm_start(Checkpoint("resnet8", path), "resnet8", DATA, seed=0)
    assert same(started, classifier(3))
    assert all(parameter.requires_grad for parameter in started.parameters())


def test_a_peer_starts_from_imagenet_but_for_its_stem_and_head(tmp_path: Path) -> None:
    """ImageNet's ResNet-18 has a 7x7 stem and 1,000 classes."""
    with torch.random.fork_rng():
        imagenet = resnet18(weights=None).state_dict()
    torch.save(imagenet, tmp_path / "imagenet.pth")
    started = warm_start(Checkpoint("resnet18", tmp_path / "imagenet.pth"), "resnet18", DATA, seed=2)
    fresh = classifier(2, "resnet18").net.state_dict()
    for key, value in started.net.state_dict().items():
        random = key in ("conv1.weight", "fc.weight", "fc.bias")
        assert torch.equal(value, fresh[key] if random else imagenet[key])


@pytest.mark.parametrize(("saved", "arch"), [("resnet8", "resnet14"), ("resnet14", "resnet8")])
def test_weights_of_another_architecture_are_refused(saved: str, arch: str, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save(classifier(0, saved), path)
    with pytest.raises(UserError, match=rf"does not fit {arch}: layer1\.1"):
        warm_start(Checkpoint(arch, path), arch, DATA, seed=0)


def test_a_peer_starts_from_the_weights_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    states = [classifier(seed).net.state_dict() for seed in (3, 4)]
    wrapped = {f"module.{key}": value for key, value in states[1].items()}
    torch.save({"model": states[0], "ema": wrapped}, path)
    with pytest.raises(UserError, match=rf"choose: resnet8:{path}#model or resnet8:{path}#ema\.module"):
        warm_start(Checkpoint("resnet8", path), "resnet8", DATA, seed=0)
    spec = parse_peer(f"resnet8:{path}#ema", "resnet8")
    assert isinstance(spec, Checkpoint)
    assert same(warm_start(spec, "resnet8", DATA, seed=0), classifier(4))


def test_weights_for_a_peer_are_the_same_whatever_the_data_set(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save(classifier(3), path)
    four, seven = (peer_weights(Checkpoint("resnet8", path), "resnet8", n, NORMALIZATION) for n in (4, 7))
    assert four.keys() == seven.keys() == classifier(3).net.state_dict().keys()
    assert all(torch.equal(value, seven[key]) for key, value in four.items())


def test_weights_for_images_of_other_channels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "grey.safetensors"
    save(build("resnet8", classes=4, normalization=Normalization((0.5,), (0.5,)), seed=0), path)
    with pytest.raises(UserError, match="take images of 1 channels, the data set has 3"):
        warm_start(Checkpoint("resnet8", path), "resnet8", DATA, seed=0)
