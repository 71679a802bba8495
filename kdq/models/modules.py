"""The tree of modules that a network is: changed, and kept from growing without end."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy

from kdq.errors import UserError

Model = TypeVar("Model", bound=nn.Module)

MODULES_A_TENSOR = 20
"""Modules that a model may have for each tensor of its weights; libraries' have about two."""

REGISTERED = 4
"""Times that a weight may be registered while a model is being built: tied to others, or replaced, as by a new head."""


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a submodule wherever it is registered."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)


def sharing_copy(model: Model) -> Model:
    """Return a copy that shares the tensors of the state, to be traced: a network may keep what it computes."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


@contextmanager
def exportable(model: Model) -> Iterator[Model]:
    """Give such a copy to torch.export, which warns of what a network keeps: to a copy it does no harm."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*assigned during export")
        yield sharing_copy(model)


def load_values(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give a module these values of its state; others keep theirs.

    (A state without the versions of its modules, as a plain dict is, does not load into every network.)
    """
    state = module.state_dict()
    state.update(values)
    module.load_state_dict(state)


@contextmanager
def bounded(where: str, *, tensors: int, weights: int | None = None) -> Iterator[None]:
    """Raise UserError as soon as a model is being built that is far larger than a file of its weights.

    tensors: of its weights, to which the number of its modules is compared; weights: at most so many values in them.
    where: what describes the model, for the message. Most parameters are counted before they are filled, and take no
    memory then; one that is made of random numbers already does.
    """
    modules, values, most = 0, 0, 1000 + MODULES_A_TENSOR * tensors

    def note_module(*_: object) -> None:
        nonlocal modules
        modules += 1
        if modules > most:
            raise UserError(f"{where} describes a model of more layers than its safetensors hold weights for")

    def note_parameter(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal values
        values += 0 if parameter is None or is_lazy(parameter) else parameter.numel()
        if weights is not None and values > REGISTERED * weights:
            least = values // REGISTERED
            raise UserError(
                f"{where} describes a model of at least {least:,} weights, its safetensors hold {weights:,}"
            )

    handles = (
        register_module_module_registration_hook(note_module),
        register_module_parameter_registration_hook(note_parameter),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
