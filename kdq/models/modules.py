"""The tree of modules that a network is: changed, and kept from growing without end."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

MODULES_A_TENSOR = 20
"""Modules that a model may have for each tensor of its weights; libraries' have about two."""


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a submodule wherever it is registered."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)


@contextmanager
def at_most_modules(tensors: int, where: str) -> Iterator[None]:
    """Raise ValueError as soon as a model is being built of far more modules than there are tensors of its weights.

    where: what describes the model, for the message.
    """
    built, most = 0, 1000 + MODULES_A_TENSOR * tensors

    def note(*_: object) -> None:
        nonlocal built
        built += 1
        if built > most:
            raise ValueError(f"{where} describes a model of more layers than its safetensors hold weights for")

    handle = register_module_module_registration_hook(note)
    try:
        yield
    finally:
        handle.remove()
