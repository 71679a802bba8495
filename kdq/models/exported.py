"""A classifier as a graph by torch.export, for networks whose code torch.fx cannot trace.

torch.export runs the network on an example, so its code may depend on shapes; the graph is for images of one size, in
batches of any. It consists of operations on tensors: those that are the convolutions, linear layers and batch norms
that the network calls as modules become calls of them again, as in a graph of torch.fx.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.nn.modules.batchnorm import _BatchNorm

from kdq.models.classifier import Classifier
from kdq.models.float32 import without_autocast
from kdq.models.modules import exportable, sharing_copy
from kdq.models.prepare import Layer, is_layer

LAYERS = {"linear", "conv1d", "conv2d"}
VIEWS = {"view", "_unsafe_view"}
"""What torch.export makes of reshape, for the strides of its example; other batches may have others."""

BATCH = 32
"""Images at once, at most. Without a bound torch.export refuses what a GPU computes otherwise in larger batches, as it
does batch norms from 65,536 inputs on, each of which may be a window of an image."""

BATCH_NORM = "_native_batch_norm_legit_no_training"


@without_autocast()  # whose changes of types would become operations of the graph
def export_graph(model: Classifier, size: tuple[int, int]) -> fx.Graph:
    """Return the operations of a model in evaluation mode on images of this height and width.

    They are for at most BATCH images at once. Raises any exception where torch.export does, as for code that depends on
    the values of tensors.
    """
    example = torch.full((2, model.mean.shape[1], *size), 0.5, device=model.mean.device)
    called = _called(sharing_copy(model), example)
    batch = ({0: torch.export.Dim("batch", max=BATCH)},)
    with exportable(model) as traced:
        program = torch.export.export(traced, (example,), dynamic_shapes=batch, strict=False)
    program = program.run_decompositions({})
    graph: fx.Graph = program.graph
    _name_state(graph, program)
    _call_modules(graph, dict(model.named_modules()), called)
    [output] = graph.find_nodes(op="output")
    output.args = tuple(output.args[0]) if len(output.args[0]) == 1 else output.args
    return graph


def _call_modules(graph: fx.Graph, modules: dict[str, nn.Module], called: set[str]) -> None:
    """Replace operations that are layers and batch norms by calls of these."""

    def owner(tensor: object) -> str:
        if not isinstance(tensor, fx.Node) or tensor.op != "get_attr":
            return ""
        name = str(tensor.target).rpartition(".")[0]
        return name if name in called else ""

    for node in list(graph.nodes):
        if operation(node) in VIEWS:
            node.target = torch.ops.aten.reshape.default
        if operation(node) in LAYERS:
            name = owner(node.args[1])
            if is_layer(layer := modules[name]):
                _call(graph, node, name, _inputs(node, layer))
        elif operation(node) == BATCH_NORM:
            name = owner(node.args[3])
            if type(modules[name]).forward is _BatchNorm.forward:
                for output in list(node.users):  # the first is the normalised tensor; nobody reads the others
                    if output.args[1] == 0:
                        _call(graph, output, name, node.args[0])
                    else:
                        graph.erase_node(output)
                graph.erase_node(node)


def operation(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls, of torch or of one of its operators."""
    if node.op == "call_method":
        return str(node.target)
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket.__name__)
    return str(getattr(node.target, "__name__", node.target))


def _called(model: Classifier, example: Tensor) -> set[str]:
    """Return the names of the modules that the model calls, not only computes with their weights."""
    called: set[str] = set()

    def note(name: str) -> Any:
        return lambda *_: called.add(name)

    handles = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()]
    try:
        model(example)
    finally:
        for handle in handles:
            handle.remove()
    return called


def _name_state(graph: fx.Graph, program: torch.export.ExportedProgram) -> None:
    """Replace the inputs that stand for parameters, buffers and constants by these."""
    specs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in [node for node in graph.nodes if node.op == "placeholder"]:
        spec = specs[node.name]
        if spec.kind == InputKind.USER_INPUT:
            continue
        with graph.inserting_before(node):
            if spec.kind == InputKind.CONSTANT_TENSOR:
                new = graph.create_node("call_function", _Constant(program.constants[spec.target]))
            else:
                new = graph.create_node("get_attr", spec.target)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


class _Constant:
    """A function that returns a tensor that the network's code made."""

    __name__ = __qualname__ = "constant"
    __module__ = __name__

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __call__(self) -> Tensor:
        return self.value


def _inputs(node: fx.Node, layer: Layer) -> Any:
    """Return the inputs of a layer, before the padding that an operation of its own does."""
    inputs = node.args[0]
    padded = not isinstance(layer, nn.Linear) and layer.padding_mode != "zeros"
    return inputs.args[0] if padded and isinstance(inputs, fx.Node) else inputs


def _call(graph: fx.Graph, node: fx.Node, name: str, inputs: Any) -> None:
    """Replace a node by a call of a module."""
    with graph.inserting_before(node):
        call = graph.create_node("call_module", name, (inputs,))
    node.replace_all_uses_with(call)
    graph.erase_node(node)
