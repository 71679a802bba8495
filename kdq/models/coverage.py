"""Coverage: whether quantizing its layers leaves nothing of a model in float that should not be.

What a model has learned is in its parameters and in the buffers of its state. Each of these must be

- the weight or bias of a layer (nn.Conv1d, nn.Conv2d, nn.Linear) that the network calls; the former is quantized; or
- the weight, bias or statistics of a normalisation, or slopes of nn.PReLU; or
- added to activations (as masks of attention are to its scores) or concatenated with them, as are biases, position
  embeddings and class tokens; or
- multiplied with them channel by channel, with one axis longer than 1 at most, as are layer scales; or
- the input of a layer, as are learned queries; or
- one number, as is a temperature.

All but the first stay in float. Anything else, such as a matrix in F.linear, an embedding or a recurrent layer, would
be a weight left in float in silence, and so would a layer that is never called.
"""

import operator
from collections.abc import Iterable, Mapping

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from kdq.errors import UserError
from kdq.models.classifier import Classifier
from kdq.models.exported import operation
from kdq.models.graph import Network
from kdq.models.prepare import PREFIX, is_layer, tensor_name

FLOAT_MODULES = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)

ADD = {"add", "iadd", "add_", "sub", "isub", "sub_", "subtract", "rsub", "cat", "concat", "concatenate", "stack"}
ATTENTION = "scaled_dot_product_attention"
NORMALIZE = {"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "prelu"}
SCALE = {
    *("mul", "imul", "mul_", "multiply", "truediv", "itruediv", "div", "div_", "divide", "true_divide", "pow"),
    "addcmul",
}
RESHAPE = {
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "repeat", "repeat_interleave"),
    *("permute", "transpose", "t", "movedim", "contiguous", "clone", "detach", "to", "float", "type_as", "expand_as"),
    *("view_as", "reshape_as", "chunk", "split", "unbind", "interpolate"),
    *("slice", "select", "_unsafe_view", "lift_fresh_copy", "alias"),
}
"""Operations whose result holds values of their first operand alone."""

SHAPES = {"size", "dim", "numel", "stride", "sym_size"}
VIEWS = {"T", "mT", "H", "mH", "data"}
"""Attributes of a tensor that hold its values; others, such as its shape, do not."""

ADVICE = (
    "only nn.Conv1d, nn.Conv2d, nn.Linear and attention of torch.nn are quantized; replace it, or leave the model at "
    "32 bits"
)

Learned = dict[fx.Node, tuple[str, ...]]
"""The values that are made of a model's state alone, and the names of the tensors they are made of."""


def check_coverage(model: Classifier, network: Network) -> None:
    """Raise UserError, naming layer or parameter, unless all weights of a folded model are those of its layers."""
    read: set[int] = set()
    learned: Learned = {}
    state = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    for node in network.nodes:
        given = [operand for operand in node.all_input_nodes if operand in learned]
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(model)
            read |= {id(tensor) for tensor in ([*value.parameters()] if isinstance(value, nn.Module) else [value])}
            if origin := _names(str(node.target), value, state):
                learned[node] = origin
        elif node.op == "call_module":
            module = model.get_submodule(str(node.target))
            _check_module(str(node.target), module)
            read |= set(map(id, module.parameters()))
            if given and not is_layer(module):
                learned[node] = _origin(given, learned)
        elif given and node.op != "output" and _stays_learned(node, learned, state):
            learned[node] = _origin(given, learned)
    for name, parameter in model.named_parameters():
        if id(parameter) not in read:
            raise UserError(
                f"{tensor_name(name)} is stored, but not used in evaluation mode; remove it from the model (by an "
                "option, such as use_mask_token=false or aux_logits=false, or set it to None), or leave the model at "
                "32 bits"
            )


def _check_module(name: str, module: nn.Module) -> None:
    """Raise UserError if a module, called as a whole, has weights that would stay in float."""
    if module.state_dict() and not is_layer(module) and not isinstance(module, FLOAT_MODULES):
        raise UserError(
            f"layer {name.removeprefix(PREFIX)}: the weights of {type(module).__name__} would stay in float; {ADVICE}"
        )


def _stays_learned(node: fx.Node, learned: Learned, state: Mapping[str, Tensor]) -> bool:
    """Return whether the result of a function or method, some operands of which are learned, is made of them alone.

    Raises UserError if it combines them with activations as only layers may.
    """
    name = operation(node)
    operands = node.all_input_nodes
    if _is_constant(node, learned):
        return False
    if all(operand in learned or _is_constant(operand, learned) for operand in operands):
        return True
    if name in RESHAPE:
        return operands[0] in learned
    if name == ATTENTION and all(operand not in learned for operand in node.args[:3]):  # a mask, added to the scores
        return False
    origin = _origin(operands, learned)
    shapes = [state[key].shape for key in origin]
    is_vector = all(shape.numel() == max(shape, default=1) for shape in shapes)
    if name in ADD or name in NORMALIZE or (name in SCALE and is_vector) or all(shape.numel() == 1 for shape in shapes):
        return False
    raise UserError(
        f"parameter {origin[0].removeprefix(PREFIX)} is used by {name}(), outside of any layer, and would stay in "
        f"float; {ADVICE}"
    )


def _is_constant(node: fx.Node, learned: Learned) -> bool:
    """Return whether a value is made of shapes and the like, and of tensors that are not learned, alone."""
    if node.op == "call_method" or operation(node) == "sym_size":
        return operation(node) in SHAPES
    if node.target is getattr:
        return node.args[1] not in VIEWS
    if node.op == "get_attr":
        return node not in learned
    return node.op == "call_function" and all(_is_constant(operand, learned) for operand in node.all_input_nodes)


def _origin(operands: Iterable[fx.Node], learned: Learned) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for operand in operands for name in learned.get(operand, ())))


def _names(target: str, value: object, state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the names in the state of an attribute's tensors: itself, what it is a view of, or those of a module."""
    if isinstance(value, nn.Module):
        return tuple(f"{target}.{name}" for name in value.state_dict() if f"{target}.{name}" in state)
    if target in state:
        return (target,)
    if not isinstance(value, Tensor) or not value.numel():
        return ()
    memory = value.untyped_storage().data_ptr()
    return tuple(name for name, whole in state.items() if whole.untyped_storage().data_ptr() == memory)
