"""Which images a model classifies correctly, and that of a float model as a stage."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdq.correctness import Correct, decode, encode, top1
from kdq.data.dataset import Dataset
from kdq.models.classifier import Classifier
from kdq.models.evaluate import correct
from kdq.store.damage import damaged, read_json
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

ACCURACY_VERSION = 2
CORRECT_FILE = "correct.json"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Which validation and test images a model classifies correctly."""

    val: Correct
    test: Correct

    def accuracies(self) -> dict[str, float]:
        """Return the top-1 accuracies in percent: `val_top1` and `test_top1`."""
        return {"val_top1": top1(self.val), "test_top1": top1(self.test)}

    def write(self, folder: Path) -> None:
        (folder / CORRECT_FILE).write_text(json.dumps({"val": encode(self.val), "test": encode(self.test)}))


def evaluate(model: Classifier, data: Dataset) -> Evaluation:
    """Evaluate a model on the validation and the test images."""
    parts = (data.val_images, data.val_labels), (data.test_images, data.test_labels)
    return Evaluation(*(correct(model, *part).cpu().numpy() for part in parts))


def read_correct(folder: Path) -> Mapping[str, str]:
    """Return which images the model of a stage classifies correctly: "val" and "test" as `kdq.correctness` texts."""
    found = read_json(folder / CORRECT_FILE)
    try:
        return {part: str(found[part]) for part in ("val", "test")}
    except (KeyError, TypeError) as error:
        raise damaged(folder, f"{CORRECT_FILE}: {error!r}") from error


def evaluate_once(
    store: StageStore, model_id: str, fingerprint: str, model: Callable[[], Classifier], data: Dataset
) -> Evaluation:
    """Return the evaluation of the model of a stage, made unless the store has it."""
    return _read(store.make(_stage(model_id, fingerprint), lambda folder: evaluate(model(), data).write(folder)))


def find_evaluation(store: StageStore, model_id: str, fingerprint: str) -> Evaluation | None:
    """Return the evaluation of the model of a stage, None if the store lacks it."""
    folder = store.find(_stage(model_id, fingerprint))
    return _read(folder) if folder else None


def _stage(model_id: str, fingerprint: str) -> Stage:
    return Stage("accuracy", ACCURACY_VERSION, {"model": model_id, "data": fingerprint})


def _read(folder: Path) -> Evaluation:
    found = read_correct(folder)
    try:
        return Evaluation(decode(found["val"]), decode(found["test"]))
    except ValueError as error:
        raise damaged(folder, f"{CORRECT_FILE}: {error}") from error
