"""One trial: distill a student, then quantize it at every width. Imports no ray: it runs wherever torch does."""

import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kdq.augment import AugmentConfig, Views
from kdq.bank import Bank
from kdq.data import Dataset, open_dataset
from kdq.measure import LAYERS_FILE, PACKED_FILE, PointSpec, QuantizerSpec, measure, measured
from kdq.methods import METHODS, MethodConfig
from kdq.models import Classifier
from kdq.peers import peer_seed, warm_start
from kdq.points import FLOAT_BITS, Point, from_row
from kdq.pretrained import load_pretrained
from kdq.probe import probe
from kdq.stages import Json, StageStore, digest
from kdq.students import MODEL_FILE, Model, StudentSpec, distill, load_student
from kdq.teachers import Checkpoint, load
from kdq.train import Diverged, TeacherLogits, TrainConfig, forward_teacher
from study import causes
from study.declarations import TEACHER

Event = dict[str, Any]
"""What a trial reports: an `epoch`, a `point`, that its student is `reused`, or its `end`, as the key `event` says.

An end has a `status`, a `reason` in one line, the path of a `log`, and all that the `error` says; the last two are
empty for one that is `completed`, and a log that could not be written is None.
An epoch at which trials are compared has a `probe` (see `kdq.probe`), unless another study trained the student.
"""


@dataclass(frozen=True, slots=True)
class Probing:
    """After which epochs students are measured quantized, and at which widths, whichever of them a trial has."""

    epochs: Collection[int] = ()
    widths: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class DataRef:
    """A data set by the folder of its stage, divided into training and validation images."""

    folder: str
    fingerprint: str
    train_images: int
    val_images: int


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A teacher, or what a peer starts from, by the folder of its stage and that stage's id.

    pretrained: it is one of the transformers library.
    """

    folder: str
    id: str
    arch: str
    pretrained: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """Everything a worker needs to run one trial; its document is plain JSON.

    name: for people, `dkd alpha=1 beta=8 temperature=4 seed=0`; peer: what second students start from, None for
    random weights; parameters: the method's, complete; bits: the widths at which the student is quantized, beside
    float.
    """

    name: str
    data: DataRef
    teacher: ModelRef | None
    peer: ModelRef | None
    method: str
    parameters: Mapping[str, float]
    student: str
    train: Mapping[str, Json]
    seed: int
    bits: tuple[int, ...]
    quantizer: QuantizerSpec
    calibration_images: int
    store: str

    @property
    def spec(self) -> StudentSpec | None:
        """The student, or None if the teacher itself is quantized."""
        if self.method == TEACHER:
            return None
        needed = self.teacher if METHODS[self.method].needs_teacher else None
        return StudentSpec(
            data=self.data.fingerprint,
            teacher=needed.id if needed else None,
            arch=self.student,
            method=MethodConfig(self.method, self.parameters),
            train=train_config(self.train),
            seed=self.seed,
            peer_init=self.peer.id if self.peer and METHODS[self.method].needs_peer else None,
        )

    @property
    def model_id(self) -> str:
        """The id of the stage whose weights are quantized."""
        if self.spec:
            return self.spec.stage().id
        assert self.teacher
        return self.teacher.id

    @property
    def arch(self) -> str:
        """The architecture that is quantized."""
        return self.teacher.arch if self.method == TEACHER and self.teacher else self.student

    @property
    def points(self) -> tuple[PointSpec, ...]:
        """Float first, then every width."""
        widths = dict.fromkeys((FLOAT_BITS, *self.bits))
        return tuple(
            PointSpec(self.model_id, self.data.fingerprint, bits, self.quantizer, self.calibration_images, self.seed)
            for bits in widths
        )

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of what the trial does."""
        return digest([point.stage().id for point in self.points])[:16]

    @property
    def epochs(self) -> int:
        return 0 if self.method == TEACHER else int(self.train["epochs"])

    def document(self) -> dict[str, Json]:
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Json]) -> "Trial":
        """The trial that `document` described."""
        known = dict(document)
        known["data"] = DataRef(**document["data"])
        for key in ("teacher", "peer"):
            known[key] = ModelRef(**document[key]) if document[key] else None
        known["bits"] = tuple(document["bits"])
        known["quantizer"] = QuantizerSpec(**document["quantizer"])
        return cls(**known)

    def is_finished(self, store: StageStore) -> bool:
        return all(store.find(point.stage()) for point in self.points)


def train_config(document: Mapping[str, Json]) -> TrainConfig:
    """The training recipe that `dataclasses.asdict` wrote."""
    return TrainConfig(**{**document, "augment": AugmentConfig(**document["augment"])})


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
        report(_end(causes.ends_as(causes.text(error)), _first_line(error), log, error))
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
            own = [shown for shown in found or () if shown[0] in (FLOAT_BITS, *trial.bits)]
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
                "point": asdict(_point(trial, point.bits, place)),
                "files": [str(place / name) for name in (PACKED_FILE, LAYERS_FILE)],
            }
        )


def _point(trial: Trial, bits: int, folder: Path) -> Point:
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
    return {"event": "end", "status": status, "reason": reason, "log": _describe(log), "error": causes.text(error)}


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
