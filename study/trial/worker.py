"""One trial: distill a student, then quantize it at every width. Imports no ray: it runs wherever torch does."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path

from kdq.bits import FLOAT, Allocation, Bits
from kdq.data.augment import Views
from kdq.data.dataset import Dataset, open_dataset
from kdq.distill.peers import peer_seed, warm_start
from kdq.distill.teacher_logits import Bank, TeacherLogits, forward_teacher
from kdq.distill.trainer import Diverged
from kdq.models.checkpoint import Checkpoint, load
from kdq.models.classifier import Classifier
from kdq.models.huggingface import load_pretrained
from kdq.pipeline.point import LAYERS_FILE, PACKED_FILE, measure, measured
from kdq.pipeline.probe import probe
from kdq.pipeline.student import MODEL_FILE, Model, StudentSpec, distill, load_student
from kdq.store.folder_store import StageStore
from study.console import failures
from study.results.point import Point, from_row
from study.trial.events import Event
from study.trial.trial import DataRef, ModelRef, Probing, Trial


@cache
def _dataset(data: DataRef, device: str) -> Dataset:
    opened = open_dataset(Path(data.folder), train_images=data.train_images, val_images=data.val_images)
    assert opened.fingerprint == data.fingerprint
    return opened.to(device)


def load_teacher(teacher: ModelRef, data: Dataset) -> Classifier:
    """The teacher on the data's device, in evaluation mode."""
    folder = Path(teacher.folder)
    if teacher.pretrained:
        model = load_pretrained(folder, data.class_names, data.train_images.shape[1])
    else:
        checkpoint = Checkpoint(teacher.arch, folder / MODEL_FILE)
        model = load(checkpoint, classes=data.classes, normalization=data.normalization)
    return model.to(data.train_images.device)


def bank(store: StageStore, spec: StudentSpec, teacher: ModelRef, data: Dataset) -> Bank:
    """What the teacher says about the views of a student's training, shared by all students that see the same."""
    views = Views(
        data.train_images,
        data.train_labels,
        spec.train.augment,
        stream_seed=spec.seed,
        fill=data.normalization.mean,
        mixup_alpha=spec.method.teacher_mixup_alpha,
    )
    precision = spec.train.precision

    def teach() -> TeacherLogits:
        return forward_teacher(load_teacher(teacher, data), precision)

    return Bank(store, teach, teacher.id, data, views, precision=precision)


def run_trial(trial: Trial, device: str, log: Path, report: Callable[[Event], None], probing: Probing) -> None:
    """Run a trial to its end, which is the last event it reports; an error is an end, not an exception.

    log: the file in which the error that ended it is described; probing: when it is also said what the student would be
    worth quantized.
    """
    try:
        _run(trial, device, report, probing)
    except Diverged as error:
        report(_end("diverged", str(error).removeprefix("diverged "), log, error))
    except Exception as error:
        report(_end(failures.ends_as(failures.text(error)), _first_line(error), log, error))
    else:
        report({"event": "end", "status": "completed", "reason": "", "log": None, "error": ""})


def _run(trial: Trial, device: str, report: Callable[[Event], None], probing: Probing) -> None:
    store = StageStore(Path(trial.store))

    def data() -> Dataset:
        return _dataset(trial.data, device)

    def teacher() -> TeacherLogits | None:
        return bank(store, spec, trial.teacher, data()) if trial.teacher and spec and spec.teacher else None

    def peer() -> Classifier:
        assert trial.peer
        weights = Checkpoint(trial.student, Path(trial.peer.folder) / MODEL_FILE)
        return warm_start(weights, trial.student, data(), peer_seed(trial.seed))

    def model() -> Classifier:
        if spec:
            return load_student(folder, spec, data()).to(device)
        assert trial.teacher
        return load_teacher(trial.teacher, data())

    trained = False

    def tell(epoch: Mapping[str, float], model: Model | None) -> None:
        nonlocal trained
        assert spec is not None
        trained = trained or model is not None
        event = {"event": "epoch", **epoch}
        if epoch["epoch"] in probing.epochs:
            started = time.perf_counter()
            student = spec.stage(int(epoch["epoch"])).id
            found = probe(store, student, probing.widths, trial.quantizer, trial.seed, model, data)
            own = [shown for shown in found or () if Allocation.uniform(shown[0]) in (FLOAT, *trial.bits)]
            event |= {"probe": own, "probe_seconds": time.perf_counter() - started} if found else {}
        report(event)

    spec = trial.spec
    # One that was pruned, its points being there, is not trained again in order to tell of its epochs.
    if spec is not None and (store.find(spec.stage()) or not trial.is_finished(store)):
        folder = distill(store, spec, data, teacher, tell, peer if spec.peer_init else None)
        if not trained:  # it was there, or came while this trial waited for another that trained it
            report({"event": "reused"})
    for point, place in measure(store, trial.points, model, data):
        report(
            {
                "event": "point",
                "point": asdict(_point(trial, point.bits.column, place)),
                "files": [str(place / name) for name in (PACKED_FILE, LAYERS_FILE)],
            }
        )


def _point(trial: Trial, bits: Bits, folder: Path) -> Point:
    return from_row(
        {
            "trial_id": trial.id,
            "method": trial.method,
            **trial.parameters,
            "seed": trial.seed,
            "student": trial.arch,
            "bits": bits,
            **measured(folder),
            "on_front": False,
        }
    )


def _end(status: str, reason: str, log: Path, error: BaseException) -> Event:
    return {"event": "end", "status": status, "reason": reason, "log": _describe(log), "error": failures.text(error)}


def _first_line(error: BaseException) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _describe(log: Path) -> str | None:
    """Write the error that is being handled to `log`; None if that fails, too, as it does on a full disk."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
    except OSError:
        return None
    return str(log)
