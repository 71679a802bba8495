"""What a model predicts for the validation and test images, and that of a float model as a stage."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdq.correctness import Correct, decode, encode, top1
from kdq.data.dataset import Dataset
from kdq.models.classifier import Classifier
from kdq.models.evaluate import logits
from kdq.models.metrics import agreement, measure_logits, predicted
from kdq.store.damage import damaged, read_json
from kdq.store.folder_store import StageStore
from kdq.store.stage import Json, Stage

ACCURACY_VERSION = 3
CORRECT_FILE = "correct.json"
METRICS_FILE = "metrics.json"
PREDICTIONS = "predictions_{}.npy"
PARTS = ("val", "test")


@dataclass(frozen=True, slots=True)
class Part:
    """What a model predicts for one set of images.

    correct: which it classifies correctly; predicted: the classes, int32 [N]; metrics: of `kdq.models.metrics`, by
    names such as `val_nll`; per_class: accuracy of each class in percent, None for one without images.
    """

    correct: Correct
    predicted: NDArray[np.int32]
    metrics: Mapping[str, float]
    per_class: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model predicts for the validation and the test images."""

    val: Part
    test: Part

    def accuracies(self) -> dict[str, float]:
        """Return the top-1 accuracies in percent, `val_top1` and `test_top1`, then the metrics of both parts."""
        tops = {"val_top1": top1(self.val.correct), "test_top1": top1(self.test.correct)}
        return {**tops, **self.val.metrics, **self.test.metrics}

    def agreement(self, teacher: "Evaluation") -> dict[str, float]:
        """Return for how many percent of the images both models predict the same class."""
        pairs = {"val": (self.val, teacher.val), "test": (self.test, teacher.test)}
        return {f"{part}_agreement": agreement(one.predicted, other.predicted) for part, (one, other) in pairs.items()}

    def write(self, folder: Path, class_names: tuple[str, ...]) -> None:
        parts = {"val": self.val, "test": self.test}
        (folder / CORRECT_FILE).write_text(json.dumps({name: encode(part.correct) for name, part in parts.items()}))
        for name, part in parts.items():
            np.save(folder / PREDICTIONS.format(name), part.predicted)
        document = {name: {"metrics": part.metrics, "per_class": part.per_class} for name, part in parts.items()}
        (folder / METRICS_FILE).write_text(json.dumps({"class_names": class_names, **document}))


def evaluate(model: Classifier, data: Dataset) -> Evaluation:
    """Evaluate a model on the validation and the test images, each in one pass."""
    val = _part("val", logits(model, data.val_images), data.val_labels)
    return Evaluation(val, _part("test", logits(model, data.test_images), data.test_labels))


def _part(name: str, answers: Tensor, labels: Tensor) -> Part:
    found = measure_logits(answers, labels)
    correct: Correct = (answers.argmax(1) == labels.to(answers.device)).cpu().numpy()
    return Part(correct, predicted(answers), found.named(name), found.per_class)


def read_correct(folder: Path) -> Mapping[str, str]:
    """Return which images the model of a stage classifies correctly: "val" and "test" as `kdq.correctness` texts."""
    found = read_json(folder / CORRECT_FILE)
    try:
        return {part: str(found[part]) for part in PARTS}
    except (KeyError, TypeError) as error:
        raise damaged(folder, f"{CORRECT_FILE}: {error!r}") from error


def evaluate_once(
    store: StageStore, model_id: str, fingerprint: str, model: Callable[[], Classifier], data: Dataset
) -> Evaluation:
    """Return the evaluation of the model of a stage, made unless the store has it."""
    stage = _stage(model_id, fingerprint)
    return read_evaluation(store.make(stage, lambda folder: evaluate(model(), data).write(folder, data.class_names)))


def find_evaluation(store: StageStore, model_id: str, fingerprint: str) -> Evaluation | None:
    """Return the evaluation of the model of a stage, None if the store lacks it."""
    folder = store.find(_stage(model_id, fingerprint))
    return read_evaluation(folder) if folder else None


def _stage(model_id: str, fingerprint: str) -> Stage:
    return Stage("accuracy", ACCURACY_VERSION, {"model": model_id, "data": fingerprint})


def read_evaluation(folder: Path) -> Evaluation:
    """Return the evaluation that `Evaluation.write` wrote. Raises UserError if it is damaged."""
    texts, found = read_correct(folder), read_json(folder / METRICS_FILE)
    return Evaluation(*(_read(folder, name, texts[name], found) for name in PARTS))


def _read(folder: Path, name: str, text: str, found: Json) -> Part:
    file = CORRECT_FILE
    try:
        correct, file = decode(text), METRICS_FILE
        metrics, per_class = dict(found[name]["metrics"]), tuple(found[name]["per_class"])
        file = PREDICTIONS.format(name)
        classes = np.load(folder / file)
        if classes.dtype != np.int32 or classes.shape != correct.shape:
            raise ValueError(f"holds {classes.dtype} {list(classes.shape)}, must be int32 {list(correct.shape)}")
    except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
        raise damaged(folder, f"{file}: {error}") from error
    return Part(correct, classes, metrics, per_class)
