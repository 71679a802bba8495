"""Where a GPU's time goes: training steps without a teacher by batch size, and a point alone.

python -m benchmarks.gpu.steps [--device cuda]     on the GPU's machine, in about a minute
"""

import argparse
import time
from pathlib import Path

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.quantizing import point_seconds
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.speed import STEPS, synchronize, trainers
from kdq.distill.trainer import Trainer

TRAININGS = (("resnet18", 256), ("resnet18", 512), ("resnet18", 1024), ("resnet50", 512))


def milliseconds(settings: Settings, arch: str, batch_size: int) -> tuple[float, float, float]:
    """Of a step: milliseconds by the clock, those in which the GPU computes, and the kernels that it runs."""
    (trainer,) = trainers(settings, arch, "ce", 1, batch_size)
    walls, steps = [], STEPS[settings.device]
    for _ in range(3):  # the first loads what the GPU's libraries load once
        started = time.perf_counter()
        _epoch(trainer, settings.device)
        walls.append(time.perf_counter() - started)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        _epoch(trainer, settings.device)
    kernels = [event for event in found.events() or () if event.device_type == DeviceType.CUDA]
    computing = sum(event.time_range.elapsed_us() for event in kernels) / 1e3
    return 1e3 * min(walls[1:]) / steps, computing / steps, len(kernels) / steps


def _epoch(trainer: Trainer, device: str) -> None:
    trainer._train_epoch()
    trainer.epoch += 1
    synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    settings = Settings(Path(), parser.parse_args().device)
    for arch, batch_size in TRAININGS:
        wall, computing, kernels = milliseconds(settings, arch, batch_size)
        rate = 1e3 * batch_size / wall
        step = f"{wall:.1f} ms a step, of which the GPU computes {computing:.1f}, {kernels:.0f} kernels"
        print(f"{arch}, {batch_size} a batch: {rate:,.0f} images/s, {step}")
    for _ in range(2):
        print(f"a point alone: {point_seconds(settings):.2f} s")


if __name__ == "__main__":
    main()
