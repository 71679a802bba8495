"""The points of the rows: quantized in processes on the GPU, beside the training.

Not on the CPU: a point of a ResNet-18, with 512 calibration images and 15,000 to evaluate, takes about ten minutes of a
core of an AMD EPYC (270 s to quantize, 350 s to evaluate), and a data set has 54 of them, and 9 of a ResNet-50. On a
GPU it is mostly the launch of a million small kernels, which keeps one core a process busy.
"""

from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import mean
from time import perf_counter
from types import TracebackType
from typing import Self

import torch

from benchmarks.gpu.output import Output
from benchmarks.gpu.settings import Clock, Settings, TimeUp
from benchmarks.gpu.speed import random_data, random_model, synchronize
from benchmarks.gpu.study import Study
from kdq.bits import Allocation
from kdq.models.evaluate import logits
from kdq.pipeline.point import PACKED_FILE, PointSpec, measure, measured
from kdq.quantize.config import QuantizeConfig, QuantizerSpec
from kdq.quantize.model import quantize_many
from kdq.store.stage import Json

THREADS = 1  # of a process that quantizes: the GPU computes
BITS = 4  # of the point that is timed
TEST_IMAGES = 10_000
Measured = dict[str, Json]


def quantize(study: Study, row: str, bits: Sequence[int]) -> list[tuple[Measured, Path]]:
    """The points of a row at some widths, with their packed files; what the store has is only read."""
    torch.backends.cudnn.allow_tf32 = False
    model, model_id = study.model(row)
    data, quantizer, images = study.data, QuantizerSpec(), study.settings.calibration_images
    specs = [
        PointSpec(model_id, data.fingerprint, Allocation.uniform(width), quantizer, images, seed=0) for width in bits
    ]
    own = {"dataset": study.name, "row": row, "student": model.arch}
    points = []
    for spec, folder in measure(study.store, specs, lambda: model, lambda: data):
        points.append(({**own, "bits": spec.bits.column, **measured(folder)}, folder / PACKED_FILE))
    return points


def _pool(workers: int) -> ProcessPoolExecutor:
    spawn = get_context("spawn")  # a forked process cannot use the GPU
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(THREADS,))


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the processes at once; stages are complete or not there."""
    pool.shutdown(wait=False, cancel_futures=True)
    for process in active_children():
        process.kill()


def point_seconds(settings: Settings) -> float:
    """Seconds of a point of the student, with random weights and images: quantized once, evaluated once."""
    torch.backends.cudnn.allow_tf32 = False
    others = max(settings.val_images, settings.test_images or TEST_IMAGES)
    model, data = random_model(settings, settings.student), random_data(settings, settings.calibration_images, others)
    images = data.train_images
    quantize_many(model, images[:8], [QuantizeConfig(BITS, "rtn")])  # loads what the GPU's libraries load once
    synchronize(settings.device)
    started = perf_counter()
    [quantized] = quantize_many(model, images, [QuantizeConfig(BITS, QuantizerSpec().method)])
    for part in (data.val_images[: settings.val_images], data.test_images):
        logits(quantized.model, part)
    synchronize(settings.device)
    return perf_counter() - started


def time_points(settings: Settings, clock: Clock) -> dict[str, float]:
    """Seconds of a point beside others in all processes, and of a point in total. Raises TimeUp."""
    pool = _pool(settings.workers)
    try:
        running = [pool.submit(point_seconds, settings) for _ in range(settings.workers)]
        seconds = mean(future.result(max(0, clock.left)) for future in running)
    except TimeoutError:
        raise TimeUp from None
    finally:
        _stop(pool)
    return {"workers": settings.workers, "seconds_in_a_process": seconds, "seconds_a_point": seconds / settings.workers}


class Quantizing:
    """Quantizes rows in processes; a point that fails is noted, and the others go on."""

    def __init__(self, study: Study, output: Output) -> None:
        self.study, self.output = study, output
        self.pool = _pool(study.settings.workers)
        self.running: dict[Future[list[tuple[Measured, Path]]], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.collect_finished()
        finally:
            _stop(self.pool)

    def start(self, row: str) -> None:
        """Quantize what a row lacks, a width a task."""
        for width in self.study.settings.widths:
            if not self.output.has(self.study.name, row, width):
                what = f"{self.study.name} {row} at {width} bits"
                try:
                    self.running[self.pool.submit(quantize, self.study, row, [width])] = what
                except BrokenExecutor as broken:  # a process was killed: all points wait for the next call
                    self.output.fail(what, broken)

    def collect(self, clock: Clock) -> None:
        """Wait for all points. Raises TimeUp."""
        try:
            for future in as_completed(list(self.running), timeout=max(0, clock.left)):
                self._add(future)
        except TimeoutError:
            raise TimeUp from None

    def collect_finished(self) -> None:
        for future in [future for future in self.running if future.done()]:
            self._add(future)

    def _add(self, future: Future[list[tuple[Measured, Path]]]) -> None:
        what = self.running.pop(future)
        if error := future.exception():
            self.output.fail(what, error)
            return
        for point, packed in future.result():
            self.output.add(point, packed)
            print(f"{point['dataset']} {point['row']}: {point['bits']} bits, test {point['test_top1']:.2f} %")
