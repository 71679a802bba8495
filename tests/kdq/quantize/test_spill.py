"""Tensors in a temporary file: read back bit for bit, in little room, and refused where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization
from kdq.models.graph import network
from kdq.models.images import as_float
from kdq.quantize import stream
from kdq.quantize.spill import Spill, Spilled

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(2, 0, 3, 1),
    "transposed, of three dimensions": lambda x: x[0].transpose(1, 2),
    "with gaps": lambda x: x[:, ::2, :, 1:],
    "expanded": lambda x: x[:, :1].expand(-1, 5, -1, -1),
    "of one number": lambda x: x[0, 0, 0, 0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tensor_comes_back_bit_for_bit(layout: str, dtype: torch.dtype) -> None:
    tensor = LAYOUTS[layout](torch.randn(2, 4, 3, 5).to(dtype))
    found = Spill().write(tensor).read()
    assert found.dtype == dtype
    assert torch.equal(found, tensor)
    dense = torch.empty_like(tensor)  # the order of dimensions decides about the order of sums
    assert found.stride() == dense.stride()


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=30))
def test_room_is_used_again(steps: list[tuple[int, bool]]) -> None:
    spill = Spill()
    held: list[tuple[Tensor, Spilled]] = []
    most = {1: 0, 2: 0, 3: 0}
    for number, (size, forget) in enumerate(steps):
        tensor = torch.full((size,), float(number))
        held.append((tensor, spill.write(tensor)))
        if forget:
            most = {size: max(most[size], sum(len(t) == size for t, _ in held)) for size in most}
            del held[number % len(held)]
        now = {size: sum(len(t) == size for t, _ in held) for size in most}
        most = {size: max(most[size], count) if count else 0 for size, count in now.items()}
        assert {size: file.size for size, file in spill.files.items()} == {
            4 * size: 4 * size * count for size, count in most.items() if count
        }
        assert all(torch.equal(place.read(), tensor) for tensor, place in held)


def test_a_full_disk_is_named() -> None:
    spill = Spill()
    kept = spill.write(torch.ones(4))
    file = kept.file
    file.file.close()
    file.file = Path("/dev/full").open("r+b")  # noqa: SIM115
    with pytest.raises(UserError, match=r"No space left on device\); set TMPDIR to a folder with more room"):
        spill.write(torch.zeros(4))
    assert file.file.closed, "or it would fail again when it is collected"


class Chunks(nn.Module):
    """A network with a value of several parts, of which the second waits while layers are quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        halves = self.first(x).chunk(2, 1)
        return self.third((self.second(halves[0]) * halves[1]).mean((2, 3)))  # type: ignore[no-any-return]


@torch.no_grad()
def test_memory_holds_no_more_of_a_value_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RESIDENT", 200_000)
    model = Classifier("chunks", Chunks().eval(), 3, Normalization((0.5,) * 3, (0.2,) * 3))
    plan = network(model)
    images, most = torch.randint(256, (256, 3, 16, 16), dtype=torch.uint8), 0
    advancing, logits = stream.Stream(plan, model, images), []
    for end in range(1, len(plan.nodes)):
        for index in range(len(advancing.batches)):
            reached = advancing.advance(index, end)
            if end == len(plan.nodes) - 1:
                logits.append(reached[plan.nodes[end].args[0]])  # type: ignore[index]
        kept = [value for values in advancing.batches for value in values.values()]
        parts = [part for value in kept for part in (value if isinstance(value, tuple) else [value])]
        assert sum(part.nbytes for part in parts if isinstance(part, Tensor)) <= 2 * 200_000
        most = max(most, sum(file.size for file in advancing.spill.files.values()))
    assert most > 1_000_000
    assert not [part for part in parts if isinstance(part, Spilled)]
    assert not list(advancing.spill.files), "the disk is free again"
    torch.testing.assert_close(torch.cat(logits), model(as_float(images)))
