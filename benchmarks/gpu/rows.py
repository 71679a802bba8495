"""A data set from its first epoch to its last point, each step unless it is there."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from benchmarks.gpu import plan
from benchmarks.gpu.output import Output
from benchmarks.gpu.quantizing import Quantizing
from benchmarks.gpu.settings import TEACHER, Clock, Settings, TimeUp, read_rows
from benchmarks.gpu.streams import as_finished
from benchmarks.gpu.study import Study, dataset, train, train_teacher
from kdq.distill.methods import MethodConfig
from kdq.distill.trainer import Diverged

DIVERGED = "diverged"


@dataclass(frozen=True, slots=True)
class Pace:
    """How much the card does: students at once, and its rates; `seconds` is the time for a data set.

    epochs: of the teacher and the students, instead of as many as fit.
    """

    at_once: int
    rates: plan.Rates
    seconds: float
    epochs: tuple[int, int] | None = None


def run(settings: Settings, name: str, output: Output, pace: Pace, clock: Clock) -> None:
    """Train and quantize every row; a row that fails or diverges is noted, and the others go on. Raises TimeUp."""
    images = len(dataset(settings, name).train_images)  # loaded here, before threads share it
    study = Study(settings, name, *_epochs(settings, name, output, pace, images))
    print(f"{name}: {images:,} training images, {study.teacher_epochs} and {study.student_epochs} epochs")
    with Quantizing(study, output) as quantizing:
        try:
            train_teacher(study, output, clock, plan.teacher_seconds(pace.rates, images))
        except Diverged as error:
            output.fail(f"{name} {TEACHER}", error)  # without it there is no study
            return
        if rows := unfinished(study, output):
            output.keep(study.teacher_file)
        quantizing.start(TEACHER)
        is_late = train_students(study, [row for row in rows if row != TEACHER], quantizing, pace, clock)
        quantizing.collect(clock)
    if is_late:
        raise TimeUp
    if not unfinished(study, output):
        output.drop(study.teacher_file)
        print(f"{name}: finished")


def _epochs(settings: Settings, name: str, output: Output, pace: Pace, images: int) -> tuple[int, int]:
    """Epochs of the teacher and the students: decided when the data set begins, and kept."""
    key = f"{name} epochs"
    if key not in output.measurements:
        methods = _methods(settings, name).values()
        points = len(settings.widths) * (1 + len(methods))
        output.measure(key, pace.epochs or plan.fitting(pace.rates, methods, images, points, pace.seconds))
    teacher, student = output.measurements[key]
    return teacher, student


def _methods(settings: Settings, name: str) -> dict[str, MethodConfig]:
    return {row: method for row, method in read_rows(settings.parts, name).items() if method is not None}


def unfinished(study: Study, output: Output) -> list[str]:
    """The rows that lack a point, without those that have diverged."""
    return [
        row
        for row in study.rows
        if not all(output.has(study.name, row, width) for width in study.settings.widths)
        and DIVERGED not in output.measurements.get(f"{study.name} {row}", {})
    ]


def train_students(study: Study, rows: Sequence[str], quantizing: Quantizing, pace: Pace, clock: Clock) -> bool:
    """Train the rows, some at once; quantize each as soon as it is trained. Return whether the time was too short."""
    if not rows:
        return False
    images, output, is_late = len(study.data.train_images), quantizing.output, False
    expected = pace.at_once * plan.OVERHEAD * images * (pace.rates.student + pace.rates.answer)
    answer = study.answer()
    jobs = {row: partial(train, study, row, clock, answer, expected) for row in rows}
    with closing(as_finished(jobs, pace.at_once, study.settings.device, quantizing.collect_finished)) as finished:
        for row, ended in finished:
            key, error = f"{study.name} {row}", ended.exception()
            if error is None:
                output.measure(key, ended.result())
                quantizing.start(row)
            elif isinstance(error, Diverged):
                print(f"{key}: {error}")
                output.measure(key, {DIVERGED: str(error)})
            elif isinstance(error, TimeUp):
                is_late = True
            else:
                output.fail(key, error)
    return is_late
