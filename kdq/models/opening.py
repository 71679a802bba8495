"""Modules that compute with their layers' weights themselves, opened: replaced by ones that call layers.

Attention of torch.nn and of torchvision's Swin transformers; timm's linear layer and batch norm with an activation.
"""

from collections.abc import Callable

from torch import nn

from kdq.models.attention import Attention, Encoder, EncoderLayer
from kdq.models.swin import WindowAttention


def _separated(source: nn.Module) -> nn.Module:
    """Return timm's BatchNormAct2d as a batch norm, a dropout and an activation."""
    assert isinstance(source, nn.BatchNorm2d)
    norm = nn.BatchNorm2d(source.num_features, source.eps, source.momentum, source.affine, source.track_running_stats)
    norm._parameters, norm._buffers = source._parameters, source._buffers
    drop, act = source.get_submodule("drop"), source.get_submodule("act")
    return nn.Sequential(norm, drop, act)


def _linear(source: nn.Module) -> nn.Module:
    """Return timm's Linear, which computes the same in another way for TorchScript, as a linear layer."""
    assert isinstance(source, nn.Linear)
    layer = nn.Linear(source.in_features, source.out_features, bias=source.bias is not None, device="meta")
    layer._parameters = source._parameters
    return layer


LIBRARIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "torchvision.models.swin_transformer.ShiftedWindowAttention": WindowAttention,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": WindowAttention,
    "timm.layers.norm_act.BatchNormAct2d": _separated,
    "timm.layers.linear.Linear": _linear,
}
"""Class -> function that opens it; by name, since importing a library takes seconds."""


def is_closed(module: nn.Module) -> bool:
    """Return whether a module is one of LIBRARIES."""
    return _path(module) in LIBRARIES


def opened(module: nn.Module) -> nn.Module | None:
    """Return what computes the same in layers that can be quantized, or None if the module needs no opening.

    A subclass may compute something else and stays closed, as does attention with extra keys and values.
    """
    if is_closed(module):
        return LIBRARIES[_path(module)](module)
    if type(module) is nn.MultiheadAttention and module.bias_k is None and not module.add_zero_attn:
        return Attention(module)
    if type(module) is nn.TransformerEncoderLayer:
        return EncoderLayer(module)
    if type(module) is nn.TransformerEncoder and {nn.TransformerEncoderLayer} == set(map(type, module.layers)):
        return Encoder(module)
    return None


def _path(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"
