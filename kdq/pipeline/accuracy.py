"""The accuracies of a model, and those of a float model as a stage."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from kdq.data.dataset import Dataset
from kdq.models.classifier import Classifier
from kdq.models.evaluate import top1
from kdq.store.damage import damaged, read_json
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

ACCURACY_VERSION = 1
ACCURACY_FILE = "accuracy.json"

Accuracies = Mapping[str, float]
"""Top-1 accuracies in percent by name: `val_top1` and `test_top1`, or those of them that are known."""


def accuracies(model: Classifier, data: Dataset, known: Accuracies) -> Accuracies:
    """Return the accuracies of a model on the validation and the test images; known ones are not measured again."""
    parts = {"val_top1": (data.val_images, data.val_labels), "test_top1": (data.test_images, data.test_labels)}
    return {name: known[name] if name in known else top1(model, *part) for name, part in parts.items()}


def measure_accuracies(
    store: StageStore, model_id: str, fingerprint: str, model: Callable[[], Classifier], data: Dataset
) -> Accuracies:
    """Return the accuracies of the model of a stage, measured unless the store has them."""

    def write(folder: Path) -> None:
        (folder / ACCURACY_FILE).write_text(json.dumps(accuracies(model(), data, known={})))

    return _read(store.make(_stage(model_id, fingerprint), write))


def find_accuracies(store: StageStore, model_id: str, fingerprint: str) -> Accuracies:
    """Return the accuracies of the model of a stage, as far as the store has them: both or none."""
    folder = store.find(_stage(model_id, fingerprint))
    return _read(folder) if folder else {}


def _stage(model_id: str, fingerprint: str) -> Stage:
    return Stage("accuracy", ACCURACY_VERSION, {"model": model_id, "data": fingerprint})


def _read(folder: Path) -> Accuracies:
    found = read_json(folder / ACCURACY_FILE)
    try:
        return {name: float(found[name]) for name in ("val_top1", "test_top1")}
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, f"{ACCURACY_FILE}: {error!r}") from error
