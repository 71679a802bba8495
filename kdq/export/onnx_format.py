"""ONNX, opset 21: integer weights with DequantizeLinear, quantized activations with QuantizeLinear around them.

torch.onnx exports the network in float; then the weight of every quantized layer is replaced by its integers. Input
`image`: float32 [batch, C, H, W] in [0, 1], which the model normalises itself; output `logits`: float32
[batch, classes].
"""

import copy
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdq.errors import UserError, first_line
from kdq.export.integers import Integers, integers
from kdq.models.classifier import Classifier
from kdq.models.graph import layer as layer_of
from kdq.models.modules import exportable
from kdq.models.prepare import PREFIX, Layer
from kdq.pack.bitstream import pack_codes
from kdq.pack.file import Packed
from kdq.quantize.activations import NAME, InputRange

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 21
"""The first with integers of 4 bits."""

NEEDED = ("onnx", "onnxruntime", "onnxscript")
FLOAT_SESSION = "session.disable_quant_qdq"
"""The session option by which onnxruntime converts weights to float32 once, and computes in it."""

MODEL = "model."
"""The prefix that `_Image` adds to the names of the model's tensors, which in ONNX share one space with operations."""


def require() -> None:
    """Raise UserError unless the packages that ONNX needs are installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UserError(f"export --to onnx needs {', '.join(missing)}; install with: pip install 'kdq[export]'")


def write(packed: Packed, description: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    """Return the model as an ONNX file; description: its metadata; size: height and width of its images.

    Raises UserError for a model that torch.onnx cannot export, and for levels that lie on no grid of integers.
    """
    import onnx
    from onnxscript import optimizer

    found = {f"{MODEL}{PREFIX}{name}.weight": integers(layer, name) for name, layer in packed.layers.items()}
    exported = optimizer.optimize(_with_integers(_with_first_names(_float_model(packed, size), packed.model), found))
    _strip(exported)
    exported.producer_name = "kdq"
    onnx.helper.set_model_props(exported, {key: _text(value) for key, value in description.items()})
    onnx.checker.check_model(exported, full_check=True)
    content: bytes = exported.SerializeToString()
    return content


def run(content: bytes, packed: Packed) -> Callable[[Tensor], Tensor]:
    """Return a function of float32 images in [0, 1] that computes the logits of an ONNX file by onnxruntime.

    If the model's activations are in float, they stay so (FLOAT_SESSION): otherwise onnxruntime would round what is
    multiplied with matrices of 4 bits to 8 bits, by which the logits of a ViT-B/16 differ by 1.2 % of their size.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not packed.rounds_inputs:
        options.add_session_config_entry(FLOAT_SESSION, "1")
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"image": images.numpy()})[0])


def settings(packed: Packed) -> str:
    """Return the settings of onnxruntime with which `run` runs the model, in words."""
    return "" if packed.rounds_inputs else f"{FLOAT_SESSION}=1"


def widths(packed: Packed) -> dict[str, int]:
    """Return the bits of a weight in ONNX of every quantized layer."""
    return {name: integers(layer, name).bits for name, layer in packed.layers.items()}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _Image(nn.Module):
    """The model, whose argument is called `image`."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model.eval()
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.model(image)
        return logits


def _float_model(packed: Packed, size: tuple[int, int]) -> "ModelProto":
    model = copy.deepcopy(packed.model)
    for name, layer in packed.layers.items():
        if layer.inputs is not None:
            _as_onnx(layer_of(model, PREFIX + name), layer.inputs)
    example = torch.rand(2, len(model.normalization.mean), *size)
    try:
        with exportable(model) as traced:
            program = torch.onnx.export(
                _Image(traced),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table={torch.ops.kdq.round_inputs.default: _quantize_dequantize},
                optimize=False,  # which would rename the weights
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(
            f"architecture {model.arch!r}: torch.onnx cannot export it ({first_line(error)}); export --to safetensors"
        ) from error
    assert program is not None
    return program.model_proto


@torch.library.custom_op("kdq::round_inputs", mutates_args=())
def _round_inputs(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """The levels nearest to values, as QuantizeLinear and DequantizeLinear find them; only its name is exported."""
    raise NotImplementedError


@_round_inputs.register_fake
def _(values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(values)


def _quantize_dequantize(values: Any, scale: Any, zero_point: Any) -> Any:
    from onnxscript import opset21

    return opset21.DequantizeLinear(opset21.QuantizeLinear(values, scale, zero_point), scale, zero_point)


class _OnnxInputs(nn.Module):
    """Rounds a layer's inputs to uint8 codes, of which only the first 2^bits occur."""

    def __init__(self, found: InputRange) -> None:
        super().__init__()
        codes = torch.tensor([0, (1 << found.bits) - 1], dtype=torch.float32) - found.zero_point
        self.low, self.high = (codes * found.scale).tolist()
        self.clips = found.bits < 8
        self.register_buffer("scale", torch.tensor(found.scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(found.zero_point, dtype=torch.uint8))

    def forward(self, values: Tensor) -> Tensor:
        values = values.clamp(self.low, self.high) if self.clips else values
        rounded: Tensor = torch.ops.kdq.round_inputs(values, self.scale, self.zero_point)
        return rounded


def _as_onnx(layer: Layer, found: InputRange) -> None:
    """Let a layer round its inputs as ONNX does; if they have fewer than 8 bits, add its bias outside.

    onnxruntime would round a bias inside to multiples of the product of both scales, which is coarse at few bits.
    """
    setattr(layer, NAME, _OnnxInputs(found))
    if found.bits < 8:
        assert layer.bias is not None
        shape = (-1, *[1] * (layer.weight.dim() - 2))
        layer.register_buffer("added", layer.bias.detach().view(shape))
        layer.bias = None
        layer.register_forward_hook(_add)


def _add(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    assert isinstance(layer.added, Tensor)
    return output + layer.added


def _with_first_names(proto: "ModelProto", model: Classifier) -> "ModelProto":
    """Give the weights of modules that have several names the first of them, as in the packed file."""
    first = {module: name for name, module in model.named_modules()}
    names = {
        f"{MODEL}{name}.{part}": f"{MODEL}{first[module]}.{part}"
        for name, module in model.named_modules(remove_duplicate=False)
        for part, _ in module.named_parameters(recurse=False)
    }
    for tensor in proto.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in proto.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return proto


def _with_integers(model: "ModelProto", found: Mapping[str, Integers]) -> "ModelProto":
    """Replace the initializers of those names by integers, and nodes that compute them."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in found]
    nodes = list(model.graph.node)
    assert len(kept) + len(found) == len(model.graph.initializer)
    del model.graph.initializer[:], model.graph.node[:]
    for name, stored in found.items():
        kept += _tensors(name, stored)
        model.graph.node.append(_dequantize(name))
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return model


def _tensors(name: str, stored: Integers) -> list["TensorProto"]:
    from onnx import TensorProto, numpy_helper

    types = {4: TensorProto.UINT4, 8: TensorProto.UINT8, 16: TensorProto.UINT16}

    def tensor(end: str, values: Tensor) -> TensorProto:
        if stored.bits == 4:  # the lower half of a byte first, as in the packed file
            raw = pack_codes(values, 4).numpy().tobytes()
        else:
            raw = values.numpy().astype(f"<u{stored.bits // 8}").tobytes()
        return TensorProto(name=f"{name}.{end}", data_type=types[stored.bits], dims=values.shape, raw_data=raw)

    def fitting(values: Tensor) -> Tensor:
        return values[0] if len(values) == 1 else values  # one for all channels is a scalar in ONNX

    scale = numpy_helper.from_array(fitting(stored.scale).numpy(), f"{name}.scale")
    return [tensor("codes", stored.codes), scale, tensor("zero_point", fitting(stored.zero_point))]


def _dequantize(name: str) -> "NodeProto":
    from onnx import helper

    inputs = [f"{name}.{end}" for end in ("codes", "scale", "zero_point")]
    return helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0)


def _strip(model: "ModelProto") -> None:
    """Remove what torch.onnx notes of its own work, which is longer than the weights of a small network."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph, model):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    del graph.value_info[:]
