"""What a dry run finds in data, teacher and peer: every fault that a run would find before its first trial."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kdq.data.dataset import Dataset, open_dataset, stratified
from kdq.data.sources import find_shape, find_source, needs_download
from kdq.data.spec import DataSpec
from kdq.distill.peers import parse_peer
from kdq.distill.teachers import TeacherSpec, Trained
from kdq.errors import UserError, first_line
from kdq.models.classifier import Normalization
from kdq.store.folder_store import StageStore
from study.plan.plan import Plan
from study.space.workload import Workload
from study.trial.inputs import (
    check_layers,
    check_objective,
    check_quantizable,
    check_trainable,
    check_trained,
    evaluate_teacher,
    prepare_data,
    prepare_peer,
    prepare_teacher,
    teacher_spec,
)
from study.trial.worker import DataRef, load_teacher

SAMPLE = 500
"""Images on which a teacher is tried: enough to tell it from guessing, and seconds of work."""


def check_inputs(plan: Plan, data_dir: Path | None, root: Path) -> None:
    """Raise UserError for what a run would refuse before its first trial in its data, teacher and peer.

    root: the folder of all that a study keeps, which is only read. What a run would store is made in a temporary
    folder and removed. No data set is downloaded, so one that is not there yet is not checked, and nothing is trained;
    a teacher or a peer on the Hub is downloaded into its cache.
    """
    spec = teacher_spec(plan.workload, data_dir) if plan.needs_teacher else None
    try:
        with TemporaryDirectory(prefix="kdq-dry-run-") as folder:
            store = StageStore(Path(folder) / "stages")
            data = _data(plan.workload, data_dir, StageStore(root / "stages"), store)
            _check_models(plan, spec, data, store)
    except OSError as error:
        raise UserError(
            f"dry run: {first_line(error)}; fix the cause, or set TMPDIR to a disk with room for the decoded data set"
        ) from error


def _data(workload: Workload, data_dir: Path | None, kept: StageStore, store: StageStore) -> Dataset:
    """Return the data set: of its stage, decoded anew, or, if it must be downloaded first, a stand-in for it."""
    if workload.data.kind == "torchvision" and data_dir is None:
        shape = find_shape(workload.data, None)  # its source would be downloaded
        return _stand_in(workload.data, tuple(map(str, range(shape.classes))))
    source, stage = find_source(workload.data, data_dir, kept)
    if found := kept.find(stage):
        return open_dataset(found, train_images=workload.train_images, val_images=workload.val_images)
    if not needs_download(workload.data, data_dir):
        return prepare_data(workload, data_dir, store, _silent)[1]
    return _stand_in(workload.data, source.class_names)


def _stand_in(spec: DataSpec, class_names: tuple[str, ...]) -> Dataset:
    """Return a data set of one black image a class, as large as those of the data set."""
    shape = find_shape(spec, None)
    images = torch.zeros(len(class_names), shape.channels, shape.size, shape.size, dtype=torch.uint8)
    normalization = Normalization((0.5,) * shape.channels, (0.25,) * shape.channels)
    return Dataset(spec.dataset, class_names, normalization, *(images, torch.arange(len(images))) * 3, fingerprint="")


def _check_models(plan: Plan, spec: TeacherSpec | None, data: Dataset, store: StageStore) -> None:
    workload = plan.workload
    reference = DataRef("", data.fingerprint, len(data.train_labels), len(data.val_labels))
    check_objective(plan, data)
    if plan.needs_distilling:
        check_trainable("student", workload.student, data, is_quantized=plan.quantizes)
    if isinstance(spec, Trained):
        check_trained(plan, spec, data)
    elif spec:
        teacher = prepare_teacher(workload, spec, reference, data, store, _silent)
        check_quantizable(plan, teacher, data)
        if data.fingerprint:
            evaluate_teacher(teacher, reference, _sample(data), store, _silent)
        if plan.compares_features:
            check_layers(plan, load_teacher(teacher, data), data)
    if plan.needs_peer:
        assert workload.peer_init
        if not isinstance(parse_peer(workload.peer_init, workload.student), Trained):
            prepare_peer(workload, reference, data, store, _silent)


def _sample(data: Dataset) -> Dataset:
    """Return the data set with at most SAMPLE validation images, stratified by class, and the same for testing."""
    chosen = stratified(data.val_labels.numpy(), min(SAMPLE, len(data.val_labels)), seed=0)
    images, labels = data.val_images[chosen], data.val_labels[chosen]
    return replace(data, val_images=images, val_labels=labels, test_images=images[:1], test_labels=labels[:1])


def _silent(text: str) -> None:
    """Print nothing of what a run would print."""
