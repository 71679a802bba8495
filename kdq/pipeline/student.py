"""Students as stages: a student at epoch e is reused, resumed or trained."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import torch
from filelock import Timeout

from kdq import plugins
from kdq.data.dataset import Dataset
from kdq.distill.features import FeatureLayers
from kdq.distill.methods import MethodConfig
from kdq.distill.peers import peer_seed
from kdq.distill.recipe import TrainConfig
from kdq.distill.teacher_logits import TeacherLogits
from kdq.distill.trainer import Trainer
from kdq.models.checkpoint import Checkpoint, load, save
from kdq.models.classifier import Classifier, build
from kdq.models.sources import identity, split_weights
from kdq.store.damage import read_json
from kdq.store.folder_store import StageStore
from kdq.store.stage import Json, Stage

STUDENT_VERSION = 2
MODEL_FILE = "model.safetensors"
HISTORY_FILE = "history.json"
STATE_FILE = "state.pt"


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch of a student's history. metrics: losses, accuracies, seconds; model: gives the student as it is after
    this epoch, None for an epoch of an earlier run or of another trial."""

    number: int
    metrics: Mapping[str, float]
    model: Callable[[], Classifier] | None = None


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """All that determines a student.

    data: a fingerprint; teacher: the id of its stage, None without one; seed: of the initialisation, its peer's
    included, and of the views; peer_init: an id of the peer's initial weights, None for random ones or no peer; layers:
    those that a method with a feature loss compares, None for the stages of both networks, or for another method.
    """

    data: str
    teacher: str | None
    arch: str
    method: MethodConfig
    train: TrainConfig
    seed: int
    peer_init: str | None = None
    layers: FeatureLayers | None = None

    @property
    def looks_ahead(self) -> bool:
        """Whether the first epochs of a longer training would differ."""
        return self.train.looks_ahead or self.method.looks_ahead

    def stage(self, epoch: int | None = None) -> Stage:
        """Return the stage of the student after `epoch` epochs, identified by what determines those; None: finished.

        A training that does not look ahead shares its epochs with all longer ones.
        """
        shared = epoch is not None and not self.looks_ahead
        return Stage(
            "student",
            STUDENT_VERSION,
            {
                "data": self.data,
                "teacher": self.teacher,
                "arch": identity(self.arch),
                "method": self.method.identity(),
                "train": self.train.start(epoch) if epoch is not None and shared else self.train.identity(),
                "seed": self.seed,
                "peer_init": self.peer_init,
                "epoch": self.train.epochs if epoch is None else epoch,
                **({"layers": asdict(self.layers)} if self.layers else {}),
                **plugins.identity(("method", self.method.name), ("architecture", self.arch)),
            },
        )


def distill(
    store: StageStore,
    spec: StudentSpec,
    data: Callable[[], Dataset],
    teacher: Callable[[], TeacherLogits | None],
    peer: Callable[[], Classifier] | None = None,
) -> Iterator[Epoch]:
    """Every epoch of the student's history, once; the student is trained if it is not there, from its last kept epoch.

    data, teacher, peer: called only if something has to be trained; the student is trained on the data's device.
    peer: what `spec.peer_init` names. Of two students the one better on the validation images is kept. When the
    generator ends, the student's stage is in the store; if it is closed before, the epochs that it gave are kept. A
    training that does not look ahead leaves its last state, for a longer one to resume from. Raises Diverged.
    """
    assert (spec.peer_init is None) == (peer is None)
    history: list[Json] = []
    with store.building(spec.stage()) as folder:
        if folder:
            trainer = _trainer(spec, data(), teacher(), peer)
            history = _go_on(store, spec, trainer)
            yield from _epochs(history, lambda: trainer.best)
            while trainer.epoch < spec.train.epochs:
                history.append(trainer.run_epoch())
                if trainer.epoch < spec.train.epochs or not spec.looks_ahead:
                    _keep(store, spec, trainer, history)
                yield from _epochs(history[-1:], lambda: trainer.best)
            save(trainer.best, folder / MODEL_FILE)
            (folder / HISTORY_FILE).write_text(json.dumps(history))
    store.remove(spec.stage(spec.train.epochs - 1))
    whole: list[Json] = read_json(store.path(spec.stage()) / HISTORY_FILE)
    yield from _epochs(whole[len(history) :], None)


def _epochs(history: list[Json], model: Callable[[], Classifier] | None) -> Iterator[Epoch]:
    """model: gives the student after the last of these epochs."""
    for entry in history:
        metrics = {name: value for name, value in entry.items() if name != "epoch"}
        yield Epoch(int(entry["epoch"]), metrics, model if entry is history[-1] else None)


def load_student(folder: Path, spec: StudentSpec, data: Dataset) -> Classifier:
    """Load the finished student in a folder, on the CPU, in evaluation mode."""
    arch, _ = split_weights(spec.arch)
    return load(Checkpoint(arch, folder / MODEL_FILE), classes=data.classes, normalization=data.normalization)


def forget(store: StageStore, spec: StudentSpec) -> bool:
    """Remove every stored epoch of a student's training; if a process is training it, do nothing and return False."""
    try:
        with store.lock(spec.stage(), timeout=0):
            for epoch in range(1, spec.train.epochs):
                store.remove(spec.stage(epoch))
    except Timeout:
        return False
    return True


def _trainer(
    spec: StudentSpec, data: Dataset, teacher: TeacherLogits | None, peer: Callable[[], Classifier] | None
) -> Trainer:
    def initial(seed: int) -> Classifier:
        return build(spec.arch, classes=data.classes, normalization=data.normalization, seed=seed)

    device = data.device
    student, other = initial(spec.seed).to(device), None
    if spec.method.method.needs_peer:
        other = (peer() if peer else initial(peer_seed(spec.seed))).to(device)
    return Trainer(
        spec.train, spec.method, student, teacher, data, stream_seed=spec.seed, peer=other, layers=spec.layers
    )


def _go_on(store: StageStore, spec: StudentSpec, trainer: Trainer) -> list[Json]:
    """Restore the training from its last stored epoch; return the history up to it."""
    for epoch in range(spec.train.epochs, 0, -1):
        if not (folder := store.find(spec.stage(epoch))):
            continue
        with suppress(FileNotFoundError):  # removed just now by a shorter or longer training of this student
            history: list[Json] = read_json(folder / HISTORY_FILE)
            # To the CPU, from where every tensor is copied to where it belongs: Adam's step counters belong on the CPU,
            # and on a GPU each would be waited for in every step.
            trainer.load_state_dict(torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True))
            store.remove(spec.stage(epoch - 1))  # left by a kill between the two steps of `_keep`
            return history
    return []


def _keep(store: StageStore, spec: StudentSpec, trainer: Trainer, history: list[Json]) -> None:
    """Store the state after this epoch, then remove the previous one: a training keeps only its last state."""

    def write(folder: Path) -> None:
        state = BytesIO()
        torch.save(trainer.state_dict(), state)  # on a full disk, torch would raise an error of its own
        (folder / STATE_FILE).write_bytes(state.getbuffer())
        (folder / HISTORY_FILE).write_text(json.dumps(history))

    store.make(spec.stage(trainer.epoch), write)
    if trainer.epoch > 1:
        store.remove(spec.stage(trainer.epoch - 1))
