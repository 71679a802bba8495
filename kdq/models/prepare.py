"""A model as it is given, made plain: a float32 copy whose layers hold weights of their own."""

import copy
from contextlib import suppress
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from kdq.errors import UserError, first_line
from kdq.models.classifier import Classifier
from kdq.models.modules import replace

QUANTIZABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)
Layer = nn.Conv1d | nn.Conv2d | nn.Linear
PREFIX = "net."
"""The prefix that a Classifier adds to the names of its network's modules."""

PLAIN = {Tensor, nn.Parameter}


def is_layer(module: nn.Module) -> TypeGuard[Layer]:
    """Return whether a module computes just what nn.Conv1d, nn.Conv2d or nn.Linear do, which a subclass may not."""
    if "forward" in vars(module):
        return False
    for convolution in (nn.Conv1d, nn.Conv2d):
        if isinstance(module, convolution):
            kind = type(module)
            return kind.forward is convolution.forward and kind._conv_forward is convolution._conv_forward
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def prepare(model: nn.Module) -> Classifier:
    """Return a float32 copy in evaluation mode, without wrappers, parametrizations and shared parameters.

    model: a Classifier of any floating-point dtype, bare or in DataParallel, DistributedDataParallel, AveragedModel or
    torch.compile; its network may hold such wrappers too. Layers that share a parameter get one each. Raises UserError,
    naming tensor or layer, for another model and for tensors without float values to quantize.
    """
    classifier = _unwrapped(model)
    if not isinstance(classifier, Classifier):
        raise UserError(
            f"the model is a {type(classifier).__name__}; must be a kdq.models.classifier.Classifier, which normalises "
            "its images: wrap it as Classifier(name, network, classes, Normalization(mean, std))"
        )
    _check_tensors(classifier)
    try:
        plain = copy.deepcopy(classifier)
    except (RuntimeError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(f"the model cannot be copied ({first_line(error)}); it must be, as by copy.deepcopy") from error
    with suppress(Exception):  # for networks that forget in train() what they keep in eval(); others may refuse it
        plain.train()
    plain.eval()
    for module in list(plain.modules()):
        if (inner := _unwrapped(module)) is not module:
            replace(plain, module, inner)
        if parametrize.is_parametrized(module):
            _keep_values(module)
    _untie(plain)
    return plain.float().requires_grad_(False)


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
            inner = model.module
        else:
            inner = getattr(model, "_orig_mod", None)  # of torch.compile
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _keep_values(module: nn.Module) -> None:
    """Replace a copied module's parametrizations by the values of the parametrized tensors.

    (remove_parametrizations would change the class of the copy, which is the original's too.)
    """
    assert isinstance(module.parametrizations, nn.ModuleDict)
    values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def _untie(model: nn.Module) -> None:
    """Give every module its own parameters, so that a change of one leaves the others as they are."""
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone()))
            seen.add(id(parameter))


def tensor_name(key: str) -> str:
    """Return how messages name a tensor of the model's state."""
    layer, _, name = key.removeprefix(PREFIX).rpartition(".")
    return f"layer {layer}: its {name}" if layer else f"the network's {name}"


def _check_tensors(model: Classifier) -> None:
    """Raise UserError, naming the tensor, unless the whole state is plain, dense, floating-point tensors with values.

    Integers may be there too, as in a count of batches, but not as weights of layers.
    """
    for key, value in model.state_dict(keep_vars=True).items():
        if problem := _problem(value):
            raise UserError(f"{tensor_name(key)} {problem}")
    for name, module in model.named_modules():
        if isinstance(module, QUANTIZABLE) and not parametrize.is_parametrized(module):
            weight = module._parameters.get("weight")
            where = name.removeprefix(PREFIX)
            if weight is None:
                raise UserError(
                    f"layer {where}: its weight is computed at every call; make it permanent first, by "
                    "remove_weight_norm, remove_spectral_norm or prune.remove of torch.nn.utils"
                )
            if not weight.is_floating_point():
                raise UserError(f"layer {where}: its weight is {weight.dtype}; must be floating-point")


def _problem(value: object) -> str | None:
    """Return what keeps a value of a state from being quantized, and the remedy; None if nothing does."""
    if not isinstance(value, Tensor):
        return f"is no tensor, but a {type(value).__name__}; give the float model that this one was made of"
    if is_lazy(value):
        return "is not initialised; run the model on a batch of images first"
    if value.is_quantized:
        return f"is quantized already ({value.dtype}); give the float model that this one was made of"
    if value.is_meta:
        return "is on the meta device and has no values; load the weights first"
    if value.layout != torch.strided:
        return f"is not dense ({value.layout}); convert it by to_dense()"
    if value.is_complex():
        return f"is complex ({value.dtype}); must be real"
    if type(value) not in PLAIN:
        return f"is a {type(value).__name__}; must be a plain tensor"
    return None
