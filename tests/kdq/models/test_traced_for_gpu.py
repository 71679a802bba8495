"""Networks traced as on a GPU, whose operations torch.export guards by other conditions than a CPU's.

No GPU is needed: the tensors are PyTorch's fake ones, which have a device and a shape and no values.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kdq.models.exported import export_graph, operation
from tests.kdq.models.test_zoo import MEMBERS, WHOLE, Member

pytestmark = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="PyTorch is built for CPUs only")


EXPORTED = (
    "a user's",
    "one of windows",
    "one that keeps and branches",
    "ViT of transformers",
    "ResNet of transformers",
)
"""Those of the zoo that torch.fx cannot trace, beside the whole ones."""


def operations(member: Member, device: str) -> list[str]:
    """The operations that torch.export records of a network on a device, but for copies to another layout."""
    model = member.build().requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    fake = torch.empty_like(value, device=device)
                    module._parameters[name] = nn.Parameter(fake, requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = torch.empty_like(buffer, device=device)
        graph = export_graph(model, (member.size, member.size))
    return [name for node in graph.nodes if (name := operation(node)) != "clone"]


@pytest.mark.parametrize("name", [name for name in MEMBERS if name in EXPORTED or name in WHOLE])
def test_a_network_is_traced_as_on_a_cpu(name: str) -> None:
    assert operations(MEMBERS[name], "cuda") == operations(MEMBERS[name], "cpu")
