"""What every data set keeps: it holds what its entry declares, and nothing twice."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from kdq.conformance.check import Check, require
from kdq.data.audit import check_duplicates
from kdq.data.sources import DATASETS, load_source
from kdq.errors import UserError
from kdq.store.folder_store import StageStore


def holds_what_it_declares(name: str) -> None:
    entry = DATASETS[name]
    with TemporaryDirectory() as folder:
        source = entry.find(None, Path(folder))
        shape, splits = entry.shape, source.decode()
    require(
        len(source.class_names) == shape.classes, f"{len(source.class_names)} class names, declared {shape.classes}"
    )
    for part, (images, labels), count in zip(("training", "test"), splits, (shape.train, shape.test), strict=True):
        expected = (count, shape.channels, shape.size, shape.size)
        require(images.shape == expected, f"{part} images of shape {images.shape}, declared {expected}")
        require(images.dtype == np.uint8, f"{part} images are {images.dtype}, must be uint8")
        require(labels.dtype == np.int64, f"{part} labels are {labels.dtype}, must be int64")
        require(set(labels.tolist()) == set(range(shape.classes)), f"{part} labels are not all of 0 to classes - 1")


def has_one_identity(name: str) -> None:
    with TemporaryDirectory() as folder:
        first, second = (DATASETS[name].find(None, Path(folder)).identity for _ in range(2))
    require(first == second, f"its identity was {first}, then {second}; it must be a function of the content")


def becomes_a_stage(name: str) -> None:
    with TemporaryDirectory() as folder:
        store = StageStore(Path(folder) / "stages")
        stage = load_source(name, None, store)
        require(store.find(stage) is not None, "it is not in the store")


def has_few_duplicates(name: str) -> None:
    with TemporaryDirectory() as folder:
        (train, _), (test, _) = DATASETS[name].find(None, Path(folder)).decode()
    try:
        check_duplicates(name, {"training": train, "test": test})
    except UserError as error:
        require(False, str(error))


CHECKS: Mapping[str, Check] = {
    "it holds what its entry declares": holds_what_it_declares,
    "its identity does not change": has_one_identity,
    "it is decoded into a stage": becomes_a_stage,
    "few images are duplicated": has_few_duplicates,
}
