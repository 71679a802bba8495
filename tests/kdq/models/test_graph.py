import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import pytest
import torch
from torch import Tensor, nn

from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.graph import fold, network
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads that take turns a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("many_switches")
def test_threads_that_fold_do_not_disturb_each_other():
    models = [build("resnet8", classes=10, normalization=Normalization((0.5,), (0.25,)), seed=n) for n in range(4)]
    with ThreadPoolExecutor(len(models)) as pool:
        folded = list(pool.map(fold, 3 * models))
    for model in folded:
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


class Keeping(nn.Module):
    """Keeps what it computes from its bias, as timm's LeViT does in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.bias, self.kept = nn.Linear(4, 3), nn.Parameter(torch.ones(3)), []

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.kept = []
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        if not self.kept:
            self.kept.append(self.bias * 2)
        return self.layer(images.flatten(1)) + self.kept[0]


@pytest.mark.parametrize("has_run", [False, True])
def test_a_network_may_keep_what_it_computes(has_run: bool) -> None:
    images = torch.rand(2, 1, 2, 2)
    model = Classifier("keeping", Keeping(), 3, Normalization((0.5,), (0.25,))).eval()
    if has_run:
        with torch.no_grad():
            model(images)
    network(fold(model))
    made = quantize(model, images, QuantizeConfig(8, "rtn"))
    assert len(made.layers) == 1
    assert torch.allclose(made.model(images), model(images), atol=0.02)
