"""A dry run refuses what a run would refuse before its first trial, and leaves nothing behind."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from kdq import plugins
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.distill.trainer import Trainer
from kdq.errors import UserError
from kdq.models.checkpoint import save
from kdq.models.classifier import Classifier, Normalization, build
from kdq.store.folder_store import StageStore
from study.plan.plan import Plan
from study.space.load import load_space
from study.space.workload import load_workload
from study.trial.check_inputs import check_inputs
from study.trial.inputs import check_objective, prepare_data

GREY, RGB = Normalization((0.5,), (0.25,)), Normalization((0.5,) * 3, (0.25,) * 3)


def plan(space: str, workload: str = "digits", **settings: Any) -> Plan:
    return Plan(
        space, workload, load_space(space, {"bits": (4,), "trials": 2}), load_workload(workload, settings), (0,)
    )


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that has decoded the digits."""
    root = tmp_path_factory.mktemp("root")
    prepare_data(plan("dkd_grid").workload, None, StageStore(root / "stages"), quiet)
    return root


@pytest.fixture(scope="module")
def trained(kept: Path) -> Classifier:
    data = prepare_data(plan("dkd_grid").workload, None, StageStore(kept / "stages"), quiet)[1]
    model = build("resnet8", classes=10, normalization=data.normalization, seed=0)
    config = TrainConfig(epochs=3, batch_size=25, lr=0.05)
    trainer = Trainer(config, MethodConfig.parse({"method": "ce"}), model, None, data, stream_seed=0)
    for _ in range(config.epochs):
        trainer.run_epoch()
    return trainer.best.eval()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, which a dry run leaves empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def random(classes: int = 10, normalization: Normalization = GREY) -> Classifier:
    return build("resnet8", classes=classes, normalization=normalization, seed=0)


def test_good_inputs_pass_and_leave_nothing_behind(
    kept: Path, trained: Classifier, temporary: Path, tmp_path: Path
) -> None:
    path = tmp_path / "teacher.safetensors"
    save(trained, path)
    before = sorted(kept.rglob("*"))
    for root in (kept, tmp_path / "new"):
        check_inputs(plan("dkd_grid", teacher=f"resnet8:{path}"), None, root)
        check_inputs(plan("dml", student="resnet8", peer_init=f"resnet8:{path}"), None, root)
        check_inputs(plan("dkd_grid", teacher="train:resnet8"), None, root)
    assert sorted(kept.rglob("*")) == before
    assert not (tmp_path / "new").exists()
    assert list(temporary.iterdir()) == []


def test_top5_of_few_classes_is_refused_before_anything_is_trained(kept: Path) -> None:
    space = load_space("smoke", {"objective": "top5"})
    asked = replace(plan("smoke"), space=space)
    data = prepare_data(asked.workload, None, StageStore(kept / "stages"), quiet)[1]
    check_objective(asked, data)
    with pytest.raises(UserError, match=r"^objective: 'top5' needs more than 5 classes, and digits has 5; use top1$"):
        check_objective(asked, SimpleNamespace(classes=5))  # type: ignore[arg-type]


def cut(path: Path) -> None:
    save(random(), path)
    path.write_bytes(path.read_bytes()[:-10])


def with_nan(path: Path) -> None:
    state = random().net.state_dict()
    state["bn1.bias"][0] = torch.nan
    torch.save(state, path)


TEACHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is no such checkpoint"),
    "cut": (cut, "not a valid checkpoint of plain tensors"),
    "a web page": (lambda path: path.write_text("<html>"), "a web page"),
    "of other classes": (lambda path: save(random(classes=7), path), "has 7 classes, the data set 10"),
    "of other channels": (
        lambda path: save(random(normalization=RGB), path),
        "images of 3 channels, the data set has 1",
    ),
    "of other depth": (
        lambda path: save(build("resnet14", classes=10, normalization=GREY, seed=0), path),
        "does not fit resnet8",
    ),
    "not finite": (with_nan, r"bn1\.bias has 1 NaN"),
    "that guesses": (lambda path: save(random(), path), r"on digits, where guessing gives 10\.00 %"),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_a_faulty_teacher_is_found(name: str, kept: Path, temporary: Path, tmp_path: Path) -> None:
    make, message = TEACHERS[name]
    make(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=message):
        check_inputs(plan("dkd_grid", teacher=f"resnet8:{tmp_path}/a.safetensors"), None, kept)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["missing", "cut", "a web page", "of other channels", "of other depth", "not finite"])
def test_a_faulty_peer_is_found(name: str, kept: Path, tmp_path: Path) -> None:
    make, message = TEACHERS[name]
    make(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=message):
        check_inputs(plan("dml", student="resnet8", peer_init=f"resnet8:{tmp_path}/a.safetensors"), None, kept)


def test_a_normalisation_for_other_channels_is_found(kept: Path, trained: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(trained.net.state_dict(), path)
    imagenet = plan("dkd_grid", teacher=f"resnet8:{path}", teacher_normalization="imagenet")
    with pytest.raises(UserError, match="is for images of 3 channels, the data set 'digits' has 1"):
        check_inputs(imagenet, None, kept)


def test_faulty_data_are_found(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"5000 training and .* are available"):
        check_inputs(plan("methods", teacher="train", train_images=5000), None, kept)
    with pytest.raises(UserError, match=r"no train-\*\.parquet"):
        check_inputs(plan("methods", "cifar10_small", teacher="train"), tmp_path, kept)


def test_a_damaged_stage_is_named_where_it_is(trained: Classifier, tmp_path: Path) -> None:
    folder = prepare_data(plan("methods").workload, None, StageStore(tmp_path / "stages"), quiet)[0].folder
    labels = np.load(Path(folder) / "train_labels.npy")
    np.save(Path(folder) / "train_labels.npy", labels + 5)
    with pytest.raises(UserError, match=rf"^{folder}: damaged stage \(train_labels\.npy"):
        check_inputs(plan("methods", teacher="train"), None, tmp_path)


def test_a_data_set_is_not_downloaded_and_its_teacher_is_checked_still(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", never)
    path = tmp_path / "a.safetensors"
    teacher = plan("dkd_grid", "cifar10_small", teacher=f"resnet8:{path}")
    save(random(normalization=RGB), path)
    check_inputs(teacher, None, kept)
    save(random(classes=100, normalization=RGB), path)
    with pytest.raises(UserError, match="has 100 classes, the data set 10"):
        check_inputs(teacher, None, kept)


def test_a_full_disk_is_reported(trained: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdq.data.sources._write", full)
    with pytest.raises(UserError, match=r"^dry run: \[Errno 28\] No space left on device; .* set TMPDIR"):
        check_inputs(plan("methods", teacher="train"), None, tmp_path)


def test_a_student_that_cannot_process_the_images_is_refused(kept: Path) -> None:
    with pytest.raises(UserError, match=r"'torchvision:vgg11' cannot process images of 1x8x8 .*stem=small"):
        check_inputs(plan("dkd_grid", student="torchvision:vgg11", teacher="train:resnet8"), None, kept)


def test_a_student_that_returns_no_logits_is_refused(kept: Path, tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n\n\ndef net(classes, channels):\n    return nn.Conv2d(channels, classes, 1)\n"
    )
    with pytest.raises(
        UserError, match=r"returns \[2, 10, 8, 8\] in training for 2 images of 1x8x8; must be logits \[2, 10\]"
    ):
        check_inputs(plan("dkd_grid", student=f"python:{file}:net", teacher="train:resnet8"), None, kept)


HEAD = "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self, classes, channels):\n        "
UNTRAINABLE = {
    "no parameters": (
        "super().__init__(nn.AdaptiveAvgPool2d((1, classes)), nn.Flatten())",
        "has nothing to train: its logits depend on no parameter that requires_grad",
    ),
    "frozen": (
        "super().__init__(nn.Flatten(), nn.Linear(64, classes)); self.requires_grad_(False)",
        "has nothing to train",
    ),
    "not finite": (
        "super().__init__(nn.Flatten(), nn.Linear(64, classes)); nn.init.constant_(self[1].bias, float('nan'))",
        "gives NaN or infinite logits for images of 1x8x8 before it is trained",
    ),
    "lazy": ("super().__init__(nn.Flatten(), nn.LazyLinear(classes))", r"1\.weight has no shape before a first run"),
    "an end": ("raise SystemExit('no such option')", r"cannot be built \(SystemExit: no such option\)"),
}


REGISTER = """

from kdq.models.resnets import register_architecture

register_architecture("own", Net)
"""


@pytest.fixture
def plugin() -> Iterator[Callable[[Path], object]]:
    """Loads a plugin for one test."""
    yield plugins.load
    for loaded in plugins.loaded():
        plugins.unload(loaded.name)


@pytest.mark.parametrize("name", UNTRAINABLE)
@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("is_plugin", [False, True])
def test_a_network_that_cannot_be_trained_is_refused(
    is_plugin: bool, role: str, name: str, kept: Path, tmp_path: Path, plugin: Callable[[Path], object]
) -> None:
    body, message = UNTRAINABLE[name]
    file, net = tmp_path / "nets.py", f"python:{tmp_path}/nets.py:Net"
    file.write_text(f"{HEAD}{body}\n{REGISTER if is_plugin else ''}")
    if is_plugin:
        plugin(file)
        net = "own"
    chosen = {"student": net, "teacher": "train:resnet8"} if role == "student" else {"teacher": f"train:{net}"}
    with pytest.raises(UserError, match=message):
        check_inputs(plan("dkd_grid", **chosen), None, kept)


UNUSED = (
    f"{HEAD}super().__init__(nn.Flatten(), nn.Linear(64, classes)); self.extra = nn.Parameter(self[1].bias.clone())"
)


@pytest.mark.parametrize(
    ("space", "bits", "role", "is_refused"),
    [
        ("dkd_grid", (4,), "student", True),
        ("dkd_grid", (32,), "student", False),
        ("teacher_ptq", (4,), "teacher", True),
        ("dkd_grid", (4,), "teacher", False),
    ],
)
def test_a_network_that_cannot_be_quantized_is_refused_before_it_is_trained(
    space: str, bits: tuple[int, ...], role: str, is_refused: bool, kept: Path, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(f"{UNUSED}\n")
    net = f"python:{tmp_path}/nets.py:Net"
    chosen = {"student": net, "teacher": "train:resnet8"} if role == "student" else {"teacher": f"train:{net}"}
    planned = Plan(space, "digits", load_space(space, {"bits": bits}), load_workload("digits", chosen), (0,))
    message = rf"{role} .*:Net.* cannot be quantized: the network's extra is stored, but not used"
    with pytest.raises(UserError, match=message) if is_refused else nullcontext():
        check_inputs(planned, None, kept)


def test_a_teacher_that_cannot_be_quantized_is_refused_before_it_is_evaluated(kept: Path, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(f"{UNUSED}\n")
    arch, weights = f"python:{tmp_path}/nets.py:Net", tmp_path / "a.safetensors"
    save(build(arch, classes=10, normalization=GREY, seed=0), weights)
    with pytest.raises(UserError, match=r"teacher .*:Net.* cannot be quantized: the network's extra is stored"):
        check_inputs(plan("teacher_ptq", teacher=f"{arch}?weights={weights}"), None, kept)
