"""What a run on a GPU trains and quantizes: rows of the paper's tables, recipes, and the time that is left."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdq.bits import FLOAT_BITS
from kdq.data.augment import AugmentConfig
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.store.stage import Json

DATASETS = ("cifar10", "cifar100")
TEACHER = "teacher"
ROWS = "rows.json"


class TimeUp(Exception):  # noqa: N818 - an end, not an error
    """The time is up; what is unfinished resumes in the next call."""


class Clock:
    """The time of a call, in seconds. started: by time.monotonic(); now by default."""

    def __init__(self, seconds: float, started: float | None = None) -> None:
        self.end = (time.monotonic() if started is None else started) + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def need(self, seconds: float) -> None:
        """Raise TimeUp unless that much time is left."""
        if self.left < seconds:
            raise TimeUp


@dataclass(frozen=True, slots=True)
class Settings:
    """A run.

    batch_size: of students, which a GPU trains faster in large batches; teacher_batch_size: of the teacher, which
    learns more in an epoch of many steps; train_images: None for all but the validation images; test_images: None for
    all; workers: processes that quantize beside the training, at least one.
    """

    work: Path
    device: str
    teacher: str = "resnet50"
    student: str = "resnet18"
    batch_size: int = 512
    teacher_batch_size: int = 256
    train_images: int | None = None
    val_images: int = 5000
    test_images: int | None = None
    bits: tuple[int, ...] = tuple(range(1, 9))
    calibration_images: int = 512
    workers: int = 4

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths of a row's points, float first."""
        return (FLOAT_BITS, *self.bits)

    @property
    def parts(self) -> Path:
        """The folder that collects what travels here."""
        return self.work / "parts"

    def recipe(self, epochs: int, batch_size: int) -> TrainConfig:
        """One cycle that rises for a quarter, averaged weights, bf16.

        Learning rate and span of the average in proportion to the batch.
        """
        return TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            lr=0.1 * batch_size / 128,
            schedule="one_cycle",
            warmup_epochs=epochs / 4,
            ema=0.998 ** (batch_size / 256),
            precision="bf16",
            augment=AugmentConfig(crop_padding=4, flip=True, cutout=8),
        )


TEACHER_METHOD = MethodConfig.parse({"method": "ce", "label_smoothing": 0.1})


def read_rows(folder: Path, name: str) -> dict[str, MethodConfig | None]:
    """The rows of the paper's table for a data set, by their names; None for the teacher itself."""
    document: Mapping[str, Json] = json.loads((folder / ROWS).read_text())
    return {
        key: None if values["method"] == TEACHER else MethodConfig.parse(values)
        for key, values in document[name].items()
    }
