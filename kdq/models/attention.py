"""Attention of torch.nn in layers that can be traced and quantized: each projection an nn.Linear of its own."""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """An nn.MultiheadAttention with its projections as layers `q_proj`, `k_proj`, `v_proj` and `out_proj`.

    forward: as that module's, with the same results to rounding (Vaswani et al. 2017, section 3.2).
    """

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first = source.num_heads, source.batch_first
        self.dropout = nn.Dropout(source.dropout)
        fused: Tensor | None = source.in_proj_weight
        apart = source.q_proj_weight, source.k_proj_weight, source.v_proj_weight
        weights = apart if fused is None else fused.chunk(3)
        biases = (None,) * 3 if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(source.out_proj.weight, source.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # only a hint about attn_mask
    ) -> tuple[Tensor, Tensor | None]:
        axis = -3 if self.batch_first else 0  # of positions, once heads are an axis
        q, k, v = (
            torch.unflatten(projected, -1, (self.num_heads, -1)).movedim(axis, -2)
            for projected in (self.q_proj(query), self.k_proj(key), self.v_proj(value))
        )  # [N, heads, positions, features], without N for inputs without
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if attn_mask is not None:
            shaped = torch.unflatten(attn_mask, 0, (-1, self.num_heads)) if attn_mask.dim() == 3 else attn_mask
            scores = _masked(scores, shaped)
        if key_padding_mask is not None:
            scores = _masked(scores, key_padding_mask[..., None, None, :])
        weights = scores.softmax(-1)
        mixed = (self.dropout(weights) @ v).movedim(-2, axis).flatten(-2)
        if not need_weights:
            return self.out_proj(mixed), None
        return self.out_proj(mixed), weights.mean(-3) if average_attn_weights else weights


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")  # draws no random numbers
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Add a floating-point mask; where a boolean one is True, attention is not allowed."""
    return scores.masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


class EncoderLayer(nn.Module):
    """An nn.TransformerEncoderLayer by its definition, without its fast path, which hides its layers."""

    def __init__(self, source: nn.TransformerEncoderLayer) -> None:
        super().__init__()
        self.norm_first = source.norm_first
        self.self_attn = source.self_attn
        self.linear1, self.linear2 = source.linear1, source.linear2
        self.norm1, self.norm2 = source.norm1, source.norm2
        self.dropout, self.dropout1, self.dropout2 = source.dropout, source.dropout1, source.dropout2
        self.activation = source.activation

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            masks = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask}
            attended: Tensor = self.self_attn(x, x, x, **masks, need_weights=False)[0]
            return attended

        if self.norm_first:
            src = src + self.dropout1(attend(self.norm1(src)))
            src = src + self.dropout2(self._feed_forward(self.norm2(src)))
        else:
            src = self.norm1(src + self.dropout1(attend(src)))
            src = self.norm2(src + self.dropout2(self._feed_forward(src)))
        return src

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return out


class Encoder(nn.Module):
    """An nn.TransformerEncoder: its layers in turn, then its norm, if any."""

    def __init__(self, source: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers = source.layers
        self.norm = source.norm

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        for layer in self.layers:
            src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
        return src if self.norm is None else self.norm(src)
