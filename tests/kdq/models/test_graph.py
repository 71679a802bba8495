import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch import nn

from kdq.models.classifier import Normalization, build
from kdq.models.graph import fold


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
