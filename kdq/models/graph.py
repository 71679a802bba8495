"""A classifier as a graph of operations: its layers, foldable batch norms and residual additions."""

import dataclasses
import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdq.errors import UserError, first_line
from kdq.models.classifier import Classifier
from kdq.models.exported import export_graph, operation
from kdq.models.modules import replace, sharing_copy
from kdq.models.opening import is_closed, opened
from kdq.models.prepare import PREFIX, Layer, is_layer, prepare

_TRACING = threading.Lock()
"""Held during a trace, in which torch.fx replaces nn.Module.__call__ for all threads.

So while one thread traces, no other may run a model either: trace before the threads start.
"""

IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ipow, operator.imatmul}


ADDITIONS = {operator.add, torch.add, torch.ops.aten.add.Tensor, "add", "add_"}


class _Tracer(fx.Tracer):
    """torch.fx's tracer, to which a layer of a subclass that only builds differently is a layer too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_layer(m) or is_closed(m) or super().is_leaf_module(m, module_qualified_name)


def trace(model: Classifier) -> fx.Graph:
    """Return the operations of a model in evaluation mode, by torch.fx, or by torch.export if its code has branches.

    The latter needs the size of the model's images, `signature.image_size`. Raises UserError if neither can trace it,
    as where the code depends on the values of tensors.
    """
    try:
        return _symbolic(model)
    except Exception as error:
        return _exported(model, error)


def _exported(model: Classifier, cause: Exception) -> fx.Graph:
    """Return the graph of torch.export. cause: why torch.fx has none."""
    size = model.signature.image_size
    if size is None:
        raise UserError(
            f"architecture {model.arch!r} cannot be traced by torch.fx ({first_line(cause)}), and torch.export needs "
            "the size of its images: give Signature(class_names, image_size, channel_order)"
        ) from cause
    try:
        return export_graph(model, size)
    except Exception as error:  # torch.export raises almost any exception
        remedy = "its forward must not depend on the values of tensors; rewrite the branch"
        if "specialized it to be a constant" in str(error):
            remedy = "its forward takes the number of images for a constant, as len(images) is; use images.shape[0]"
        raise UserError(
            f"architecture {model.arch!r} cannot be traced by torch.fx ({first_line(cause)}), nor by torch.export "
            f"({first_line(error)}): {remedy}"
        ) from error


def _symbolic(model: Classifier) -> fx.Graph:
    traced = sharing_copy(model)
    with _TRACING:
        graph = _Tracer().trace(traced)
    graph.lint()
    for node in graph.find_nodes(op="get_attr"):
        if not hasattr(model, node.target.partition(".")[0]):  # a constant, which the tracer gives to what it traces
            setattr(model, node.target, getattr(traced, node.target))
    for node in graph.nodes:
        if node.op == "call_module" and not node.args and "input" in node.kwargs:
            node.args, node.kwargs = (node.kwargs["input"],), {k: v for k, v in node.kwargs.items() if k != "input"}
    return graph


def _module(model: nn.Module, node: object) -> nn.Module | None:
    if isinstance(node, fx.Node) and node.op == "call_module":
        return model.get_submodule(str(node.target))
    return None


def fold(model: nn.Module, size: tuple[int, int] | None = None) -> Classifier:
    """Return a plain copy (see `prepare`) with attention opened and batch norms folded into the layers before them.

    A batch norm folds, and becomes nn.Identity, if it is the only reader of a layer's output; the others stay.
    Every layer gets a bias, which quantization needs to preserve the mean of its outputs. Attention and encoders of
    torch.nn get layers for their projections (see `attention`). size: height and width of its images, for which the
    copy is made if its signature does not say. Raises UserError for what `prepare` and `trace` refuse, and for a batch
    norm without running statistics.
    """
    plain = prepare(model)
    for name, module in plain.named_modules():
        if isinstance(module, _BatchNorm) and module._buffers.get("running_var") is None:
            raise UserError(
                f"layer {name.removeprefix(PREFIX)}: has no running statistics (track_running_stats=False), so an "
                "image's outputs depend on its batch; train it with running statistics"
            )
    if plain.signature.image_size is None:
        plain.signature = dataclasses.replace(plain.signature, image_size=size)
    graph = _open_attention(plain)
    for module in plain.modules():
        if is_layer(module) and module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(module.weight.shape[0]), requires_grad=False)
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        norm, source = _module(plain, node), _module(plain, node.args[0] if node.args else None)
        if isinstance(norm, _BatchNorm) and source is not None and is_layer(source):
            alone = len(node.args[0].users) == 1
            fits = norm.num_features == source.weight.shape[0]  # not if a batch norm's channels are other axes
            if fits and alone and calls.count(node.target) == 1 and calls.count(node.args[0].target) == 1:
                _fold_pair(source, norm)
                replace(plain, norm, nn.Identity())
    return plain


def _open_attention(model: Classifier) -> fx.Graph:
    """Open all attention that the model calls, encoders from the outside inwards; return the resulting graph.

    Where torch.fx cannot say what the model calls, open all that it has.
    """
    while True:
        graph, error = None, None
        try:
            graph = _symbolic(model)
            called = dict.fromkeys(module for node in graph.nodes if (module := _module(model, node)) is not None)
        except Exception as caught:
            error, called = caught, dict.fromkeys(model.modules())
        found = [(module, new) for module in called if (new := opened(module)) is not None]
        if not found and graph is not None:
            return graph
        if not found and error is not None:
            return _exported(model, error)
        for module, new in found:
            replace(model, module, new.eval().requires_grad_(False))


def _fold_pair(layer: Layer, norm: _BatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * gain
    if norm.affine:
        gain = gain * norm.weight.double()
        shift = shift * norm.weight.double() + norm.bias.double()
    weight = layer.weight.double() * gain.view(-1, *[1] * (layer.weight.dim() - 1))
    assert layer.bias is not None
    layer.bias.data = (layer.bias.double() * gain + shift).to(layer.weight.dtype)
    layer.weight.data = weight.to(layer.weight.dtype)


@dataclass(frozen=True, slots=True)
class Site:
    """A layer in the graph; `partner` is the value that its output is added to, if that is computed before it."""

    name: str
    position: int
    source: fx.Node
    partner: fx.Node | None


@dataclass(frozen=True, slots=True)
class Network:
    """The operations of a folded model in execution order, and its layers in that order.

    `last_use[node]` is the position after which the value of `node` is no longer needed.
    """

    nodes: tuple[fx.Node, ...]
    sites: tuple[Site, ...]
    last_use: Mapping[fx.Node, int]


def network(model: Classifier) -> Network:
    """Return the network of a folded model. Raises UserError unless its outputs are one tensor made of the images."""
    graph = trace(model)
    for node in list(graph.nodes):
        if isinstance(_module(model, node), nn.Identity | nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is operator.iadd:
            node.target = operator.add
    nodes = _shortcuts_first(graph)
    if not isinstance(nodes[-1].args[0], fx.Node) or all(node.op != "placeholder" for node in nodes):
        raise UserError(f"architecture {model.arch!r}: must return one tensor, logits [N, classes], made of its images")
    position = {node: i for i, node in enumerate(nodes)}
    last_use = {
        node: max((position[user] for user in node.users if user in position), default=position[node]) for node in nodes
    }
    sites: dict[str, Site] = {}
    for node in nodes:
        module = _module(model, node)
        if module is not None and is_layer(module):
            name = str(node.target)
            partner = _partner(node, position)
            sites.setdefault(name, Site(name, position[node], node.args[0], partner))  # type: ignore[arg-type]
    return Network(tuple(nodes), tuple(sites.values()), last_use)


def _shortcuts_first(graph: fx.Graph) -> list[fx.Node]:
    """Return an order in which the shallow operand of an addition, the shortcut, is computed before the deep one.

    The deep branch can then compensate for the shortcut's error.
    """
    depth: dict[fx.Node, int] = {}
    for node in graph.nodes:
        depth[node] = 1 + max((depth[operand] for operand in node.all_input_nodes), default=0)
    order: dict[fx.Node, None] = {}
    stack = [next(node for node in reversed(graph.nodes) if node.op == "output")]
    while stack:
        node = stack[-1]
        missing = [operand for operand in node.all_input_nodes if operand not in order]
        if missing:
            stack.append(min(missing, key=depth.__getitem__))
        else:
            order.setdefault(stack.pop())
    return list(order)


def _partner(node: fx.Node, position: Mapping[fx.Node, int]) -> fx.Node | None:
    """Return the other operand of the addition that is the only reader of `node`, if it is computed before it."""
    users = list(node.users)
    if len(users) != 1 or users[0].target not in ADDITIONS or users[0].kwargs:
        return None
    others = [operand for operand in users[0].args if operand is not node]
    if len(others) == 1 and isinstance(others[0], fx.Node) and position[others[0]] < position[node]:
        return others[0]
    return None


def run(node: fx.Node, values: Mapping[fx.Node, Any], model: Classifier) -> Any:
    """Return the value of one operation from those of its operands, which are not modified."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    if _in_place(node, model):  # operations run in another order: a later one may need the operand
        args = tuple(arg.clone() if isinstance(arg, Tensor) else arg for arg in args)
        kwargs = {name: arg.clone() if isinstance(arg, Tensor) else arg for name, arg in kwargs.items()}
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(model)
    assert callable(node.target)
    function: Callable[..., Any] = node.target
    return function(*args, **kwargs)


def _in_place(node: fx.Node, model: Classifier) -> bool:
    """Return whether an operation may modify its operand."""
    if node.op == "call_module":
        return bool(getattr(_module(model, node), "inplace", False))
    name = operation(node)
    named = name.endswith("_") and not name.endswith("__")
    return named or bool(node.kwargs.get("inplace")) or node.target in IN_PLACE


def layer(model: Classifier, name: str) -> Layer:
    """Return the convolution or linear layer of that name."""
    module = model.get_submodule(name)
    assert is_layer(module)
    return module


def check_finite(tensor: Tensor, what: str) -> None:
    """Raise UserError naming `what` if a value is NaN or infinite."""
    if not torch.isfinite(tensor).all():
        raise UserError(f"{what}: NaN or infinite values; all must be finite; fix the model or the images")
