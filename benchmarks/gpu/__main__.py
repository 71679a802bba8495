"""The paper's study on a GPU that is at hand for minutes, in calls that go on where the last one stopped.

    python -m benchmarks.gpu prepare --data-dir DIR --target FOLDER     beforehand, where everything is installed
    python -m benchmarks.gpu run --parts FOLDER/1 --work DIR --output DIR --seconds 500     on the GPU's machine

`run` needs torch and torchvision alone. It checks that the GPU computes what the CPU does, measures how fast it trains,
trains the teacher and a student for each row of the paper's table, and quantizes all of them; docs/gpu.md has the order
of calls.
"""

import argparse
import os
import shutil
import sys
import threading
from io import TextIOWrapper
from multiprocessing import active_children
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.gpu.output import Output
    from benchmarks.gpu.settings import Settings

SPARE = 10.0  # seconds before the end of a call in which nothing new is begun, at most a tenth of it


def main() -> int:
    options = _options()
    assert isinstance(sys.stdout, TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True)  # the end of a call may come at any line
    if options.command == "prepare":
        from benchmarks.gpu.prepare import prepare

        for folder in prepare(options.data_dir, options.target, options.part_mb * 1_000_000):
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            print(f"{folder}: {size / 1e6:.1f} MB")
        return 0
    collect(options.parts, options.work / "parts")
    sys.path.insert(0, str(options.work / "parts" / "site"))  # before any import of kdq
    stop_at(options.seconds)
    return call(options)


def collect(sources: list[Path], parts: Path) -> None:
    """Copy what came with this call to what came with earlier ones."""
    parts.mkdir(parents=True, exist_ok=True)
    for source in sources:
        shutil.copytree(source, parts, dirs_exist_ok=True)


def stop_at(seconds: float) -> None:
    """End the program when its time is up, whatever it does then: all that is finished is stored already."""

    def stop() -> None:
        print("stopped: the time is up", flush=True)
        for child in active_children():
            child.kill()
        os._exit(0)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()


def call(options: argparse.Namespace) -> int:
    """Do what is missing and possible; 1 if the GPU computes something else than the CPU, else 0."""
    import torch

    from benchmarks.gpu import study
    from benchmarks.gpu.output import Output
    from benchmarks.gpu.parts import missing
    from benchmarks.gpu.settings import DATASETS, Clock, TimeUp

    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; training uses bf16
    settings, output = make_settings(options), Output(options.output)
    output.continue_from(settings.parts)
    clock = Clock(options.seconds - min(SPARE, 0.1 * options.seconds))
    try:
        at_once = int(measure_speed(settings, output)["at_once"])
        for name in DATASETS:
            if lacking := missing(settings.parts, name):
                print(f"{name}: waits for {', '.join(lacking)}")
                continue
            if name == "cifar10" and not check(settings, output):
                return 1
            study.run(settings, name, output, at_once, clock)
            print(f"{name}: finished")
    except TimeUp:
        print("the time is up: call again to go on")
    return 0


def measure_speed(settings: "Settings", output: "Output") -> dict[str, float]:
    from benchmarks.gpu import speed

    if "speed" not in output.measurements:
        output.measure("speed", {"card": _card(settings.device), **speed.measure(settings)})
    found: dict[str, float] = output.measurements["speed"]
    print(
        "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
        )
    )
    return found


def _card(device: str) -> str:
    import torch

    from benchmarks.report import processor

    return torch.cuda.get_device_name() if device == "cuda" else processor()


def check(settings: "Settings", output: "Output") -> bool:
    """Whether the GPU computes what the CPU does; asked once."""
    import numpy as np

    from benchmarks.gpu.checks import EXPECTED, compare, evidence
    from benchmarks.gpu.parts import join
    from kdq.store.folder_store import StageStore

    if "checks" not in output.measurements:
        checkpoint = next(settings.parts.glob("*.th"))
        stage = join(settings.parts, "cifar10", StageStore(settings.work / "store"))
        with np.load(settings.parts / EXPECTED) as expected:
            rows = compare(evidence(checkpoint, stage, settings.device), dict(expected))
        output.measure("checks", rows)
    rows = output.measurements["checks"]
    for row in rows:
        print("check {check}: difference {difference:.3g}, allowed {allowed}: {holds}".format(**row))
    return all(row["holds"] for row in rows)


def make_settings(options: argparse.Namespace) -> "Settings":
    from dataclasses import fields

    from benchmarks.gpu.settings import Settings

    own = {field.name: getattr(options, field.name) for field in fields(Settings)}
    return Settings(**{**own, "bits": tuple(options.bits)})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="write what travels, a folder a call")
    prepare.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10, CIFAR-100, checkpoints/")
    prepare.add_argument("--target", type=Path, required=True, help="new folder to write to")
    prepare.add_argument("--part-mb", type=int, default=50, help="largest part of a data set (default: 50 MB)")
    run = commands.add_parser("run", help="do what is missing")
    run.add_argument("--parts", type=Path, nargs="*", default=[], help="folders that came with this call")
    run.add_argument("--work", type=Path, required=True, help="folder that stays between calls, in memory if possible")
    run.add_argument("--output", type=Path, required=True, help="folder to bring back")
    run.add_argument("--seconds", type=float, required=True, help="time of this call")
    run.add_argument("--device", default="cuda")
    _add_settings(run)
    return parser.parse_args()


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--teacher-epochs", type=int, default=40)
    parser.add_argument("--student-epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--train-images", type=int, help="default: all; the batch size for one step an epoch")
    parser.add_argument("--val-images", type=int, default=5000)
    parser.add_argument("--test-images", type=int, help="default: all")
    parser.add_argument("--bits", type=int, nargs="+", default=range(1, 9))
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--workers", type=int, default=6, help="processes that quantize beside the training; 0: none")


if __name__ == "__main__":
    sys.exit(main())
