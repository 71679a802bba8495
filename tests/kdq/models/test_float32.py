"""TF32 is off where kdq computes in float32, and as it was elsewhere."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from operator import attrgetter
from threading import Barrier, Thread

import pytest
import torch
from torch import Tensor

from kdq.data.augment import AugmentConfig, Views
from kdq.data.dataset import Dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.distill.teacher_logits import ForwardTeacher
from kdq.distill.trainer import Trainer
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import top1
from kdq.models.float32 import exact_float32
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize

IMAGES = torch.randint(0, 256, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(8) % 2
DATA = Dataset("made", ("a", "b"), Normalization((0.5,), (0.3,)), *(IMAGES, LABELS) * 3, fingerprint="made")


@pytest.fixture(params=[True, False], autouse=True)
def allowed(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32 = before


def classifier() -> Classifier:
    return build("resnet8", classes=2, normalization=DATA.normalization, seed=0)


def train(model: Classifier) -> None:
    config = TrainConfig(epochs=1, batch_size=8, lr=0.1)
    Trainer(config, MethodConfig.parse({"method": "ce"}), model, None, DATA, stream_seed=0).run_epoch()


def teach(model: Classifier) -> None:
    views = Views(IMAGES, LABELS, AugmentConfig(), stream_seed=0, fill=(0.5,))
    ForwardTeacher(model)(next(views.epoch(0, 8)))


def evaluate(model: Classifier) -> None:
    top1(model, IMAGES, LABELS)


def quantize_it(model: Classifier) -> None:
    quantize(model, IMAGES, QuantizeConfig(bits=2))


@pytest.mark.parametrize("compute", [train, teach, evaluate, quantize_it])
def test_no_convolution_is_computed_in_tf32(
    monkeypatch: pytest.MonkeyPatch, allowed: bool, compute: Callable[[Classifier], None]
) -> None:
    model, seen = classifier(), []
    forward = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, x: Tensor) -> Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return forward(self, x)

    def backward(gradient: Tensor) -> None:
        seen.append(torch.backends.cudnn.allow_tf32)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    next(model.parameters()).register_hook(backward)
    compute(model)
    assert set(seen) == {False}
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_the_flag_is_restored_after_an_error(allowed: bool) -> None:
    with pytest.raises(ZeroDivisionError), exact_float32():
        _ = 1 / 0
    assert torch.backends.cudnn.allow_tf32 == allowed


def test_the_last_of_several_threads_restores_the_flag(allowed: bool) -> None:
    first_is_in, both_are_in, seen = Barrier(2), Barrier(2), []

    def early() -> None:
        with exact_float32():
            first_is_in.wait(10)
            both_are_in.wait(10)

    def late() -> None:
        first_is_in.wait(10)
        with exact_float32():
            both_are_in.wait(10)
            one.join(10)
            seen.append(torch.backends.cudnn.allow_tf32)

    one, other = Thread(target=early), Thread(target=late)
    one.start()
    other.start()
    other.join(20)
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == allowed


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this PyTorch has one flag for all operators")
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_a_program_may_use_the_flag_of_the_operator(precision: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = precision
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cudnn.conv.fp32_precision == "tf32") == (precision == "tf32")


ALONE = ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn")
OPERATORS = ("", "cudnn", "mkldnn", *ALONE)
"""What PyTorch has settings of, from 2.9 on, in torch.backends."""

HAS_OPERATORS = hasattr(torch.backends.mkldnn, "matmul")


def precision_of(name: str) -> str:
    return str(attrgetter(f"{name}.fp32_precision".lstrip("."))(torch.backends))


def set_precision(name: str) -> None:
    owner = attrgetter(name)(torch.backends) if name else torch.backends
    owner.fp32_precision = "bf16" if "mkldnn" in name else "tf32"


OPTIONS = {
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    **({name: partial(set_precision, name) for name in OPERATORS} if HAS_OPERATORS else {}),
}


def settings_of_precision() -> list[str]:
    """All settings that can be read."""
    found = []
    for read in (torch.get_float32_matmul_precision, *(partial(precision_of, name) for name in OPERATORS)):
        try:
            found.append(read())
        except (RuntimeError, AttributeError) as error:
            found.append(type(error).__name__)
    return found


@pytest.mark.parametrize("option", OPTIONS)
def test_float32_is_exact_whatever_the_program_set(option: str) -> None:
    """In a process of its own, since a general setting hides those below it for good."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        pool.submit(_is_exact_and_restored, option).result()


def _is_exact_and_restored(option: str) -> None:
    OPTIONS[option]()
    before = settings_of_precision()
    with exact_float32():
        assert settings_of_precision()[0] == "highest"
        assert not HAS_OPERATORS or [precision_of(name) for name in ALONE] == ["ieee"] * len(ALONE)
    assert settings_of_precision() == before


@pytest.mark.parametrize("compute", [evaluate, quantize_it])
def test_an_autocast_of_the_caller_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, compute: Callable[[Classifier], None]
) -> None:
    seen = []
    forward = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, x: Tensor) -> Tensor:
        seen.append(result := forward(self, x))
        return result

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    with torch.autocast("cpu", torch.bfloat16):
        compute(classifier())
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert {result.dtype for result in seen} == {torch.float32}
