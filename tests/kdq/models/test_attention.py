"""Opened attention computes what torch.nn's modules compute."""

import pytest
import torch
from torch import Tensor, nn

from kdq.models.attention import Attention, Encoder, EncoderLayer
from kdq.models.opening import opened


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ready(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    return module.eval().requires_grad_(False)


PADDING = torch.tensor([[False, False, False, False, True], [False, True, True, False, False]])
CAUSAL = torch.ones(4, 5, dtype=torch.bool).triu(1)
MASKS: dict[str, dict[str, Tensor]] = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "boolean": {"attn_mask": CAUSAL},
    "added": {"attn_mask": random(4, 5, seed=5)},
    "each head": {"attn_mask": random(2 * 3, 4, 5, seed=6)},
    "both": {"attn_mask": CAUSAL, "key_padding_mask": PADDING},
}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 7}])
@pytest.mark.parametrize("masks", MASKS)
def test_attention_is_that_of_torch(batch_first: bool, bias: bool, sizes: dict[str, int], masks: str) -> None:
    closed = ready(nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first, dropout=0.5, **sizes))
    found = opened(closed)
    assert isinstance(found, Attention)
    query, key = random(2, 4, 12), random(2, 5, sizes.get("kdim", 12), seed=2)
    value = random(2, 5, sizes.get("vdim", 12), seed=3)
    given = [x if batch_first else x.transpose(0, 1) for x in (query, key, value)]
    for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        wanted = closed(*given, **MASKS[masks], **options)
        actual = found.eval()(*given, **MASKS[masks], **options)
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_without_batches(batch_first: bool) -> None:
    closed = ready(nn.MultiheadAttention(12, 3, batch_first=batch_first))
    x = random(4, 12)
    torch.testing.assert_close(Attention(closed).eval()(x, x, x), closed(x, x, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False])
def test_an_encoder_is_that_of_torch(norm_first: bool, activation: str, bias: bool) -> None:
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, activation=activation, norm_first=norm_first, batch_first=True, bias=bias
    )
    closed = ready(nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(12), enable_nested_tensor=False))
    found = opened(closed)
    assert isinstance(found, Encoder)
    x, mask = random(2, 5, 12), random(5, 5, seed=4)
    for _ in range(2):
        for given in ({}, {"mask": mask}):
            torch.testing.assert_close(found.eval()(x, **given), closed(x, **given), rtol=1e-4, atol=1e-4)
        found.layers = nn.ModuleList(map(EncoderLayer, closed.layers))


def test_what_is_no_plain_attention_stays_closed() -> None:
    class Mine(nn.MultiheadAttention):
        pass

    for module in (
        Mine(4, 2),
        nn.MultiheadAttention(4, 2, add_bias_kv=True),
        nn.MultiheadAttention(4, 2, add_zero_attn=True),
        nn.TransformerDecoderLayer(4, 2),
        nn.Linear(4, 4),
    ):
        assert opened(module) is None


def test_opening_draws_no_random_numbers_and_copies_the_weights() -> None:
    closed = nn.MultiheadAttention(4, 2)
    before = torch.get_rng_state()
    found = Attention(closed)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        found.q_proj.weight.zero_()
    assert closed.in_proj_weight[:4].any()
