"""Runs a trial: distills its student, then quantizes it at every width. Needs torch, not Ray."""

import time
import traceback
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kdq import plugins
from kdq.bits import Allocation, Bits
from kdq.data.augment import Views
from kdq.data.dataset import Dataset, open_dataset
from kdq.distill.peers import peer_seed, warm_start
from kdq.distill.teacher_logits import ForwardTeacher, TeacherLogits, TeacherLogitsCache
from kdq.distill.trainer import Diverged
from kdq.errors import UserError
from kdq.models.checkpoint import Checkpoint, load
from kdq.models.classifier import Classifier
from kdq.models.huggingface import load_pretrained
from kdq.models.sources import short_name
from kdq.pipeline.accuracy import METRICS_FILE, Evaluation, find_evaluation, read_correct, read_evaluation
from kdq.pipeline.point import LAYERS_FILE, PACKED_FILE, measure, measured
from kdq.pipeline.probe import Probe, probe
from kdq.pipeline.student import MODEL_FILE, Epoch, StudentSpec, distill, load_student
from kdq.plugins import Plugin
from kdq.store.damage import damaged
from kdq.store.folder_store import StageStore
from study.console import failures
from study.results.point import Point, from_row
from study.results.status import TrialStatus
from study.trial.events import EpochEnded, Event, PointMeasured, StudentReused, TrialEnded
from study.trial.trial import InputIds, Trial


@dataclass(frozen=True, slots=True)
class Probing:
    """The epochs after which students are measured quantized, and the widths, even those that a trial lacks."""

    epochs: Collection[int] = ()
    widths: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class DataRef:
    """A data set by the folder of its stage, with the numbers of training and validation images."""

    folder: str
    fingerprint: str
    train_images: int
    val_images: int


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A teacher, or a peer's initial weights, by the folder and the id of its stage.

    pretrained: it is a model of the transformers library.
    """

    folder: str
    id: str
    arch: str
    pretrained: bool = False


@dataclass(frozen=True, slots=True)
class Inputs:
    """What all trials of a study share, by paths visible to every worker.

    store: the folder of the stages; plugins: those that the driver has loaded, with the content of files.
    """

    store: str
    data: DataRef
    teacher: ModelRef | None = None
    peer: ModelRef | None = None
    plugins: tuple[Plugin, ...] = ()

    @property
    def ids(self) -> InputIds:
        teacher, peer = (model.id if model else None for model in (self.teacher, self.peer))
        return InputIds(self.data.fingerprint, teacher, peer)

    def arch(self, trial: Trial) -> str:
        """Return the name of the architecture that a trial quantizes."""
        if trial.student:
            return short_name(trial.student.arch)
        assert self.teacher
        return short_name(self.teacher.arch)


def run_trial(trial: Trial, inputs: Inputs, device: str, log: Path, probing: Probing) -> Generator[Event]:
    """Run a trial and yield its events; the last is TrialEnded. Errors end the trial; none is raised.

    log: the file for the traceback of an error; probing: when the student is also measured quantized. Closing the
    generator interrupts the trial: another run resumes it from its last epoch.
    """
    try:
        plugins.ensure(inputs.plugins)
        yield from _Run(trial, inputs, device, probing).events()
    except Diverged as error:
        yield _failed(TrialStatus.DIVERGED, str(error).removeprefix("diverged "), log, error)
    except Exception as error:
        yield _failed(failures.end_status(failures.full_text(error)), _first_line(error), log, error)
    else:
        yield TrialEnded(TrialStatus.COMPLETED)


@dataclass(frozen=True, slots=True)
class _Run:
    """A trial with its inputs."""

    trial: Trial
    inputs: Inputs
    device: str
    probing: Probing

    @property
    def store(self) -> StageStore:
        return StageStore(Path(self.inputs.store))

    def events(self) -> Iterator[Event]:
        student = self.trial.student
        # A pruned student whose points exist is not retrained only to report its epochs.
        if student and (self.store.find(student.stage()) or not self.trial.is_finished(self.store)):
            yield from self._distill(student)
        for point, folder in measure(self.store, self.trial.points, self._model, self._data, self._known):
            files = tuple(str(folder / name) for name in (PACKED_FILE, LAYERS_FILE, METRICS_FILE))
            yield PointMeasured(self._point(point.bits.column, folder), files, read_correct(folder))

    def _distill(self, student: StudentSpec) -> Iterator[Event]:
        peer = self._peer if student.peer_init else None
        is_trained_here = False
        for epoch in distill(self.store, student, self._data, self._teacher_logits, peer):
            is_trained_here = is_trained_here or epoch.model is not None
            started = time.perf_counter()
            found = self._probe(student, epoch)
            seconds = {"probe_seconds": time.perf_counter() - started} if found else {}
            yield EpochEnded(epoch.number, {**epoch.metrics, **seconds}, found, is_reused=epoch.model is None)
        if not is_trained_here:  # it existed, or another trial trained it while this one waited
            yield StudentReused()

    def _probe(self, student: StudentSpec, epoch: Epoch) -> Probe | None:
        if epoch.number not in self.probing.epochs:
            return None
        quantizer, stage = self.trial.points[0].quantizer, student.stage(epoch.number)
        found = probe(self.store, stage.id, self.probing.widths, quantizer, student.seed, epoch.model, self._data)
        return found and [shown for shown in found if Allocation.uniform(shown[0]) in self.trial.bits]

    def _data(self) -> Dataset:
        return _dataset(self.inputs.data, self.device)

    def _teacher_logits(self) -> TeacherLogits | None:
        student, teacher = self.trial.student, self.inputs.teacher
        if not teacher or not student or not student.teacher:
            return None
        if student.method.compares_features:
            return ForwardTeacher(load_teacher(teacher, self._data()), student.train.precision)
        return open_cache(self.store, student, teacher, self._data())

    def _peer(self) -> Classifier:
        student, peer = self.trial.student, self.inputs.peer
        assert student
        assert peer
        weights = Checkpoint(student.arch, Path(peer.folder) / MODEL_FILE)
        return warm_start(weights, student.arch, self._data(), peer_seed(student.seed))

    def _model(self) -> Classifier:
        """Return the model to quantize."""
        if student := self.trial.student:
            folder = self.store.path(student.stage())
            return load_student(folder, student, self._data()).to(self.device)
        assert self.inputs.teacher
        return load_teacher(self.inputs.teacher, self._data())

    def _known(self) -> Evaluation | None:
        """Return the evaluation of the teacher, if the trial quantizes that."""
        return None if self.trial.student else self._teacher

    def _point(self, bits: Bits, folder: Path) -> Point:
        trial = self.trial
        own = {"trial_id": trial.id, "method": trial.method, **trial.parameters, "seed": trial.seed, "bits": bits}
        teacher = self._teacher
        agreement = read_evaluation(folder).agreement(teacher) if teacher else {}
        return from_row({**own, "student": self.inputs.arch(trial), **measured(folder), **agreement, "on_front": False})

    @property
    def _teacher(self) -> Evaluation | None:
        """The evaluation of the teacher, None in a study without one."""
        teacher = self.inputs.teacher
        return find_evaluation(self.store, teacher.id, self.inputs.data.fingerprint) if teacher else None


@cache
def _dataset(data: DataRef, device: str) -> Dataset:
    opened = open_dataset(Path(data.folder), train_images=data.train_images, val_images=data.val_images)
    assert opened.fingerprint == data.fingerprint
    return opened.to(device)


def load_teacher(teacher: ModelRef, data: Dataset) -> Classifier:
    """Load the teacher on the data's device, in evaluation mode. Raises UserError if its stage is damaged."""
    folder = Path(teacher.folder)
    try:
        if teacher.pretrained:
            model = load_pretrained(folder, data.class_names, data.train_images.shape[1])
        else:
            checkpoint = Checkpoint(teacher.arch, folder / MODEL_FILE)
            model = load(checkpoint, classes=data.classes, normalization=data.normalization)
    except UserError as error:  # it was checked when the stage was made
        raise damaged(folder, str(error)) from error
    return model.to(data.device)


def open_cache(store: StageStore, spec: StudentSpec, teacher: ModelRef, data: Dataset) -> TeacherLogitsCache:
    """Return the cache of a teacher's logits on a student's views; students with equal views share it."""
    augment = spec.train.augment
    views = Views(
        data.train_images,
        data.train_labels,
        augment.unmixed if spec.method.mixes_logits else augment,
        stream_seed=spec.seed,
        fill=data.normalization.mean,
        mixup_alpha=spec.method.teacher_mixup_alpha,
    )
    precision = spec.train.precision

    def teach() -> TeacherLogits:
        return ForwardTeacher(load_teacher(teacher, data), precision)

    return TeacherLogitsCache(store, teach, teacher.id, data, views, precision=precision)


def _failed(status: TrialStatus, reason: str, log: Path, error: BaseException) -> TrialEnded:
    return TrialEnded(status, reason, _describe(log), failures.full_text(error))


def _first_line(error: BaseException) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _describe(log: Path) -> str | None:
    """Write the traceback of the current error to `log` and return its path; None if that fails, as on a full disk."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
    except OSError:
        return None
    return str(log)
