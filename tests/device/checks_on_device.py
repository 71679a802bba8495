"""Runs of `test_device.py`'s child process: what trains, quantizes and evaluates, on a stand-in for a GPU.

Every result is compared with the CPU's. The stand-in computes as the CPU does, so only a difference in the order of
summation is allowed: PyTorch chooses other variants of its optimizers for a GPU.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from benchmarks.gpu.checks import compare, evidence
from benchmarks.gpu.output import Output
from benchmarks.gpu.parts import split
from benchmarks.gpu.quantizing import quantize
from benchmarks.gpu.settings import Clock, Settings
from benchmarks.gpu.study import Study, train, train_teacher
from kdq.bits import FLOAT_BITS, Allocation
from kdq.data.augment import AugmentConfig, Views
from kdq.data.dataset import Dataset, open_dataset
from kdq.data.sources import load_source
from kdq.distill.features import FeatureLayers
from kdq.distill.methods import METHODS, MethodConfig
from kdq.distill.recipe import OPTIMIZERS, TrainConfig
from kdq.distill.teacher_logits import ForwardTeacher, TeacherLogits, TeacherLogitsCache
from kdq.distill.trainer import Trainer
from kdq.models.checkpoint import save
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import logits, top1
from kdq.models.resnets import ARCHITECTURES
from kdq.pack.file import load, pack
from kdq.pipeline.point import PACKED_FILE, PointSpec, measure, measured
from kdq.pipeline.probe import probe
from kdq.pipeline.student import MODEL_FILE, Epoch, StudentSpec, distill
from kdq.quantize.algorithms import QUANTIZERS
from kdq.quantize.config import QuantizeConfig, QuantizerSpec
from kdq.quantize.model import choose_calibration, quantize_many
from kdq.store.folder_store import StageStore
from study.results.status import TrialStatus
from study.trial.events import TrialEnded
from study.trial.trial import Trial
from study.trial.worker import DataRef, Inputs, ModelRef, Probing, run_trial
from tests.benchmarks.test_gpu import data_stage
from tests.device.accelerator import SynchronizedError, WrongDeviceError, accelerator, no_synchronization, register

register()
NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
AUGMENT = AugmentConfig(crop_padding=1, flip=True, cutout=2)
TRAIN = TrainConfig(epochs=2, batch_size=10, lr=0.05, ema=0.5, augment=AUGMENT)
CLOSE = 1e-4


@pytest.fixture
def device() -> Iterator[torch.device]:
    with accelerator() as found:
        yield found


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "tiny", Tiny)


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps of a training synchronize never, but for the first of an epoch, which may read the teacher's logits.

    The numbers of the guarded steps are appended to the list.
    """
    run, view, seen = Trainer._step, Views.view, []

    def step(trainer: Trainer, number: int, *rest: Any) -> Any:
        if trainer.device.type == "cpu" or number % trainer.steps == 1:
            return run(trainer, number, *rest)
        seen.append(number)
        with no_synchronization():
            return run(trainer, number, *rest)

    def make(views: Views, *arguments: Any) -> Any:
        with nullcontext() if views.images.device.type == "cpu" else no_synchronization():
            return view(views, *arguments)

    monkeypatch.setattr(Trainer, "_step", step)
    monkeypatch.setattr(Views, "view", make)
    return seen


Result = TypeVar("Result")


def both(run: Callable[[Dataset], Result]) -> tuple[Result, Result]:
    """What a function gives for the data set on the device, and for the one on the CPU."""
    wanted = run(dataset())
    with accelerator() as device:
        return run(dataset().to(device)), wanted


class Tiny(nn.Module):
    """A network as small as one with a residual addition and a grouped convolution can be."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.linear = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.bn1(self.conv1(images)).relu()
        logits: Tensor = self.linear((out + self.conv2(out).relu()).mean((2, 3)))
        return logits


def dataset() -> Dataset:
    random = torch.Generator().manual_seed(0)

    def split(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 4
        images = torch.randint(0, 100, (count, 3, 8, 8), generator=random) + 50 * labels[:, None, None, None]
        return images.to(torch.uint8), labels

    return Dataset("noise", tuple("abcd"), NORMALIZATION, *split(40), *split(20), *split(20), "0" * 64)


def classifier(seed: int, arch: str = "tiny") -> Classifier:
    return build(arch, classes=4, normalization=NORMALIZATION, seed=seed)


def cached(store: StageStore, data: Dataset, method: MethodConfig, precision: str = "float32") -> TeacherLogitsCache:
    device = data.device
    views = Views(
        data.train_images,
        data.train_labels,
        AUGMENT,
        stream_seed=0,
        fill=NORMALIZATION.mean,
        mixup_alpha=method.teacher_mixup_alpha,
    )
    teacher = ForwardTeacher(classifier(9).to(device), precision)
    return TeacherLogitsCache(store, lambda: teacher, f"{device.type}", data, views, precision=precision)


def trained(store: StageStore, data: Dataset, method: MethodConfig, train: TrainConfig) -> list[dict[str, float]]:
    peer = classifier(5).to(data.device) if method.method.needs_peer else None
    teacher: TeacherLogits | None = None
    layers = FeatureLayers(("conv1", "conv2"), ("conv1", "conv2")) if method.compares_features else None
    if layers:
        teacher = ForwardTeacher(classifier(9).to(data.device), train.precision)
    elif method.method.needs_teacher:
        teacher = cached(store, data, method, train.precision)
    student = classifier(0).to(data.device)
    trainer = Trainer(train, method, student, teacher, data, stream_seed=0, peer=peer, layers=layers)
    return [trainer.run_epoch() for _ in range(train.epochs)]


def losses(history: list[dict[str, float]]) -> list[float]:
    return [value for row in history for name, value in row.items() if name.startswith(("train_", "val_"))]


def near(found: list[float], wanted: list[float]) -> bool:
    return len(found) == len(wanted) and all(
        abs(a - b) <= CLOSE * max(1.0, abs(b)) for a, b in zip(found, wanted, strict=True)
    )


# The stand-in itself


@pytest.mark.parametrize(
    "operation",
    [
        lambda here, there: here + there,
        lambda here, there: there.add_(here),
        lambda here, there: here[there.long()],
        lambda here, there: there[here.long()],
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.nn.functional.linear(here, there),
        lambda here, there: there[0] + 0 * here.sum() + there,
        lambda here, there: there[0].add_(here[0]),
        lambda here, there: torch.rand(3, generator=torch.Generator(), device=here.device),
    ],
)
def test_a_mixture_of_devices_is_refused(operation: Any, device: torch.device) -> None:
    with pytest.raises(WrongDeviceError):
        operation(torch.ones(3, device=device), torch.ones(3))


def test_numpy_does_not_see_a_tensor_on_the_device(device: torch.device) -> None:
    with pytest.raises(TypeError):
        torch.ones(3, device=device).numpy()


@pytest.mark.parametrize(
    "operation",
    [
        lambda here: here.sum().item(),
        lambda here: here.tolist(),
        lambda here: bool(here[0] > 0),
        lambda here: here.cpu(),
        lambda here: here[here > 0],
        lambda here: here.nonzero(),
        lambda here: torch.equal(here, here),
        lambda here: torch.ones(3).to(here.device),
        lambda here: torch.tensor([1.0], device=here.device),
        lambda here: here.copy_(torch.ones(3)),
    ],
)
def test_a_step_does_not_wait(operation: Any, device: torch.device) -> None:
    here = torch.ones(3, device=device)
    operation(here)
    with no_synchronization(), pytest.raises((SynchronizedError, WrongDeviceError)):
        operation(here)


@pytest.mark.parametrize("make", [lambda: torch.zeros(3), lambda: torch.arange(3), lambda: torch.tensor([1.0])])
def test_a_step_makes_nothing_on_the_cpu(make: Any, device: torch.device) -> None:
    assert make().device.type == "cpu"
    with no_synchronization(), pytest.raises(WrongDeviceError):
        make()


def test_the_backward_pass_is_watched_too(device: torch.device) -> None:
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:
            return values.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * gradient.sum().item()

    loss = Reads.apply(torch.ones(3, device=device, requires_grad=True)).sum()
    with no_synchronization(), pytest.raises(SynchronizedError):
        loss.backward()


# What runs on it


@pytest.mark.parametrize("room", [0, math.inf])
@pytest.mark.parametrize("augment", [AUGMENT, AugmentConfig(resized_crop=0.3, cutmix=1.0)])
def test_views_are_the_cpus(augment: AugmentConfig, room: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdq.data.dataset._room", lambda device: room if device.type != "cpu" else math.inf)

    def run(data: Dataset) -> list[dict[str, Tensor]]:
        assert (data.train_images.device == data.device) == (data.device.type == "cpu" or room > 0)
        made = Views(
            data.train_images, data.train_labels, augment, stream_seed=3, fill=NORMALIZATION.mean, mixup_alpha=0.5
        )
        views = list(made.epoch(1, 7))
        tensors = [{name: getattr(view, name) for name in ("index", "images", "labels", "mix")} for view in views]
        assert all(tensor.device == data.device for view in tensors for tensor in view.values())
        return [{name: tensor.cpu() for name, tensor in view.items()} for view in tensors]

    for here, there in zip(*both(run), strict=True):
        assert all(torch.equal(here[name], there[name]) for name in there)


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.5])
@pytest.mark.parametrize("name", METHODS)
def test_a_training_is_the_cpus(name: str, mixup_alpha: float, guarded: list[int], tmp_path: Path) -> None:
    if name == "mixup" and not mixup_alpha:
        pytest.skip("mixes always")
    method = MethodConfig.parse({"method": name, "mixup_alpha": mixup_alpha})
    found, wanted = both(lambda data: trained(StageStore(tmp_path), data, method, TRAIN))
    assert near(losses(found), losses(wanted))
    assert guarded == [2, 3, 4, 6, 7, 8]


def test_images_that_are_too_many_for_the_device(tmp_path: Path) -> None:
    method = MethodConfig.parse({"method": "vkd"})

    def run(data: Dataset) -> list[dict[str, float]]:
        return trained(StageStore(tmp_path), replace(data, train_images=dataset().train_images), method, TRAIN)

    found, wanted = both(run)
    assert near(losses(found), losses(wanted))


def test_mixed_logits_of_the_teacher(tmp_path: Path) -> None:
    method = MethodConfig.parse({"method": "mixup", "mix_logits": 1})
    found, wanted = both(lambda data: trained(StageStore(tmp_path), data, method, TRAIN))
    assert near(losses(found), losses(wanted))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(optimizer: str, tmp_path: Path) -> None:
    method, train = MethodConfig.parse({"method": "ce"}), replace(TRAIN, optimizer=optimizer, lr=0.01, ema=0.0)
    found, wanted = both(lambda data: trained(StageStore(tmp_path), data, method, train))
    assert near(losses(found), losses(wanted))


def test_bf16(tmp_path: Path) -> None:
    method, train = MethodConfig.parse({"method": "vkd"}), replace(TRAIN, precision="bf16")
    found, wanted = both(lambda data: trained(StageStore(tmp_path), data, method, train)[0]["train_loss"])
    assert abs(found - wanted) < 0.05 * wanted
    assert trained(StageStore(tmp_path), dataset(), method, TRAIN)[0]["train_loss"] not in (found, wanted)


@pytest.mark.parametrize(("name", "optimizer"), [("dml", "sgd"), ("ce", "adam"), ("vkd", "adamw")])
def test_a_training_resumes_from_its_stage(name: str, optimizer: str, tmp_path: Path) -> None:
    method = MethodConfig.parse({"method": name})
    train = replace(TRAIN, epochs=3, optimizer=optimizer, lr=0.01)
    spec = StudentSpec("0" * 64, "t" if method.method.needs_teacher else None, "tiny", method, train, 0)

    def run(data: Dataset, where: str, stop: int) -> list[Epoch]:
        store, epochs = StageStore(tmp_path / where), []
        with closing(distill(store, spec, lambda: data, lambda: cached(store, data, method))) as generator:
            for epoch in generator:
                epochs.append(epoch)
                if epoch.number == stop:
                    break
        return epochs

    with accelerator() as device:
        data = dataset().to(device)
        run(data, "killed", 1)
        resumed, whole = run(data, "killed", 99), run(data, "whole", 99)
    assert [epoch.number for epoch in resumed] == [1, 2, 3]
    assert [epoch.metrics["train_loss"] for epoch in resumed] == [epoch.metrics["train_loss"] for epoch in whole]
    files = [StageStore(tmp_path / where).path(spec.stage()) / MODEL_FILE for where in ("killed", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("arch", ["resnet8", "resnet18"])
def test_evaluation_is_the_cpus(arch: str) -> None:
    def run(data: Dataset) -> tuple[list[list[float]], float]:
        model = classifier(0, arch).to(data.val_images.device)
        assert logits(model, data.val_images).device == data.val_images.device
        return logits(model, data.val_images).tolist(), top1(model, data.val_images, data.val_labels)

    found, wanted = both(run)
    assert found == wanted


def test_evaluation_has_larger_batches_than_on_a_cpu(device: torch.device) -> None:
    for where, wanted in {"cpu": 18 * [32] + [24], str(device): [512, 88]}.items():
        sizes: list[int] = []
        model = classifier(0).to(where)
        model.register_forward_pre_hook(lambda _, args, sizes=sizes: sizes.append(len(args[0])))
        logits(model, torch.zeros(600, 3, 8, 8, dtype=torch.uint8).to(where))
        assert sizes == wanted


@pytest.mark.parametrize(("method", "activation_bits"), [*((name, None) for name in QUANTIZERS), ("rtn", 8)])
def test_a_quantized_model_is_the_cpus(method: str, activation_bits: int | None, tmp_path: Path) -> None:
    configs = [QuantizeConfig(bits, method, activation_bits=activation_bits) for bits in (2, FLOAT_BITS)]

    def run(data: Dataset) -> list[bytes]:
        images = choose_calibration(data.train_images, seed=0, count=16)
        model = classifier(0).to(images.device)
        for number, quantized in enumerate(quantize_many(model, images, configs)):
            assert next(quantized.model.parameters()).device == images.device
            pack(quantized, tmp_path / str(number))
        again = load(tmp_path / "0").to(images.device)
        assert torch.equal(
            logits(again, data.val_images), logits(quantize_many(model, images, configs)[0].model, data.val_images)
        )
        return [(tmp_path / str(number)).read_bytes() for number in range(len(configs))]

    found, wanted = both(run)
    assert found == wanted


def test_points_and_probes_are_the_cpus(tmp_path: Path) -> None:
    quantizer = QuantizerSpec()
    specs = [PointSpec("m", "d", Allocation.uniform(bits), quantizer, 16, 0) for bits in (FLOAT_BITS, 2, 4)]

    def run(data: Dataset) -> list[Any]:
        store = StageStore(tmp_path / data.val_images.device.type)
        model = classifier(0).to(data.val_images.device)
        folders = [folder for _, folder in measure(store, specs, lambda: model, lambda: data)]
        rows = [{**measured(folder), "evaluate_seconds": 0} for folder in folders]
        files = [(folder / PACKED_FILE).read_bytes() for folder in folders]
        return [rows, files, probe(store, "s", (2, 4), quantizer, 0, lambda: model, lambda: data)]

    found, wanted = both(run)
    assert found == wanted


def test_a_trial_keeps_to_its_device(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    folder = store.path(load_source("digits", None, store))
    data = open_dataset(folder, train_images=40, val_images=20)
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    save(build("tiny", classes=10, normalization=data.normalization, seed=9), teacher / MODEL_FILE)
    inputs = Inputs(
        str(store.root), DataRef(str(folder), data.fingerprint, 40, 20), ModelRef(str(teacher), "t", "tiny")
    )
    student = StudentSpec(data.fingerprint, "t", "tiny", MethodConfig.parse({"method": "dkd"}), TRAIN, 0)
    points = tuple(
        PointSpec(student.stage().id, data.fingerprint, Allocation.uniform(bits), QuantizerSpec(), 16, 0)
        for bits in (FLOAT_BITS, 2)
    )
    with accelerator() as device:
        trial = Trial("dkd", student, points)
        events = list(run_trial(trial, inputs, str(device), tmp_path / "log", Probing({1}, (2,))))
    assert events[-1] == TrialEnded(TrialStatus.COMPLETED), (tmp_path / "log").read_text()
    assert [type(event).__name__ for event in events] == [*2 * ["EpochEnded"], *2 * ["PointMeasured"], "TrialEnded"]


def test_the_study_on_a_gpu_keeps_to_its_device(tmp_path: Path) -> None:
    stage, folder = data_stage(StageStore(tmp_path / "other")), tmp_path / "parts"
    folder.mkdir()
    split(stage, folder, most=10**6)
    rows = {"teacher": {"method": "teacher"}, "mixup": {"method": "mixup"}, "dml": {"method": "dml"}}
    (folder / "rows.json").write_text(json.dumps({"cifar10": rows}))
    torch.save({"state_dict": Tiny(10, 3).state_dict()}, tmp_path / "tiny.th")
    wanted = evidence(tmp_path / "tiny.th", stage, "cpu")
    small = {"train_images": 40, "val_images": 10, "batch_size": 10}
    with accelerator() as device:
        assert all(row["holds"] for row in compare(evidence(tmp_path / "tiny.th", stage, str(device)), wanted))
        settings = Settings(tmp_path, str(device), "tiny", "tiny", **small)
        study = Study(settings, "cifar10", teacher_epochs=2, student_epochs=1)
        train_teacher(study, Output(tmp_path / "output", tmp_path / "back"), Clock(1e6))
        for row in rows:
            train(study, row, Clock(1e6), study.answer())
            assert [point["bits"] for point, _ in quantize(study, row, [FLOAT_BITS, 2])] == [32, 2]
