"""The paper's study on a GPU that is available for minutes, in calls that resume where the last one stopped.

    python -m benchmarks.gpu prepare --data-dir DIR --target FOLDER     beforehand, where everything is installed
    python -m benchmarks.gpu run --parts FOLDER/1 --work DIR --output DIR --seconds 500     on the GPU's machine
    python -m benchmarks.gpu collect --parts FOLDER/3 --work DIR        there, to bring more without running anything

`run` needs torch and torchvision alone. It measures how fast the GPU trains and quantizes, checks that it computes what
the CPU does, trains the teacher and a student for each row of the paper's table, and quantizes all of them; docs/gpu.md
has the order of calls.
"""

import argparse
import os
import shutil
import sys
import threading
import time
from io import TextIOWrapper
from multiprocessing import active_children
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu import STARTED

if TYPE_CHECKING:
    from benchmarks.gpu.output import Output
    from benchmarks.gpu.rows import Pace
    from benchmarks.gpu.settings import Clock, Settings

SPARE = 10.0  # seconds before the end of a call in which nothing new is begun, at most a tenth of it
NEEDED = 12  # bytes that must be free in the work folder for each that was brought: decoded images, training states


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
    if missing := [folder for folder in options.parts if not folder.is_dir()]:
        print(f"--parts {missing[0]}: there is no such folder; name one that `prepare` wrote", file=sys.stderr)
        return 2
    if not has_room(options.work, options.parts):
        return 2
    collect(options.parts, options.work / "parts")
    if options.command == "collect":
        return 0
    sys.path.insert(0, str(options.work / "parts" / "site"))  # before any import of kdq
    return call(options)


def has_room(work: Path, sources: list[Path]) -> bool:
    """Whether the folder that stays between calls has enough space for what was brought; the space is printed."""
    (work / "parts").mkdir(parents=True, exist_ok=True)
    files = {file.relative_to(folder): file for folder in (work / "parts", *sources) for file in folder.rglob("*")}
    needed = NEEDED * sum(file.stat().st_size for file in files.values() if file.is_file())
    free = shutil.disk_usage(work).free
    print(f"{work}: {free / 1e9:.1f} GB free")
    if free < needed:
        print(f"--work {work}: must have {needed / 1e9:.1f} GB free; give a folder on a larger disk", file=sys.stderr)
    return free >= needed


def collect(sources: list[Path], parts: Path) -> None:
    """Copy what came with this call to what came with earlier ones."""
    parts.mkdir(parents=True, exist_ok=True)
    for source in sources:
        shutil.copytree(source, parts, dirs_exist_ok=True)


def stop_at(end: float, errors: list[str]) -> None:
    """End the program when its time is up, whatever it does then: all that is finished is stored already."""

    def stop() -> None:
        print("stopped: the time is up", flush=True)
        for child in active_children():
            child.kill()
        os._exit(1 if errors else 0)

    timer = threading.Timer(end - time.monotonic(), stop)
    timer.daemon = True
    timer.start()


def call(options: argparse.Namespace) -> int:
    """Do what is missing and possible; 1 if anything fails or the GPU computes something else than the CPU, else 0."""
    from benchmarks.gpu.output import Output

    output = Output(options.work / "output", options.output)
    stop_at(STARTED + options.seconds, output.errors)  # before torch is imported, which takes seconds
    output.continue_from(options.work / "parts")

    import torch

    from benchmarks.gpu import rows
    from benchmarks.gpu.parts import missing
    from benchmarks.gpu.settings import DATASETS, Clock, TimeUp

    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; training uses bf16
    settings = make_settings(options)
    clock = Clock(options.seconds - min(SPARE, 0.1 * options.seconds), STARTED)
    try:
        pace = measure_pace(options, settings, output, clock)
        for name in DATASETS:
            if lacking := missing(settings.parts, name):
                print(f"{name}: waits for {', '.join(lacking)}")
                continue
            if name == "cifar10" and not (check(settings, output) or options.ignore_checks):
                print("the GPU computes something else than the CPU; --ignore-checks continues")
                return 1
            rows.run(settings, name, output, pace, clock)
    except TimeUp:
        print("the time is up: call again to go on")
    return 1 if output.errors else 0


def measure_pace(options: argparse.Namespace, settings: "Settings", output: "Output", clock: "Clock") -> "Pace":
    """How fast the card trains and quantizes, measured once."""
    from benchmarks.gpu import quantizing, speed
    from benchmarks.gpu.plan import Rates
    from benchmarks.gpu.rows import Pace
    from benchmarks.gpu.settings import TimeUp

    if "speed" not in output.measurements:
        output.measure("speed", {"card": _card(settings.device), **speed.measure(settings)})
    if "quantizing" not in output.measurements:
        try:
            output.measure("quantizing", quantizing.time_points(settings, clock))
        except TimeUp:
            raise
        except Exception as error:
            output.fail("quantizing", error)
    speeds, points = (output.measurements.get(name, {}) for name in ("speed", "quantizing"))
    for key, value in (speeds | points).items():
        print(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    epochs = options.epochs and (options.epochs[0], options.epochs[1])
    return Pace(speeds["at_once"], Rates.of(speeds, points), options.dataset_seconds, epochs)


def _card(device: str) -> str:
    import torch

    from benchmarks.report import processor

    return torch.cuda.get_device_name() if device == "cuda" else processor()


def check(settings: "Settings", output: "Output") -> bool:
    """Whether the GPU computes what the CPU does, but for differences that are not gross; asked once."""
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
    return not any(row["gross"] for row in rows)


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
    collect = commands.add_parser("collect", help="copy what came with this call, and no more")
    run = commands.add_parser("run", help="do what is missing")
    collect.add_argument("--parts", type=Path, nargs="+", required=True, help="folders that came with this call")
    run.add_argument("--parts", type=Path, nargs="*", default=[], help="folders that came with this call, if any")
    for command in (collect, run):
        command.add_argument("--work", type=Path, required=True, help="folder that stays between calls; best in memory")
    run.add_argument("--output", type=Path, required=True, help="folder to bring back; may be empty at each call")
    run.add_argument("--seconds", type=float, required=True, help="time of this call")
    run.add_argument(
        "--dataset-seconds",
        type=float,
        default=400,
        help="time for a data set, which decides its epochs (default: 400)",
    )
    run.add_argument(
        "--epochs", type=int, nargs=2, metavar=("TEACHER", "STUDENT"), help="instead of as many as fit the time"
    )
    run.add_argument("--ignore-checks", action="store_true", help="continue although the GPU computes something else")
    run.add_argument("--device", default="cuda")
    _add_settings(run)
    return parser.parse_args()


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", default="resnet50")
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=512, help="of students (default: 512)")
    parser.add_argument("--teacher-batch-size", type=int, default=256, help="default: 256")
    parser.add_argument("--train-images", type=int, help="default: all; the batch size for one step an epoch")
    parser.add_argument("--val-images", type=int, default=5000)
    parser.add_argument("--test-images", type=int, help="default: all")
    parser.add_argument("--bits", type=int, nargs="+", default=range(1, 9))
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument(
        "--workers", type=int, default=4, help="processes that quantize beside the training (default: 4)"
    )


if __name__ == "__main__":
    sys.exit(main())
