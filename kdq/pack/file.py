"""The packed file: a safetensors file whose payload is exactly what `size.size_breakdown` counts.

It holds, for each quantized layer, `NAME.codes` (uint8, a bit stream), `NAME.scale` and `NAME.bias` (float16 or
float32); on an asymmetric grid `NAME.zero_point` (uint8, a bit stream of codes); if its inputs are quantized,
`NAME.input_scale` (float32) and `NAME.input_zero_point` (uint8); all other tensors under their names in float32. The
header's metadata describes the network as JSON under `kdq`: format version, architecture, classes and their names,
size, channel order and normalisation of its images, the alphabet of each quantized layer (bits, extra levels, gap), the
width of its inputs, and the SHA-256 of all this and the tensors, by which `load` notices damage. Only the header's
names, shapes and these few numbers are outside the payload.

Format 4. Format 3, which is read too, has no class names, image size and channel order; format 2 had no SHA-256 and is
refused, since damage to it cannot be noticed.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdq.errors import UserError, first_line
from kdq.models.classifier import (
    CHANNEL_ORDERS,
    Classifier,
    Normalization,
    Signature,
    build,
    check_architecture,
)
from kdq.models.evaluate import LARGEST_ERROR, LARGEST_ERROR_ROUNDED, logits_many, relative_error
from kdq.models.graph import fold
from kdq.models.huggingface import Pretrained
from kdq.models.modules import bounded, load_values
from kdq.models.prepare import PREFIX, QUANTIZABLE
from kdq.models.resnets import ARCHITECTURES
from kdq.models.sealed import is_intact, write_sealed
from kdq.models.sources import code_of, is_self_contained, is_sourced, packed, with_code
from kdq.pack.bitstream import pack_codes, unpack_codes
from kdq.pack.size import floating, leftovers, packed_bytes
from kdq.quantize.activations import InputRange, attach, check_activation_bits
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.result import Quantized, QuantizedLayer

FORMAT = 4
READABLE = (3, 4)
ENTRY = "kdq"
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError)
"""The errors raised by reading a header that `pack` did not write (RecursionError is a RuntimeError)."""

LARGEST_CLASSES = 1_000_000

PROBE = 2
"""Random images on which the logits of a model and of what `load` would restore are compared."""

ROUNDING = 1e-5
"""Relative error that the latter may have on a CPU, which may add in another order for weights of other strides."""

REMEDY = "make the network by a function of your own, and name it python:FILE.py:FUNCTION"


def pack(quantized: Quantized, path: Path | str, signature: Signature | None = None) -> None:
    """Write the model to a file from which `load` restores it with identical predictions.

    signature: class names and what the images are, such as `Dataset.signature`; the model's own by default. Before it
    is written, the content is restored as `load` does it, and compared with the model; as in `load` and `quantize`, no
    other thread may run a model meanwhile. Raises UserError for an architecture that is unknown or builds another
    network than the model has, and for a signature that does not fit; OSError if the file cannot be written.
    """
    model = quantized.model
    check_architecture(model.arch)
    if isinstance(model.net, Pretrained):
        raise UserError(
            f"{model.arch}: a pretrained teacher of transformers cannot be packed, since `load` could not build its "
            "preprocessing; load its weights into a network of python:FILE.py:FUNCTION"
        )
    signature = signature or model.signature
    _check_signature(signature, model.classes, len(model.normalization.mean))
    if model.signature.image_size not in (None, signature.image_size):
        if signature.image_size is not None:
            raise UserError(
                f"image size {signature.image_size}: the model was calibrated on {model.signature.image_size}; give "
                "the signature of these images"
            )
        signature = replace(signature, image_size=model.signature.image_size)
    tensors = leftovers(quantized)
    for name, layer in quantized.layers.items():
        tensors[f"{name}.codes"] = pack_codes(layer.codes, layer.alphabet.code_bits)
        tensors[f"{name}.scale"] = layer.scale
        tensors[f"{name}.bias"] = layer.bias
        if layer.zero_point is not None:
            tensors[f"{name}.zero_point"] = pack_codes(layer.zero_point, layer.alphabet.code_bits)
        if layer.inputs:
            tensors[f"{name}.input_scale"] = torch.tensor([layer.inputs.scale], dtype=torch.float32)
            tensors[f"{name}.input_zero_point"] = torch.tensor([layer.inputs.zero_point], dtype=torch.uint8)
    header = {
        "format": FORMAT,
        "arch": packed(model.arch),
        "classes": model.classes,
        "class_names": signature.class_names,
        "image_size": signature.image_size,
        "channel_order": signature.channel_order,
        **({} if signature.resize == "crop" else {"resize": signature.resize}),
        "mean": model.normalization.mean,
        "std": model.normalization.std,
        "alphabets": {name: _plain(layer.alphabet) for name, layer in quantized.layers.items()},
        "activation_bits": quantized.config.activation_bits,
    }
    _check_restored(quantized, header, {key: value.detach().cpu() for key, value in tensors.items()})
    write_sealed(Path(path), ENTRY, header, tensors)


def _check_restored(quantized: Quantized, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError unless the content of a file, restored as `load` does it, has the logits of the model."""
    own, size = quantized.model, header["image_size"]
    arch = with_code(header["arch"], code_of(own.arch))
    built = build(arch, classes=own.classes, normalization=own.normalization, seed=0)
    built.signature = replace(built.signature, image_size=size)
    try:
        restored = _restore(built, header, tensors)
    except MALFORMED as error:
        raise UserError(
            f"architecture {own.arch!r}: builds another network than the one that was quantized ({first_line(error)}), "
            f"so that the file could not be loaded; {REMEDY}"
        ) from error
    if size is None:
        return
    device = own.mean.device
    images = torch.rand((PROBE, len(header["mean"]), *size), generator=torch.Generator().manual_seed(0)).to(device)
    wanted, found = logits_many([own, restored.model.to(device)], images)
    if torch.equal(found.nan_to_num(), wanted.nan_to_num()):
        return
    allowed = ROUNDING if device.type == "cpu" else LARGEST_ERROR
    difference = relative_error(found, wanted)
    if not difference <= (LARGEST_ERROR_ROUNDED if restored.rounds_inputs else allowed):
        raise UserError(
            f"architecture {own.arch!r}: the file would not be this model, as its logits would differ by "
            f"{difference:.2g} of their size; something was changed after the network was built, besides its weights, "
            f"or after it was quantized; {REMEDY}"
        )


def _check_signature(signature: Signature, classes: int, channels: int) -> None:
    """Raise UserError for a signature of other classes or channels than the model's."""
    order = CHANNEL_ORDERS.get(channels)
    if len(signature.class_names) != classes or signature.channel_order != order:
        raise UserError(
            f"{len(signature.class_names)} class names and channels in the order {signature.channel_order}, the model "
            f"has {classes} classes and the order {order}; give the names and images that it was trained on"
        )


def _plain(alphabet: Alphabet) -> list[float]:
    return [alphabet.bits, alphabet.extra, alphabet.gap]


def payload_bytes(path: Path | str) -> int:
    """Return the bytes of the tensors in the file, without its header."""
    with Path(path).open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return Path(path).stat().st_size - 8 - header


@dataclass(frozen=True, slots=True)
class Packed:
    """The content of a packed file: `model` to run, in evaluation mode on the CPU, and its quantized `layers`."""

    model: Classifier
    layers: Mapping[str, QuantizedLayer]

    @property
    def rounds_inputs(self) -> bool:
        """Whether the inputs of quantized layers are quantized."""
        return any(layer.inputs for layer in self.layers.values())


def load(path: Path | str, code: Path | str | None = None) -> Classifier:
    """Load the classifier in the file, in evaluation mode on the CPU.

    The network is built anew from its source: by kdq, by torchvision or timm, which must be installed, or by the user's
    Python file that it was made with, which is run only if it is named here, as `code`. Raises UserError for a file
    that is missing, damaged, or not written by `pack`, and if the network cannot be built.
    """
    return unpack(path, code).model


def unpack(path: Path | str, code: Path | str | None = None) -> Packed:
    """Read the file as `load` does; return its quantized layers beside the classifier."""
    with _reading(path):
        with safe_open(path, framework="pt") as file:
            header = _header(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if not is_intact(ENTRY, header, tensors):
            raise ValueError("its SHA-256 is not the one that it was packed with")
        normalization, signature = _images(header)
    try:
        arch = with_code(header["arch"], code)
        with nullcontext() if code else _bounded(tensors):  # the code of a file that its user names may build anything
            model = build(arch, classes=header["classes"], normalization=normalization, seed=0)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    with _reading(path):
        model.signature = signature or model.signature
        return _restore(model, header, tensors)


def _restore(built: Classifier, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Packed:
    """Give a newly built network the content of a file. Raises one of MALFORMED if it does not fit."""
    model = fold(built)
    layers = _layers(tensors, header, model)
    state = _state(tensors, layers)
    _check(state, model)
    load_values(model, {PREFIX + key: value for key, value in state.items()})
    for name, layer in layers.items():
        if layer.inputs:
            attach(model.get_submodule(PREFIX + name), layer.inputs)
    return Packed(model.eval(), layers)


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Raise UserError where the content of the file is not what `pack` writes."""
    try:
        yield
    except OSError as error:
        what = error.strerror or error
        raise UserError(f"{path}: cannot be read ({what}); name a file written by kdq.pack.file") from error
    except (SafetensorError, *MALFORMED) as error:
        reason = error if isinstance(error, ValueError | SafetensorError) else repr(error)
        raise UserError(f"{path}: damaged, or not a packed model ({reason}); pack the model again") from error


def _header(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that `pack` stored. Raises ValueError if there are none, or of another format."""
    header = json.loads(metadata.get(ENTRY, "null"))
    if not isinstance(header, dict):
        raise ValueError("its header does not describe a packed model")
    if header["format"] == 2:
        raise ValueError("format 2, in which damage cannot be noticed; this version reads formats 3 and 4")
    if header["format"] not in READABLE:
        raise ValueError(f"format {header['format']!r}, this version reads formats 3 and 4")
    return header


def _images(header: Mapping[str, Any]) -> tuple[Normalization, Signature | None]:
    """Return what the header says of the network's images; no signature in format 3. Raises ValueError if it cannot be.

    Nothing is built yet, and no user's file run.
    """
    arch, classes = header["arch"], header["classes"]
    is_known = isinstance(arch, str) and (arch in ARCHITECTURES or is_sourced(arch))
    if not is_known or not isinstance(classes, int) or not 1 <= classes <= LARGEST_CLASSES:
        raise ValueError(f"architecture {arch!r} with {classes!r} classes; that of a plugin needs --plugin FILE")
    if not is_self_contained(arch):
        raise ValueError(f"architecture {arch!r} names weights, a folder or a repository, which a packed file may not")
    normalization = Normalization(tuple(map(float, header["mean"])), tuple(map(float, header["std"])))
    if header["format"] == 3:
        return normalization, None
    names, size = header["class_names"], header["image_size"]
    if not isinstance(names, list):
        raise ValueError(f"its class names are {names!r}")
    size = None if size is None else tuple(size)
    signature = Signature(tuple(names), size, header["channel_order"], header.get("resize", "crop"))
    _check_signature(signature, classes, len(header["mean"]))
    return normalization, signature


def _bounded(tensors: Mapping[str, Tensor]) -> AbstractContextManager[None]:
    """Raise UserError while a network is built of far more weights than the file has bits, see `bounded`."""
    bits = 8 * sum(tensor.nbytes for tensor in tensors.values())
    return bounded("its header", tensors=len(tensors), weights=bits)


def _layers(tensors: Mapping[str, Tensor], header: Mapping[str, Any], model: Classifier) -> dict[str, QuantizedLayer]:
    """Return the quantized layers that the header names."""
    layers = {}
    for name, (bits, extra, gap) in header["alphabets"].items():
        module = model.get_submodule(PREFIX + name)
        if not isinstance(module, QUANTIZABLE):
            raise ValueError(f"{name!r} is not a quantizable layer")
        alphabet, shape = Alphabet(bits, extra, float(gap)), module.weight.shape
        if alphabet.gap != 1 and not alphabet.is_sparse:
            raise ValueError(f"layer {name!r} has a gap of {gap!r}, which its alphabet has not")
        codes, scale, bias = (tensors[f"{name}.{kind}"] for kind in ("codes", "scale", "bias"))
        stored = scale.dtype in (torch.float16, torch.float32) and bias.dtype == scale.dtype
        if codes.dtype != torch.uint8 or not stored or scale.shape not in (shape[:1], (1,)):
            raise ValueError(f"layer {name!r} has {codes.dtype} codes, {bias.dtype} bias, {tuple(scale.shape)} scales")
        unpacked = _unpack(codes, alphabet, shape.numel(), f"layer {name!r} has codes")
        inputs = _inputs(tensors, name, header["activation_bits"])
        zero_point = _zero_point(tensors, name, alphabet, shape[0])
        layers[name] = QuantizedLayer(alphabet, unpacked.view(shape), scale, bias, inputs, zero_point)
    return layers


def _unpack(packed: Tensor, alphabet: Alphabet, count: int, what: str) -> Tensor:
    """Return `count` codes of the alphabet, of its dtype. Raises ValueError for others."""
    if packed.shape != (packed_bytes(count, alphabet.code_bits),):
        raise ValueError(f"{what} {tuple(packed.shape)}, must hold {count} of {alphabet.bits} bits")
    unpacked = unpack_codes(packed, alphabet.code_bits, count)
    if int(unpacked.max()) >= alphabet.levels:
        raise ValueError(f"{what} beyond its {alphabet.levels} levels")
    return unpacked.to(alphabet.dtype)


def _zero_point(tensors: Mapping[str, Tensor], name: str, alphabet: Alphabet, channels: int) -> Tensor | None:
    """Return the zero points of a layer on an asymmetric grid, None on a symmetric one."""
    packed = tensors.get(f"{name}.zero_point")
    if packed is None:
        return None
    if packed.dtype != torch.uint8 or alphabet.extra:
        raise ValueError(f"layer {name!r} has {packed.dtype} zero points on {alphabet.levels} levels")
    return _unpack(packed, alphabet, channels, f"layer {name!r} has zero points")


def _inputs(tensors: Mapping[str, Tensor], name: str, bits: int | None) -> InputRange | None:
    if bits is None:
        return None
    check_activation_bits(bits)
    scale, zero_point = tensors[f"{name}.input_scale"], tensors[f"{name}.input_zero_point"]
    types = scale.dtype, zero_point.dtype, scale.shape, zero_point.shape
    fits = types == (torch.float32, torch.uint8, (1,), (1,))
    if not fits or not 0 < scale.item() < inf or int(zero_point) >= 1 << bits:
        raise ValueError(f"layer {name!r} has inputs of scale {scale} and zero point {zero_point}")
    return InputRange(bits, scale.item(), int(zero_point))


def _state(tensors: Mapping[str, Tensor], layers: Mapping[str, QuantizedLayer]) -> dict[str, Tensor]:
    """Return the tensors of the model's state, weights of quantized layers restored."""
    state = dict(tensors)  # what remains after the quantized layers must be in the network
    for name, layer in layers.items():
        kinds = ["codes", "scale", "bias"]
        kinds += ["input_scale", "input_zero_point"] if layer.inputs else []
        kinds += ["zero_point"] if layer.zero_point is not None else []
        for kind in kinds:
            del state[f"{name}.{kind}"]
        if f"{name}.weight" in state:
            raise ValueError(f"layer {name!r} has a weight beside its codes")
        state[f"{name}.weight"], state[f"{name}.bias"] = layer.weight(), layer.bias.float()
    return state


def _check(state: Mapping[str, Tensor], model: Classifier) -> None:
    """Raise ValueError unless the state fits the model: the same names, shapes and types, all finite."""
    wanted = floating(model)
    if differing := sorted(state.keys() ^ wanted.keys()):
        raise ValueError(f"{differing[0]!r} is not in both the file and the network")
    for key, value in state.items():
        if value.shape != wanted[key].shape or value.dtype != wanted[key].dtype:
            raise ValueError(f"{key!r} has {tuple(value.shape)} {value.dtype}, must have {tuple(wanted[key].shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{key!r} has NaN or infinite values")
