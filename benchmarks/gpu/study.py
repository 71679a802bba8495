"""The study itself: a teacher, a student for each row of the paper's table, their points. Everything is a stage."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import active_children, get_context
from pathlib import Path

import torch

from benchmarks.gpu.output import Output, joined
from benchmarks.gpu.parts import join
from benchmarks.gpu.settings import TEACHER, TEACHER_METHOD, Clock, Settings, TimeUp, read_rows
from benchmarks.gpu.speed import together
from kdq.bits import FLOAT_BITS, Allocation
from kdq.data.augment import Views
from kdq.data.dataset import Dataset, open_dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.teacher_logits import TeacherLogits, TeacherLogitsCache, forward_teacher
from kdq.models.checkpoint import Checkpoint, load, save
from kdq.models.classifier import Classifier
from kdq.pipeline.point import PACKED_FILE, PointSpec, measure, measured
from kdq.pipeline.student import StudentSpec, distill, load_student
from kdq.quantize.config import QuantizerSpec
from kdq.store.files import content_hash
from kdq.store.folder_store import StageStore
from kdq.store.stage import Json, digest

MARGIN = 1.3  # an epoch may take so much longer than the one before it
THREADS = 2  # of a process that quantizes: the GPU computes
Measured = dict[str, Json]


@cache
def dataset(settings: Settings, name: str) -> Dataset:
    """The data set on the device; its parts must be there."""
    folder = join(settings.parts, name, StageStore(settings.work / "store"))
    data = open_dataset(folder, train_images=settings.train_images, val_images=settings.val_images)
    if (count := settings.test_images) is not None:
        own = digest([data.fingerprint, count])
        data = replace(
            data, test_images=data.test_images[:count], test_labels=data.test_labels[:count], fingerprint=own
        )
    return data.to(settings.device)


@dataclass(frozen=True)
class Study:
    """The rows of one data set."""

    settings: Settings
    name: str

    @property
    def store(self) -> StageStore:
        return StageStore(self.settings.work / "store")

    @property
    def data(self) -> Dataset:
        return dataset(self.settings, self.name)

    @property
    def rows(self) -> dict[str, MethodConfig | None]:
        return read_rows(self.settings.parts, self.name)

    @property
    def teacher_file(self) -> Path:
        """The teacher's weights in float16, which is what teaches, here and in a later call elsewhere."""
        return self.settings.work / f"teacher-{self.name}.safetensors"

    def teacher_spec(self) -> StudentSpec:
        recipe = self.settings.recipe(self.settings.teacher_epochs)
        return StudentSpec(self.data.fingerprint, None, self.settings.teacher, TEACHER_METHOD, recipe, 0)

    def student_spec(self, method: MethodConfig) -> StudentSpec:
        recipe = self.settings.recipe(self.settings.student_epochs)
        teacher = self.teacher_id if method.method.needs_teacher else None
        return StudentSpec(self.data.fingerprint, teacher, self.settings.student, method, recipe, 0)

    @property
    def teacher_id(self) -> str:
        return digest({"arch": self.settings.teacher, "sha256": content_hash(self.teacher_file)})

    def teacher(self) -> Classifier:
        checkpoint = Checkpoint(self.settings.teacher, self.teacher_file)
        model = load(checkpoint, classes=self.data.classes, normalization=self.data.normalization)
        return model.to(self.settings.device)

    def model(self, row: str) -> tuple[Classifier, str]:
        """The model that a row quantizes, and its id."""
        method = self.rows[row]
        if method is None:
            return self.teacher(), self.teacher_id
        spec = self.student_spec(method)
        student = load_student(self.store.path(spec.stage()), spec, self.data)
        return student.to(self.settings.device), spec.stage().id

    def logits(self, method: MethodConfig) -> TeacherLogits | None:
        """The teacher's logits, which rows with the same views share."""
        if not method.method.needs_teacher:
            return None
        recipe = self.settings.recipe(self.settings.student_epochs)
        views = Views(
            self.data.train_images,
            self.data.train_labels,
            recipe.augment,
            stream_seed=0,
            fill=self.data.normalization.mean,
            mixup_alpha=method.teacher_mixup_alpha,
        )

        def teach() -> TeacherLogits:
            return forward_teacher(self.teacher(), recipe.precision)

        return TeacherLogitsCache(
            self.store, teach, self.teacher_id, self.data, views, precision=recipe.precision, bound=1 << 40
        )


def train(study: Study, row: str, clock: Clock) -> dict[str, float]:
    """Train the teacher or a row's student, unless it is there. Raises TimeUp between epochs.

    Returns the seconds of all epochs, and images a second and validation accuracy of the last.
    """
    method = study.rows[row]
    spec = study.teacher_spec() if method is None else study.student_spec(method)
    teacher = partial(study.logits, method) if method else lambda: None
    total, metrics = 0.0, dict[str, float]()
    for epoch in distill(study.store, spec, lambda: study.data, teacher):
        metrics = dict(epoch.metrics)
        total += metrics["seconds"]
        if epoch.model is None:
            continue  # trained by an earlier call
        seconds, accuracy = epoch.metrics["seconds"], epoch.metrics["val_top1"]
        print(f"{study.name} {row}: epoch {epoch.number}/{spec.train.epochs}, {accuracy:.2f} %, {seconds:.3f} s")
        if epoch.number < spec.train.epochs:
            clock.need(MARGIN * seconds)
    return {"seconds": total, "images_per_s": metrics["images_per_s"], "val_top1": metrics["val_top1"]}


def train_teacher(study: Study, output: Output, clock: Clock) -> None:
    """Make the file of the teacher's weights: trained here, or by an earlier call that brought it back."""
    if study.teacher_file.exists() or joined(study.settings.parts, study.teacher_file):
        return
    output.measure(f"{study.name} {TEACHER}", train(study, TEACHER, clock))
    spec = study.teacher_spec()
    save(load_student(study.store.path(spec.stage()), spec, study.data).half(), study.teacher_file)
    output.keep(study.teacher_file)


def quantize(settings: Settings, name: str, row: str, bits: Sequence[int]) -> list[tuple[Measured, Path]]:
    """The points of a row at some widths, with their packed files; what the store has is only read."""
    torch.backends.cudnn.allow_tf32 = False
    study = Study(settings, name)
    model, model_id = study.model(row)
    specs = [
        PointSpec(
            model_id,
            study.data.fingerprint,
            Allocation.uniform(width),
            QuantizerSpec(),
            settings.calibration_images,
            0,
        )
        for width in bits
    ]
    own = {"dataset": name, "row": row, "student": model.arch}
    points = []
    for spec, folder in measure(study.store, specs, lambda: model, lambda: study.data):
        points.append(({**own, "bits": spec.bits.column, **measured(folder)}, folder / PACKED_FILE))
    return points


def _pool(workers: int) -> ProcessPoolExecutor:
    spawn = get_context("spawn")  # a forked process cannot use the GPU
    return ProcessPoolExecutor(workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(THREADS,))


class Quantizing:
    """Quantizes rows in processes beside the training: many small kernels, whose launches keep one core busy each."""

    def __init__(self, settings: Settings, output: Output) -> None:
        self.settings, self.output = settings, output
        self.pool = _pool(settings.workers) if settings.workers else None
        self.running: list[Future[list[tuple[Measured, Path]]]] = []

    def start(self, name: str, row: str) -> None:
        """Quantize what a row lacks, a width a task; without processes, now."""
        for width in (FLOAT_BITS, *self.settings.bits):
            if self.output.has(name, row, width):
                continue
            if self.pool:
                self.running.append(self.pool.submit(quantize, self.settings, name, row, [width]))
            else:
                self._add(quantize(self.settings, name, row, [width]))

    def collect(self, clock: Clock) -> None:
        """Wait for all points. Raises TimeUp, and any error of a process."""
        try:
            for future in as_completed(self.running, timeout=max(0, clock.left)):
                self._add(future.result())
        except TimeoutError:
            raise TimeUp from None
        self.running = []

    def collect_finished(self) -> None:
        for future in [future for future in self.running if future.done()]:
            self._add(future.result())
            self.running.remove(future)

    def _add(self, points: Sequence[tuple[Measured, Path]]) -> None:
        for point, packed in points:
            if not self.output.has(str(point["dataset"]), str(point["row"]), int(point["bits"])):
                self.output.add(point, packed)
                print(f"{point['dataset']} {point['row']}: {point['bits']} bits, test {point['test_top1']:.2f} %")

    def stop(self) -> None:
        """End the processes at once; stages are complete or not there."""
        if self.pool:
            self.pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.kill()


def run(settings: Settings, name: str, output: Output, at_once: int, clock: Clock) -> None:
    """Everything for one data set, each step unless it is there. Raises TimeUp."""
    study, quantizing = Study(settings, name), Quantizing(settings, output)
    print(f"{name}: {len(study.data.train_images):,} training images")  # loaded here, before threads share it
    try:
        train_teacher(study, output, clock)
        quantizing.start(name, TEACHER)
        for group in _groups(list(_unfinished(study, output)), at_once):
            trained = together([partial(train, study, row, clock) for row in group], at_once, settings.device)
            for row, metrics in zip(group, trained, strict=True):
                output.measure(f"{name} {row}", metrics)
                clock.need(0)
                quantizing.start(name, row)
            quantizing.collect_finished()
        quantizing.collect(clock)
        output.drop(study.teacher_file)
    finally:
        quantizing.collect_finished()
        quantizing.stop()


def _unfinished(study: Study, output: Output) -> Iterator[str]:
    widths = (FLOAT_BITS, *study.settings.bits)
    for row, method in study.rows.items():
        if method is not None and not all(output.has(study.name, row, width) for width in widths):
            yield row


def _groups(rows: Sequence[str], size: int) -> list[Sequence[str]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
