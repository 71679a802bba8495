"""A trial as a value: everything that determines its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kdq.bits import FLOAT, Allocation
from kdq.distill.methods import METHODS, MethodConfig
from kdq.pipeline.point import PointSpec
from kdq.pipeline.student import StudentSpec
from kdq.store.folder_store import StageStore
from kdq.store.stage import digest
from study.plan.plan import Plan
from study.results.point import TEACHER
from study.space.configuration import Configuration


@dataclass(frozen=True, slots=True)
class InputIds:
    """The ids of a study's inputs: the data's fingerprint, the stages of the teacher and of the peers' initial weights;
    None if not needed."""

    data: str
    teacher: str | None = None
    peer: str | None = None


@dataclass(frozen=True)
class Trial:
    """A student, distilled and quantized at every width; without a student the teacher itself is quantized.

    name: readable, `dkd alpha=1 beta=8 temperature=4 seed=0`; points: float first, then every width.
    """

    name: str
    student: StudentSpec | None
    points: tuple[PointSpec, ...]

    @cached_property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the ids of its points."""
        return digest([point.stage().id for point in self.points])[:16]

    def short_name(self, varying: Sequence[str]) -> str:
        """Return what differs between trials, and the seed, `seed=0 dkd alpha=1`. varying: the names of that."""
        own = {"seed": self.seed, "method": self.method, **self.parameters}
        shown = [name for name in dict.fromkeys((*varying, "seed")) if name in own]
        return " ".join(str(own[name]) if name == "method" else f"{name}={own[name]:g}" for name in shown)

    @property
    def model_id(self) -> str:
        """The id of the stage whose weights are quantized."""
        return self.points[0].model

    @property
    def seed(self) -> int:
        return self.points[0].seed

    @property
    def bits(self) -> tuple[Allocation, ...]:
        return tuple(point.bits for point in self.points)

    @property
    def method(self) -> str:
        return self.student.method.name if self.student else TEACHER

    @property
    def parameters(self) -> Mapping[str, float]:
        """The complete parameters of the method."""
        return self.student.method.params if self.student else {}

    @property
    def epochs(self) -> int:
        return self.student.train.epochs if self.student else 0

    def is_finished(self, store: StageStore) -> bool:
        return all(store.find(point.stage()) for point in self.points)


def make_trial(plan: Plan, inputs: InputIds, configuration: Configuration, seed: int) -> Trial:
    """Return the trial of a configuration and a seed."""
    workload, student = plan.workload, _student(plan, inputs, configuration, seed)
    model = student.stage().id if student else inputs.teacher
    assert model is not None
    points = tuple(
        PointSpec(model, inputs.data, bits, workload.quantizer, workload.calibration_images, seed)
        for bits in dict.fromkeys((FLOAT, *map(Allocation.uniform, configuration.bits)))
    )
    return Trial(f"{configuration.name} seed={seed}", student, points)


def _student(plan: Plan, inputs: InputIds, configuration: Configuration, seed: int) -> StudentSpec | None:
    if configuration.method == TEACHER:
        return None
    method = METHODS[configuration.method]
    return StudentSpec(
        data=inputs.data,
        teacher=inputs.teacher if method.needs_teacher else None,
        arch=plan.workload.student,
        method=MethodConfig(configuration.method, configuration.parameters),
        train=plan.workload.train,
        seed=seed,
        peer_init=inputs.peer if method.needs_peer else None,
        layers=plan.workload.layers if method.feature_loss else None,
    )
