import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdq.errors import UserError
from kdq.models.classifier import Normalization, build
from kdq.models.evaluate import accuracy, logits, logits_many, top1


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (23, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    """A classifier whose running statistics are not those of any batch."""
    model = build("resnet8", classes=10, normalization=Normalization((0.5,) * 3, (0.25,) * 3), seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(0.1)
            module.running_var.fill_(2.0)
    return model


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_evaluated_by_its_running_statistics(model, images, training):
    model.train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    actual = logits(model, images)
    assert model.training is training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval()(images.float() / 255)
        of_the_batch = model.train()(images.float() / 255)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert (actual - of_the_batch).abs().max() > 0.1  # the wrong way is really another result


def test_the_training_mode_is_restored_after_an_error(images):
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory")

    model = Fails().train()
    with pytest.raises(RuntimeError, match="out of memory"):
        logits(model, images)
    assert model.training
    others = nn.Conv2d(3, 1, 1), model, nn.Conv2d(3, 1, 1).eval()
    with pytest.raises(RuntimeError, match="out of memory"):
        logits_many(others, images)
    assert [other.training for other in others] == [True, True, False]


@pytest.mark.parametrize("batch_size", [1, 7, 23, 500])
def test_the_batch_size_does_not_matter(model, images, batch_size):
    torch.testing.assert_close(logits(model, images, batch_size), logits(model, images), rtol=1e-4, atol=1e-4)


def test_many_models_in_one_pass_give_the_logits_of_each_alone(model, images):
    models = [copy.deepcopy(model).train(), copy.deepcopy(model).double().eval(), copy.deepcopy(model).eval()]
    models[2].net.linear.bias.data += 1
    found = logits_many(models, images, batch_size=7)
    assert [one.training for one in models] == [True, False, False]
    for one, together in zip(models, found, strict=True):
        assert torch.equal(together, logits(one, images, batch_size=7))
    assert not torch.equal(found[0], found[2])


def test_images_are_scaled_to_one_and_logits_are_float32():
    class Corner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, 0, 0].double()

    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    result = logits(Corner(), images)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.flatten(), torch.tensor([0.0, 0.2, 1.0]))
    assert not result.requires_grad


@pytest.mark.parametrize("change", [lambda x: x / 255, lambda x: x.double() / 255, lambda x: x.numpy()])
def test_images_may_be_floating_point_or_of_numpy(model, images, change):
    torch.testing.assert_close(logits(model, change(images)), logits(model, images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_gets_images_of_its_dtype(model, images, dtype):
    wanted = logits(model, images)
    found = logits(model.to(dtype), images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1)


def test_images_that_are_none_are_refused(model, images):
    for wrong in (images.float(), images[0], images[:, :1], images[:0], images.long()):
        with pytest.raises(UserError, match="images: "):
            logits(model, wrong)


def test_labels_that_do_not_fit_are_refused(model, images):
    labels = torch.zeros(len(images), dtype=torch.int64)
    assert top1(model, images, labels.numpy()) == top1(model, images, labels)
    for wrong in (labels[:, None], labels[:-1], labels.float(), labels[0]):
        with pytest.raises(UserError, match=r"labels: .*; must be whole numbers of shape \[23\], one class an image"):
            top1(model, images, wrong)


def test_top1_is_a_percentage():
    class Channels(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    images = torch.zeros(8, 3, 2, 2, dtype=torch.uint8)
    images[:, 1] = 9
    labels = torch.tensor([1, 1, 1, 0, 0, 2, 2, 0])
    assert top1(Channels(), images, labels) == 37.5
    assert top1(Channels(), images, torch.full((8,), 1)) == 100
    assert top1(Channels(), images, torch.full((8,), 2), batch_size=3) == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50))
def test_accuracy_equals_counting(pairs):
    predicted, labels = (torch.tensor(column) for column in zip(*pairs, strict=True))
    scores = nn.functional.one_hot(predicted, 5).float()
    assert accuracy(scores, labels) == pytest.approx(100 * sum(p == t for p, t in pairs) / len(pairs), abs=1e-9)
