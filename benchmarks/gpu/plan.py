"""How many epochs fit into the time of a data set, from what the first call measured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdq.distill.methods import MethodConfig

MOST_EPOCHS = 30  # of a student; more gain little with this recipe
TEACHER_SHARE = 4 / 3  # epochs of the teacher for each of a student
OVERHEAD = 1.25  # an epoch's time over that of its steps: validation, and the state that is stored
LEAST_SHARE = 0.5  # of the time, for training, however long the points take


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of the GPU. student: a training step's share of an image, for students beside each other; answer: the
    teacher's forward pass of one; teacher: its training step; point: one point, quantized in processes."""

    student: float
    answer: float
    teacher: float
    point: float

    @classmethod
    def of(cls, speed: Mapping[str, float], points: Mapping[str, float]) -> "Rates":
        """The rates by what `speed.measure` found, and `quantizing.time_points` if it did."""
        student = 1 / speed["images_per_s_without_teacher"]
        answer = max(0.0, 1 / speed["images_per_s"] - student)
        return cls(student, answer, 1 / speed["images_per_s_of_teacher"], points.get("seconds_a_point", 0.0))


def student_seconds(rates: Rates, methods: Iterable[MethodConfig], images: int) -> float:
    """Seconds of an epoch of all students. Rows whose teacher sees the same views share its forward passes."""
    methods = list(methods)
    steps = sum(2 if method.method.needs_peer else 1 for method in methods)
    passes = len({method.teacher_mixup_alpha for method in methods if method.method.needs_teacher})
    return OVERHEAD * images * (steps * rates.student + passes * rates.answer)


def teacher_seconds(rates: Rates, images: int) -> float:
    """Seconds of an epoch of the teacher."""
    return OVERHEAD * images * rates.teacher


def fitting(rates: Rates, methods: Iterable[MethodConfig], images: int, points: int, seconds: float) -> tuple[int, int]:
    """Epochs of the teacher and of each student, at least one, that fit beside the points into so many seconds."""
    training = max(seconds - points * rates.point, LEAST_SHARE * seconds)
    each = student_seconds(rates, methods, images) + TEACHER_SHARE * teacher_seconds(rates, images)
    students = max(1, min(MOST_EPOCHS, int(training / each)))
    return round(TEACHER_SHARE * students), students
