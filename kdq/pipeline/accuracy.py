"""The accuracies of a float model as a stage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kdq.data.dataset import Dataset
from kdq.models.classifier import Classifier
from kdq.models.evaluate import top1
from kdq.store.damage import damaged, read_json
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

ACCURACY_VERSION = 1
ACCURACY_FILE = "accuracy.json"


class Accuracies(NamedTuple):
    """Top-1 accuracies in percent on the validation and the test images."""

    val: float
    test: float


def measure_accuracies(
    store: StageStore, model_id: str, fingerprint: str, model: Callable[[], Classifier], data: Dataset
) -> Accuracies:
    """Return the accuracies of the model of a stage, evaluated unless the store has them."""

    def evaluate(folder: Path) -> None:
        own = model()
        val, test = top1(own, data.val_images, data.val_labels), top1(own, data.test_images, data.test_labels)
        (folder / ACCURACY_FILE).write_text(json.dumps({"val_top1": val, "test_top1": test}))

    return _read(store.make(_stage(model_id, fingerprint), evaluate))


def find_accuracies(store: StageStore, model_id: str, fingerprint: str) -> Accuracies | None:
    """Return the accuracies of the model of a stage if the store has them."""
    folder = store.find(_stage(model_id, fingerprint))
    return _read(folder) if folder else None


def _stage(model_id: str, fingerprint: str) -> Stage:
    return Stage("accuracy", ACCURACY_VERSION, {"model": model_id, "data": fingerprint})


def _read(folder: Path) -> Accuracies:
    found = read_json(folder / ACCURACY_FILE)
    try:
        return Accuracies(float(found["val_top1"]), float(found["test_top1"]))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, f"{ACCURACY_FILE}: {error!r}") from error
