"""Features: which layers are captured, that a pass is unchanged by it, and what is refused."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdq.data.augment import View
from kdq.data.dataset import Dataset
from kdq.distill.features import FeatureLayers, check_shapes, choose_layers, stages, with_features
from kdq.distill.losses import attention_transfer, cross_entropy
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.distill.teacher_logits import ForwardTeacher
from kdq.distill.trainer import Trainer, _Features
from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build

NORMALIZATION = Normalization((0.5,), (0.25,))
CONFIG = TrainConfig(epochs=2, batch_size=8, lr=0.05)
ATTENTION = MethodConfig.parse({"method": "attention"})


def model(arch: str = "resnet8", seed: int = 0) -> Classifier:
    return build(arch, classes=4, normalization=NORMALIZATION, seed=seed)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def data() -> Dataset:
    labels = torch.arange(16) % 4
    pair = (images(16, 3) * 255).byte(), labels
    return Dataset("noise", tuple("abcd"), NORMALIZATION, *pair * 3, fingerprint="0" * 64)


@pytest.mark.parametrize(("arch", "count"), [("resnet8", 3), ("resnet56", 3), ("resnet18", 4)])
def test_the_stages_of_a_resnet(arch: str, count: int) -> None:
    assert stages(model(arch)) == tuple(f"layer{n}" for n in range(1, count + 1))


def test_features_are_the_layers_outputs_and_leave_no_hooks() -> None:
    net = model().eval()
    batch = images(3)
    logits, found = with_features(net, ["layer1", "layer3.0.conv2"], batch)
    assert torch.equal(logits, net(batch))
    stem = net.net.relu(net.net.bn1(net.net.conv1((batch - 0.5) / 0.25)))  # type: ignore[operator, union-attr]
    torch.testing.assert_close(found[0], net.net.layer1(stem))  # type: ignore[operator]
    assert found[1].shape == (3, 64, 2, 2)
    assert not any(module._forward_hooks for module in net.modules())


def test_the_terms_are_cross_entropy_and_attention_of_the_stages() -> None:
    student, teacher = model(), model("resnet14", seed=1)
    training = Trainer(CONFIG, ATTENTION, student, ForwardTeacher(teacher), data(), stream_seed=0)
    view = next(training.views.epoch(0, 8))
    expected = [with_features(one, stages(one), view.images) for one in (student.train(), teacher.eval())]
    terms = training._terms(view, 0.0)
    torch.testing.assert_close(terms["ce"], cross_entropy(expected[0][0], view.labels))
    maps = [attention_transfer(one, other) for one, other in zip(expected[0][1], expected[1][1], strict=True)]
    torch.testing.assert_close(terms["attention"], 1000 * torch.stack(maps).sum(0))


def test_the_student_comes_to_look_where_the_teacher_does() -> None:
    """After a few epochs of nearly attention alone, the maps are closer than those of cross-entropy alone."""

    def distance(beta: float) -> float:
        method = MethodConfig.parse({"method": "attention", "beta": beta})
        teacher, student = model(seed=1), model()
        config = dataclasses.replace(CONFIG, epochs=10, lr=0.01)
        training = Trainer(config, method, student, ForwardTeacher(teacher), data(), stream_seed=0)
        for _ in range(10):
            training.run_epoch()
        maps = [with_features(one.eval(), ["layer3"], images(16, 3))[1][0] for one in (student, teacher)]
        return attention_transfer(*maps).mean().item()

    assert distance(1000) < 0.5 * distance(0)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (("layer1",), ("layer1", "layer2"), "must name equally many layers, at least one"),
        ((), (), "must name equally many layers, at least one"),
        (("layer9",), ("layer1",), "unknown layer of resnet8 'layer9': did you mean 'layer"),
        (("layer1",), ("layr1",), "unknown layer of resnet14 'layr1'"),
        (("layer1",), ("layer2",), r"\[16, 8, 8\], and 'layer2' of the teacher resnet14 \[32, 4, 4\]"),
        (("linear",), ("linear",), r"outputs \[4\], .*must be maps \[C, H, W\]"),
        (("layer1.0.relu",), ("layer1",), "'layer1.0.relu' of resnet8: is called 2 times"),
    ],
)
def test_layers_that_do_not_fit_are_refused(student: Any, teacher: Any, message: str) -> None:
    one, other = model(), model("resnet14")
    with pytest.raises(UserError, match=message):
        check_shapes(choose_layers(FeatureLayers(student, teacher), one, other), one, other, images(1))


def test_other_numbers_of_stages_are_refused_and_no_stages_as_well() -> None:
    with pytest.raises(UserError, match="must name equally many layers"):
        choose_layers(None, model(), model("resnet18"))
    other = Classifier("plain", nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), 4, NORMALIZATION)
    with pytest.raises(UserError, match=r"'plain' has no stages .*such as one of 0, 1"):
        choose_layers(None, other, model())


def test_a_cache_of_logits_and_a_compiled_student_are_refused() -> None:
    def logits(view: View) -> Tensor:
        return torch.zeros(len(view.labels), 4)

    with pytest.raises(UserError, match="'attention' compares features, which no cache has"):
        Trainer(CONFIG, ATTENTION, model(), logits, data(), stream_seed=0)
    compiled = dataclasses.replace(CONFIG, compile=True)
    with pytest.raises(UserError, match="compile = True: method 'attention' captures features by hooks"):
        _Features(ATTENTION, ForwardTeacher(model(seed=1)), model(), None, compiled)
