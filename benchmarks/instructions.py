"""Where bf16 is faster than float32: training and forward passes, by the instructions that oneDNN may use.

    python -m benchmarks.instructions

The evidence for `kdq.distill.precision`, from any one processor: `ONEDNN_MAX_CPU_ISA` takes instructions away from
oneDNN, in a process each. Random images, one thread, in images a second of its processor time; float32 and bf16 take
turns.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from benchmarks.report import ROOT, circumstances, publish, summary
from kdq.data.augment import View
from kdq.distill.recipe import PRECISIONS, autocast
from kdq.distill.teacher_logits import ForwardTeacher
from kdq.models.classifier import Classifier, Normalization, build

INSTRUCTIONS = {"all": "DEFAULT", "no bf16 instructions": "AVX512_CORE_VNNI", "AVX2": "AVX2"}
"""Name -> the value of ONEDNN_MAX_CPU_ISA."""
CPU = torch.device("cpu")
NORMALIZATION = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def model(arch: str) -> Classifier:
    return build(arch, classes=10, normalization=NORMALIZATION, seed=0).to(memory_format=torch.channels_last)


def training(arch: str, precision: str, view: View) -> Callable[[], object]:
    """Return a function that runs the forward and the backward pass of a view."""
    student = model(arch).train()

    def step() -> None:
        student.zero_grad()
        with autocast(CPU, precision):
            logits = student(view.images)
        cross_entropy(logits.float(), view.labels).backward()  # type: ignore[no-untyped-call]

    return step


def forward(arch: str, precision: str, view: View) -> Callable[[], object]:
    """Return a function that runs a teacher on a view."""
    teach = ForwardTeacher(model(arch), precision)
    return lambda: teach(view)


WORK = {
    "ResNet-20, training": (training, "resnet20", 128),
    "ResNet-18, training": (training, "resnet18", 32),
    "ResNet-56, forward": (forward, "resnet56", 128),
}
"""Name -> what runs, on which architecture, on how many images."""


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the images a second of each kind of work in each precision and round."""
    torch.set_num_threads(1)
    found = {}
    for name, (make, arch, count) in WORK.items():
        images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        index = torch.arange(count)
        view = View(0, index, images.to(memory_format=torch.channels_last), index % 10)
        runs = {precision: make(arch, precision, view) for precision in PRECISIONS}
        rates: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        for number in range(rounds + 1):
            for precision, run in runs.items():
                started = time.process_time()
                run()
                if number:  # the first warms up
                    rates[precision].append(count / (time.process_time() - started))
        found[name] = rates
    return found


def measured(isa: str, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    """Return `measure` of a process whose oneDNN has these instructions at most."""
    command = [sys.executable, "-m", "benchmarks.instructions", "--measure", "--rounds", str(rounds)]
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: Mapping[str, Mapping[str, list[float]]] = json.loads(done.stdout)
    return found


def main() -> None:
    options = _options()
    if options.measure:
        print(json.dumps(measure(options.rounds)))
        return
    head = {"unit": "images/s of processor time", **circumstances(1)}
    rows: list[dict[str, Any]] = []
    for name, isa in INSTRUCTIONS.items():
        for work, rates in measured(isa, options.rounds).items():
            before = summary(rates["float32"])["median"]
            for precision, values in rates.items():
                row = {"oneDNN may use": name, "ONEDNN_MAX_CPU_ISA": isa, "work": work, "precision": precision}
                found = summary(values)
                rows.append(row | found | {"x float32": found["median"] / before})
    publish("instructions", head, rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="timings of each (default: 5)")
    parser.add_argument("--measure", action="store_true", help="measure with this process's instructions, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
