"""Time and memory to quantize complete models, by quantizer, beside Brevitas' GPTQ if asked for.

    python -m benchmarks.whole_models [--archs resnet20,resnet56,resnet18,resnet50] [--bits 2]
    python -m benchmarks.whole_models --archs torchvision:resnet50,torchvision:vit_b_16 --size 224 --images 256 \
        --bits 4 --quantizers least_squares,gptq --peer

Initial weights and random images: time and memory depend on neither, so no data is needed. Every layer is quantized,
the first and the last too; times are from the float model to the quantized one, over `n` rounds in which the quantizers
take turns, each in a process of its own. `processor` is the time of all its threads, `MB` its largest resident memory,
PyTorch and the float model included. --peer adds Brevitas' GPTQ (extra `benchmarks`), used as in
benchmarks/brevitas_peer.py, on the same layers: batch norms folded, attention opened.
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median

import torch

from benchmarks.report import circumstances, publish, summary
from kdq.errors import UserError
from kdq.models.checkpoint import IMAGENET
from kdq.models.classifier import build
from kdq.models.graph import fold
from kdq.pack.size import total_bits
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize

QUANTIZERS = ("least_squares", "gpfq", "gptq", "rtn")
PEER = "brevitas gptq"


@dataclass(frozen=True, slots=True)
class Job:
    """One quantization of one model."""

    arch: str
    quantizer: str
    bits: int
    images: int
    size: int
    threads: int


@dataclass(frozen=True, slots=True)
class Cost:
    """seconds: by the clock; processor: of all threads; mb: the process' largest resident memory; size: total bits, 0
    for the peer, which has no packed file."""

    seconds: float
    processor: float
    mb: float
    size: int


def quantize_once(job: Job) -> Cost:
    """Quantize a new model; this process must have done nothing else, since its memory is what is measured."""
    torch.set_num_threads(job.threads)
    images = torch.randint(0, 256, (job.images, 3, job.size, job.size), dtype=torch.uint8)
    model = build(job.arch, classes=10, normalization=IMAGENET, seed=0).eval()
    started, worked = time.perf_counter(), time.process_time()
    if job.quantizer == PEER:
        from benchmarks.brevitas_peer import brevitas

        with torch.no_grad():
            brevitas("gptq", fold(model), images, job.bits)
        size = 0
    else:
        size = total_bits(quantize(model, images, QuantizeConfig(job.bits, job.quantizer)))
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    return Cost(seconds, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, size)


def in_a_process(job: Job) -> Cost:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        cost = pool.submit(quantize_once, job).result()
    print(f"{job.arch}  {job.quantizer}  {cost.seconds:.1f} s  {cost.processor:.1f} s  {cost.mb:.0f} MB", flush=True)
    return cost


def measure(arch: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """Return a row for each quantizer; ratios are of medians, to the first."""
    names = [*options.quantizers.split(","), *([PEER] if options.peer else [])]
    settings = options.bits, options.images, options.size, options.threads
    costs: dict[str, list[Cost]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name, found in costs.items():
            found.append(in_a_process(Job(arch, name, *settings)))
    first = median(cost.seconds for cost in costs[names[0]])
    rows: list[dict[str, object]] = []
    for name, found in costs.items():
        times = summary([cost.seconds for cost in found])
        memory, processor = max(cost.mb for cost in found), median(cost.processor for cost in found)
        own = {"arch": arch, "bits": options.bits, "total bits": found[0].size or "", "quantizer": name, **times}
        rows.append({**own, "x first": times["median"] / first, "processor": processor, "MB": memory})
    return rows


def main() -> None:
    options = _options()
    if options.peer and find_spec("brevitas") is None:
        raise UserError("Brevitas is not installed: pip install '.[benchmarks]' (you can use a separate environment)")
    images = {"images": str(options.images), "size": str(options.size)}
    head = {"unit": "s", **images, **circumstances(options.threads)}
    publish("whole_models", head, [row for arch in options.archs.split(",") for row in measure(arch, options)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.whole_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--archs", default="resnet20,resnet56,resnet18,resnet50", help="default: all four")
    parser.add_argument("--quantizers", default=",".join(QUANTIZERS), help="default: all four")
    parser.add_argument("--peer", action="store_true", help="measure Brevitas' GPTQ too")
    parser.add_argument("--bits", type=int, default=2, help="width (default: 2)")
    parser.add_argument("--images", type=int, default=512, help="calibration images (default: 512)")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side of the images (default: 32)")
    parser.add_argument("--rounds", type=int, default=1, help="timings of each (default: 1)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
