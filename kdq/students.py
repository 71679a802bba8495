"""Students as stages: a student at epoch e is found, gone on from, or trained."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kdq.data import Dataset
from kdq.methods import MethodConfig
from kdq.models import Classifier, build
from kdq.stages import Json, Stage, StageStore
from kdq.teachers import Checkpoint, load, save
from kdq.train import TeacherLogits, TrainConfig, Trainer

STUDENT_VERSION = 1
MODEL_FILE = "model.safetensors"
HISTORY_FILE = "history.json"
STATE_FILE = "state.pt"

Report = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """All that determines a student. data: a fingerprint; teacher: the id of its stage, None without one;
    seed: that of its initialisation and of the views it is shown."""

    data: str
    teacher: str | None
    arch: str
    method: MethodConfig
    train: TrainConfig
    seed: int

    def stage(self, epoch: int | None = None) -> Stage:
        """The student after `epoch` epochs; None: the finished one."""
        return Stage(
            "student",
            STUDENT_VERSION,
            {
                "data": self.data,
                "teacher": self.teacher,
                "arch": self.arch,
                "method": self.method.identity(),
                "train": asdict(self.train),
                "seed": self.seed,
                "epoch": self.train.epochs if epoch is None else epoch,
            },
        )


def distill(
    store: StageStore,
    spec: StudentSpec,
    data: Callable[[], Dataset],
    teacher: Callable[[], TeacherLogits | None],
    report: Report,
) -> Path:
    """The folder of the finished student, trained if it is not there, from the last epoch that is.

    data, teacher: called only if something has to be trained; the student is trained on the data's device.
    report: told every epoch of the student's history once, those of an earlier run too. Raises Diverged.
    """
    told = 0

    def tell(history: list[Json]) -> None:
        nonlocal told
        for epoch in history[told:]:
            report(epoch)
        told = len(history)

    def train(folder: Path) -> None:
        dataset = data()
        student = _initial(spec, dataset)
        trainer = Trainer(spec.train, spec.method, student, teacher(), dataset, stream_seed=spec.seed)
        history = _go_on(store, spec, trainer)
        tell(history)
        while trainer.epoch < spec.train.epochs:
            history.append(trainer.run_epoch())
            if trainer.epoch < spec.train.epochs:
                _keep(store, spec, trainer, history)
            tell(history)
        save(student, folder / MODEL_FILE)
        (folder / HISTORY_FILE).write_text(json.dumps(history))

    folder = store.make(spec.stage(), train)
    store.remove(spec.stage(spec.train.epochs - 1))
    tell(json.loads((folder / HISTORY_FILE).read_text()))
    return folder


def load_student(folder: Path, spec: StudentSpec, data: Dataset) -> Classifier:
    """The finished student in a folder, on the CPU, in evaluation mode."""
    return load(Checkpoint(spec.arch, folder / MODEL_FILE), classes=data.classes, normalization=data.normalization)


def _initial(spec: StudentSpec, data: Dataset) -> Classifier:
    student = build(spec.arch, classes=data.classes, normalization=data.normalization, seed=spec.seed)
    return student.to(data.train_images.device)


def _go_on(store: StageStore, spec: StudentSpec, trainer: Trainer) -> list[Json]:
    """Put the training where its last kept epoch left it. Returns the history until there."""
    for epoch in range(spec.train.epochs - 1, 0, -1):
        if folder := store.find(spec.stage(epoch)):
            device = trainer.data.train_images.device
            trainer.load_state_dict(torch.load(folder / STATE_FILE, map_location=device, weights_only=True))
            history: list[Json] = json.loads((folder / HISTORY_FILE).read_text())
            return history
    return []


def _keep(store: StageStore, spec: StudentSpec, trainer: Trainer, history: list[Json]) -> None:
    """Publish the state after this epoch, then forget the one before: a live student keeps its last only."""

    def write(folder: Path) -> None:
        torch.save(trainer.state_dict(), folder / STATE_FILE)
        (folder / HISTORY_FILE).write_text(json.dumps(history))

    store.make(spec.stage(trainer.epoch), write)
    if trainer.epoch > 1:
        store.remove(spec.stage(trainer.epoch - 1))
