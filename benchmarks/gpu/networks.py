"""Whole networks of libraries, quantized on a GPU: seconds, memory, and whether the packed file is the same network.

    python -m benchmarks.gpu.networks [--device cuda] [--images 256] [--size 224] [ARCH …]

Initial weights, random images, 4 bits, every layer. For each network and quantizer a line: seconds to quantize, largest
memory of the GPU (PyTorch's allocator), how far the logits of the loaded file, on the GPU and on the CPU, are from
those of the model on the GPU, and whether the latter stay the same bits while a program allows TF32 and asks for bf16
by autocast, which change the float network's own (`control`: by how much). The status is 1 if anything fails or differs
by more than `pack` accepts. The networks of timm and transformers need their packages.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.gpu.speed import synchronize
from kdq.models.checkpoint import IMAGENET
from kdq.models.classifier import Classifier, Signature, build
from kdq.models.evaluate import LARGEST_ERROR, logits, relative_error
from kdq.pack.file import load, pack
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize
from kdq.quantize.result import Quantized

ARCHS = (
    "torchvision:mobilenet_v3_small",
    "timm:mobilevit_xxs",
    "timm:levit_128s",
    "transformers:vit?hidden_size=384&num_attention_heads=6&intermediate_size=1536",
    "torchvision:resnet50",
    "torchvision:vit_b_16",
)
QUANTIZERS = ("gptq", "least_squares")
BITS, TESTED = 4, 16


@contextmanager
def lower_precision(device: str) -> Iterator[None]:
    """A program that allows TF32 everywhere and is inside an autocast to bf16."""
    precision, allowed = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        with torch.autocast(device, dtype=torch.bfloat16):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = allowed


@torch.no_grad()
def network(arch: str, size: int) -> Classifier:
    """The network with initial weights; those that start at 0, as a ViT's head does, are random too."""
    model = build(arch, classes=10, normalization=IMAGENET, seed=0).eval()
    model.signature = Signature(tuple("abcdefghij"), (size, size), "RGB")
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if not weight.any():
            weight.normal_(0, 0.02, generator=generator)
    return model


def measure(model: Classifier, images: Tensor, quantizer: str, device: str) -> tuple[str, bool]:
    """Quantize, pack, load and compare; return the line, and whether all is as it must be."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronize(device)
    started = time.perf_counter()
    made = quantize(model, images, QuantizeConfig(BITS, quantizer))
    synchronize(device)
    seconds = time.perf_counter() - started
    memory = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0
    tested = images[:TESTED]
    wanted = logits(made.model, tested)
    with lower_precision(device):
        same = torch.equal(logits(made.model, tested), wanted)
        control = relative_error(_plainly(model, tested), logits(model, tested))
        there, here = _loaded(made, tested, device)  # `pack` and `load` must not depend on the program's settings
    errors = relative_error(there, wanted), relative_error(here, wanted.cpu())
    found = f"{seconds:.2f} s, {memory:,.0f} MB, loaded {errors[0]:.2g} (on the CPU {errors[1]:.2g})"
    line = f"{model.arch} {quantizer}: {len(made.layers)} layers, {found}, same bits {same} (control {control:.2g})"
    return line, same and max(errors) <= LARGEST_ERROR


def _loaded(made: Quantized, images: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """The logits of the packed file's network, on the device and on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "packed.safetensors"
        pack(made, file)
        loaded = load(file)
    here = logits(loaded, images.cpu())
    return logits(loaded.to(device), images), here


@torch.inference_mode()
def _plainly(model: nn.Module, images: Tensor) -> Tensor:
    """The logits as the program's settings have them."""
    answer: Tensor = model(images.float() / 255)
    return answer.float()


def main() -> int:
    """Print the lines and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archs", nargs="*", default=ARCHS, metavar="ARCH", help="default: six")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=256, help="calibration images (default: 256)")
    parser.add_argument("--size", type=int, default=224, help="pixels of a side of the images (default: 224)")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: PyTorch finds no GPU here; use --device cpu", file=sys.stderr)
        return 2
    generator = torch.Generator().manual_seed(0)
    shape = (options.images, 3, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(options.device)
    status = 0
    for arch in options.archs:
        for quantizer in QUANTIZERS:
            try:
                line, holds = measure(network(arch, options.size).to(options.device), images, quantizer, options.device)
            except Exception as error:  # the next network is tried nevertheless
                line, holds = f"{arch} {quantizer}: {type(error).__name__}: {error}", False
            print(line, flush=True)
            status = status if holds else 1
    return status


if __name__ == "__main__":
    sys.exit(main())
