"""A trial as a value: everything that a worker needs to run it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from kdq.bits import FLOAT, Allocation
from kdq.data.augment import AugmentConfig
from kdq.distill.methods import METHODS, MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.pipeline.point import PointSpec
from kdq.pipeline.student import StudentSpec
from kdq.quantize.config import QuantizerSpec
from kdq.store.folder_store import StageStore
from kdq.store.stage import Json, digest
from study.space.declaration import TEACHER


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
    random weights; parameters: the method's, complete; bits: the allocations at which the student is quantized, beside
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
    bits: tuple[Allocation, ...]
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
        """Float first, then every allocation."""
        allocations = dict.fromkeys((FLOAT, *self.bits))
        return tuple(
            PointSpec(self.model_id, self.data.fingerprint, bits, self.quantizer, self.calibration_images, self.seed)
            for bits in allocations
        )

    @property
    def id(self) -> str:
        """16 hexadecimal digits of the SHA-256 of what the trial does."""
        return digest([point.stage().id for point in self.points])[:16]

    @property
    def epochs(self) -> int:
        return 0 if self.method == TEACHER else int(self.train["epochs"])

    def document(self) -> dict[str, Json]:
        return {**asdict(self), "bits": [bits.document() for bits in self.bits]}

    @classmethod
    def of(cls, document: Mapping[str, Json]) -> "Trial":
        """The trial that `document` described."""
        known = dict(document)
        known["data"] = DataRef(**document["data"])
        for key in ("teacher", "peer"):
            known[key] = ModelRef(**document[key]) if document[key] else None
        known["bits"] = tuple(map(Allocation.of_document, document["bits"]))
        known["quantizer"] = QuantizerSpec(**document["quantizer"])
        return cls(**known)

    def is_finished(self, store: StageStore) -> bool:
        return all(store.find(point.stage()) for point in self.points)


def train_config(document: Mapping[str, Json]) -> TrainConfig:
    """The training recipe that `dataclasses.asdict` wrote."""
    return TrainConfig(**{**document, "augment": AugmentConfig(**document["augment"])})
