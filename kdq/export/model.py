"""Export of a packed model: write it in another format, check what was written, publish it with a model card."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdq.data.dataset import labels_beyond
from kdq.errors import UserError, unknown
from kdq.export import onnx_format, safetensors_format, torch_format
from kdq.export.card import model_card
from kdq.export.check import Check, compare
from kdq.models.float32 import exact_float32, without_autocast
from kdq.models.images import check_images
from kdq.models.sources import without_path
from kdq.pack.file import Packed, unpack
from kdq.store.files import publish

RANDOM_IMAGES = 64
"""On which the two models are compared if no images are given."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format of exported files.

    runtime: the package that runs it; write: (packed model, its description, height and width) -> content of the file;
    run: (content, packed model) -> function from float32 images to logits; settings: those of the runtime with which
    it runs a packed model, in words; widths: bits of an exported weight for each quantized layer; require: raises
    UserError if a package is missing.
    """

    runtime: str
    write: Callable[[Packed, Mapping[str, Any], tuple[int, int]], bytes]
    run: Callable[[bytes, Packed], Callable[[Tensor], Tensor]]
    settings: Callable[[Packed], str] = lambda packed: ""
    widths: Callable[[Packed], dict[str, int]] = lambda packed: dict.fromkeys(packed.layers, 32)
    require: Callable[[], None] = lambda: None


FORMATS = {
    "onnx": Format(
        "onnxruntime",
        onnx_format.write,
        onnx_format.run,
        onnx_format.settings,
        onnx_format.widths,
        onnx_format.require,
    ),
    "torch": Format("torch", torch_format.write, torch_format.run),
    "safetensors": Format("torch", safetensors_format.write, safetensors_format.run),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model.

    path: its file; card: the model card beside it; packed_bytes, exported_bytes: of both files; widths: of each
    quantized layer, the bits of a weight as packed and as exported.
    """

    path: Path
    card: Path
    to: str
    packed_bytes: int
    exported_bytes: int
    widths: Mapping[str, tuple[int, int]]
    check: Check


@exact_float32()
@without_autocast()
def export(
    packed_path: Path | str,
    to: str,
    output: Path | str,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    images_name: str = "given images",
    size: tuple[int, int] | None = None,
    facts: Mapping[str, str] | None = None,
    command: str | None = None,
    code: Path | str | None = None,
) -> Exported:
    """Export a packed model to a file, and write a model card, `OUTPUT.md`, beside it.

    to: a name in FORMATS. images, labels: on which the exported model is compared with the packed one, uint8 or
    floating-point in [0, 1] [N, C, H, W] and int64 [N]; with labels their top-1 accuracies must agree, without their
    logits; by default random images. images_name, facts, command: for the card, what the images are, more of its
    lines, and how the model is made. size: height and width, where the packed file does not say. code: see `load`.

    Raises UserError, and writes nothing, for a file that is no packed model, a format that cannot hold it, missing
    packages, and an exported model that predicts something else; OSError if a file cannot be written.
    """
    if to not in FORMATS:
        raise unknown("format", to, FORMATS)
    form, output = FORMATS[to], Path(output)
    form.require()
    if output.exists() and not output.is_file():
        what = "a folder" if output.is_dir() else "no regular file"
        raise UserError(f"{output}: is {what}; give the name of a file")
    if output.resolve() == Path(packed_path).resolve():
        raise UserError(f"{output}: is the packed model itself; choose another name")
    packed = unpack(packed_path, code)
    size = _size(packed, images, size)
    if images is None:
        images, labels, images_name = _random_images(packed, size), None, "random images"
    check_images(images, channels=len(packed.model.normalization.mean), size=size, what=images_name)
    if labels is not None and (wrong := labels_beyond(labels, packed.model.classes)):
        raise UserError(f"{images_name}: their labels {wrong}; give images of the model's own classes")
    widths = {name: (packed.layers[name].alphabet.bits, bits) for name, bits in form.widths(packed).items()}
    content = form.write(packed, describe(packed, size, widths), size)
    runtime = f"{form.runtime} {import_module(form.runtime).__version__} {form.settings(packed)}".rstrip()
    check = compare(packed.model, form.run(content, packed), images, labels, runtime)
    check.verify(packed.rounds_inputs)
    card = output.with_name(f"{output.name}.md")
    exported = Exported(output, card, to, Path(packed_path).stat().st_size, len(content), widths, check)
    publish(output, content)
    publish(card, model_card(packed, exported, size, images_name, facts or {}, command).encode())
    return exported


def describe(packed: Packed, size: tuple[int, int], widths: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return what an exported file says of itself, JSON values by name."""
    model, first = packed.model, next(iter(packed.layers.values()), None)
    return {
        "arch": without_path(model.arch),
        "class_names": list(model.signature.class_names),
        "image_size": list(size),
        "channel_order": model.signature.channel_order,
        "resize": model.signature.resize,
        "mean": list(model.normalization.mean),
        "std": list(model.normalization.std),
        "bits": {name: packed for name, (packed, _) in widths.items()},
        "exported_bits": {name: exported for name, (_, exported) in widths.items()},
        "activation_bits": first.inputs.bits if first and first.inputs else None,
    }


def _size(packed: Packed, images: Tensor | None, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of the model's images, from its file, the argument or the images."""
    own = packed.model.signature.image_size
    if size is not None and own not in (None, size):
        raise UserError(f"image size {size}: the model is made for {own}; leave it out")
    if (found := own or size) is not None:
        return found
    if images is None:
        raise UserError("the size of the model's images is unknown: give it by --image-size (`size`)")
    return images.shape[-2], images.shape[-1]


def _random_images(packed: Packed, size: tuple[int, int]) -> Tensor:
    shape = (RANDOM_IMAGES, len(packed.model.normalization.mean), *size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
