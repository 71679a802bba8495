"""Changes to the tree of modules that a network is."""

from torch import nn


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a submodule wherever it is registered."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
