"""The packed file: a safetensors file whose payload is exactly what `size.ledger` counts.

For each quantized layer `NAME.codes` (uint8, b bits a code), `NAME.scale` and `NAME.bias` (float16); all else
under its name in float32. What is needed to build the network stands as JSON in the header's metadata, under
`kdq`: format version, architecture, classes, normalisation, and the bits of each quantized layer. The names,
shapes and six or so numbers of the normalisation in the header are the only things outside the payload.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdq.alphabet import Alphabet
from kdq.errors import UserError
from kdq.graph import PREFIX, QUANTIZABLE, fold
from kdq.models import ARCHITECTURES, Classifier, Normalization, build, check_architecture
from kdq.quantize import Quantized, QuantizedLayer
from kdq.size import leftovers, packed_bytes

FORMAT = 1
LARGEST_CLASSES = 1_000_000


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes (uint8, any shape, each below 2^bits) as a stream of bits, the lowest bit of each code first.

    Bit k of the stream is bit k mod 8 of byte k div 8; the last byte is filled with zeros. Returns uint8
    [ceil(codes · bits / 8)].
    """
    values = codes.detach().cpu().numpy().reshape(-1, 1)
    stream = (values >> np.arange(bits, dtype=np.uint8)) & 1
    return torch.from_numpy(np.packbits(stream.astype(np.uint8), bitorder="little"))


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """The inverse of `pack_codes`: uint8 [count]."""
    stream = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    return torch.from_numpy((stream << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8))


def pack(quantized: Quantized, path: Path | str) -> None:
    """Write the model to a file that `load` gives back with identical predictions.

    Raises UserError for an architecture that has no name here, because `load` could not build it.
    """
    model = quantized.model
    check_architecture(model.arch)
    tensors = {key: value.cpu().contiguous() for key, value in leftovers(quantized).items()}
    for name, layer in quantized.layers.items():
        tensors[f"{name}.codes"] = pack_codes(layer.codes, layer.bits)
        tensors[f"{name}.scale"] = layer.scale.cpu()
        tensors[f"{name}.bias"] = layer.bias.cpu()
    header = {
        "format": FORMAT,
        "arch": model.arch,
        "classes": model.classes,
        "mean": model.normalization.mean,
        "std": model.normalization.std,
        "bits": {name: layer.bits for name, layer in quantized.layers.items()},
    }
    save_file(tensors, path, metadata={"kdq": json.dumps(header, sort_keys=True)})


def payload_bytes(path: Path | str) -> int:
    """Bytes of the tensors in the file, without its header."""
    with Path(path).open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return Path(path).stat().st_size - 8 - header


def load(path: Path | str) -> Classifier:
    """The classifier in the file, in evaluation mode on the CPU; it needs nothing else.

    Raises UserError for a file that is missing, damaged, or not written by `pack`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["kdq"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        model = _empty(header)
        state = _state(tensors, dict(header["bits"]), model)
        _check(state, model)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read ({reason}); name a file written by kdq.pack") from error
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged, or not a packed model ({error!r}); pack the model again") from error
    model.load_state_dict({PREFIX + key: value for key, value in state.items()}, strict=False)
    return model.eval()


def _empty(header: Mapping[str, Any]) -> Classifier:
    """The network that the header describes, batch norms folded as `quantize` folds them."""
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']!r}, this version reads {FORMAT}")
    arch, classes = header["arch"], header["classes"]
    if arch not in ARCHITECTURES or not isinstance(classes, int) or not 1 <= classes <= LARGEST_CLASSES:
        raise ValueError(f"architecture {arch!r} with {classes!r} classes")
    normalization = Normalization(tuple(map(float, header["mean"])), tuple(map(float, header["std"])))
    return fold(build(arch, classes=classes, normalization=normalization, seed=0))


def _state(tensors: Mapping[str, Tensor], widths: Mapping[str, Any], model: Classifier) -> dict[str, Tensor]:
    """The tensors of the model's state, weights of quantized layers restored."""
    state = {key: value for key, value in tensors.items() if key.rpartition(".")[0] not in widths}
    for name, bits in widths.items():
        module = model.get_submodule(PREFIX + name)
        if not isinstance(module, QUANTIZABLE):
            raise ValueError(f"{name!r} is no layer that has codes")
        alphabet, shape = Alphabet(bits), module.weight.shape
        codes, scale, bias = (tensors[f"{name}.{kind}"] for kind in ("codes", "scale", "bias"))
        types = (codes.dtype, scale.dtype, bias.dtype)
        if types != (torch.uint8, torch.float16, torch.float16) or scale.shape != shape[:1]:
            raise ValueError(f"layer {name!r} has types {types} and scales {tuple(scale.shape)}")
        count = shape.numel()
        if codes.shape != (packed_bytes(count, alphabet.bits),):
            raise ValueError(f"layer {name!r} has codes {tuple(codes.shape)}, must hold {count} of {bits} bits")
        layer = QuantizedLayer(bits, unpack_codes(codes, bits, count).view(shape), scale, bias)
        state[f"{name}.weight"], state[f"{name}.bias"] = layer.weight(), bias.float()
    return state


def _check(state: Mapping[str, Tensor], model: Classifier) -> None:
    """Raise ValueError unless the state fits the model: the same names, shapes and types, all finite."""
    wanted = {key.removeprefix(PREFIX): value for key, value in model.state_dict().items()}
    wanted = {key: value for key, value in wanted.items() if value.is_floating_point()}
    if differing := sorted(state.keys() ^ wanted.keys()):
        raise ValueError(f"{differing[0]!r} is on one side only")
    for key, value in state.items():
        if value.shape != wanted[key].shape or value.dtype != wanted[key].dtype:
            raise ValueError(f"{key!r} has {tuple(value.shape)} {value.dtype}, must have {tuple(wanted[key].shape)}")
        if not torch.isfinite(value).all():
            raise ValueError(f"{key!r} has NaN or infinite values")
