"""The plan of a study, known before anything runs: its trials, their students and points."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from kdq import plugins
from kdq.bits import FLOAT_BITS
from kdq.data.dataset import SPLIT_VERSION
from kdq.data.source import Shape
from kdq.data.sources import DATA_VERSION, find_shape
from kdq.distill.methods import METHODS
from kdq.distill.teachers import is_trained_here
from kdq.errors import UserError
from kdq.models.sources import short_name
from kdq.pipeline.point import POINT_VERSION
from kdq.pipeline.student import STUDENT_VERSION
from kdq.store.stage import Json, canonical, digest
from study.results.objective import TOP1
from study.results.point import TEACHER
from study.schedulers.registry import by_configuration, make_scheduler
from study.schedulers.scheduler import RungConfig, Scheduler
from study.space.configuration import Configuration
from study.space.declaration import METHOD, defaults
from study.space.space import LARGEST, Space
from study.space.workload import Workload

VERSIONS = {"data": DATA_VERSION, "split": SPLIT_VERSION, "student": STUDENT_VERSION, "point": POINT_VERSION}
LONGEST_NAME = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")


@dataclass(frozen=True)
class Plan:
    """A space searched on a workload; every configuration is tried once with each seed.

    own_shape: what the user's own images hold, as far as known before they are decoded.
    """

    space_name: str
    workload_name: str
    space: Space
    workload: Workload
    seeds: tuple[int, ...]
    own_shape: Shape | None = None

    def __post_init__(self) -> None:
        if (trials := int(self.space.count) * len(self.seeds)) > LARGEST:
            raise UserError(
                f"seeds: {trials:,} trials, and a study has at most {LARGEST:,}; give fewer seeds or trials"
            )

    @property
    def shape(self) -> Shape:
        """What the data set holds."""
        return self.own_shape or find_shape(self.workload.data, None)

    @property
    def val_images(self) -> int:
        """The number of validation images."""
        shape = self.shape
        return self.workload.val_images or shape.val or max(1, shape.train // 10)

    @property
    def train_images(self) -> int:
        """The number of training images."""
        shape = self.shape
        return self.workload.train_images or shape.train - (0 if shape.val else self.val_images)

    @property
    def is_adaptive(self) -> bool:
        """Whether the searcher chooses trials by earlier results, so that only their number is known."""
        return self.space.is_adaptive

    @property
    def configurations(self) -> Sequence[Configuration]:
        """The configurations that will be tried; empty for an adaptive searcher, whose choices are unknown."""
        return () if self.is_adaptive else self.expected

    @cached_property
    def expected(self) -> Sequence[Configuration]:
        """The configurations that will be tried; for an adaptive searcher those of a random one, for estimates.

        Random draws are seeded by the first of the seeds.
        """
        if self.space.searcher == "grid":
            return list(islice(self.space, self.space.trials))
        assert self.space.trials is not None
        return self.space.samples(self.seeds[0], int(min(self.space.trials, self.space.size)))

    @property
    def trial_count(self) -> int:
        """The number of trials."""
        return int(self.space.count) * len(self.seeds)

    @property
    def runs(self) -> list[tuple[Configuration, int]]:
        """The configuration and seed of every known trial."""
        return [(configuration, seed) for configuration in self.configurations for seed in self.seeds]

    @property
    def students(self) -> int:
        """The number of students of `expected`: configurations that differ only in bits share a student."""
        return len({c.student for c in self.expected if c.method != TEACHER}) * len(self.seeds)

    @property
    def widths(self) -> tuple[int, ...]:
        """The bit widths of the points of all trials, float first."""
        return tuple(dict.fromkeys((FLOAT_BITS, *(bits for widths in self.space.bits for bits in widths))))

    @property
    def quantizes(self) -> bool:
        """Whether any point has less than 32 bits."""
        return self.widths != (FLOAT_BITS,)

    @property
    def varying(self) -> tuple[str, ...]:
        """The names of what trials differ in: the seed if there are several, the method, parameters."""
        return (*(["seed"] if len(self.seeds) > 1 else []), *self.space.varying)

    @property
    def common(self) -> tuple[str, ...]:
        """Those names of `varying` that every trial has."""
        always = [set(defaults(method)) for method in self.methods]
        return tuple(name for name in self.varying if name in ("seed", METHOD) or all(name in own for own in always))

    @property
    def points(self) -> int:
        """The number of points of `expected`."""
        return sum(len({FLOAT_BITS, *c.bits}) for c in self.expected) * len(self.seeds)

    @cached_property
    def methods(self) -> set[str]:
        """The methods that the trials may use."""
        if self.is_adaptive:
            return {str(values[METHOD]) for values in self.space.cases()}
        return {configuration.method for configuration in self.configurations}

    @property
    def needs_teacher(self) -> bool:
        return any(method == TEACHER or METHODS[method].needs_teacher for method in self.methods)

    @property
    def trains_teacher(self) -> bool:
        """Whether the study trains its teacher itself."""
        return self.needs_teacher and is_trained_here(self.workload.teacher)

    @property
    def compares_features(self) -> bool:
        """Whether any student learns from the teacher's inner layers."""
        return any(METHODS[method].feature_loss for method in self.methods - {TEACHER})

    @property
    def needs_peer(self) -> bool:
        """Whether any student learns beside a peer that starts from given weights."""
        distilling = self.methods - {TEACHER}
        return self.workload.peer_init is not None and any(METHODS[method].needs_peer for method in distilling)

    @property
    def needs_distilling(self) -> bool:
        return self.methods != {TEACHER}

    @property
    def plugins(self) -> dict[str, str]:
        """The plugins that have added anything that the plan uses: name -> SHA-256."""
        space, workload = self.space, self.workload
        words = re.findall(r"\w+", workload.teacher)
        architectures = [("architecture", word) for word in (workload.student, *words)]
        own = {"data set": workload.dataset, "quantizer": workload.quantizer.method}
        search = {"scheduler": space.scheduler.name, "searcher": space.searcher}
        methods = [("method", method) for method in sorted(self.methods)]
        return plugins.used([*methods, *architectures, *own.items(), *search.items()])

    def make_scheduler(self) -> Scheduler | None:
        """Return the scheduler in its initial state; None if every trial runs to its last epoch.

        Raises UserError if the trainings are too short to reach a rung.
        """
        scheduler = self.space.scheduler
        if scheduler.kind.promotion is None:
            return None
        epochs = self.workload.train.epochs
        first, factor = scheduler.first_rung(epochs), scheduler.reduction_factor
        if scheduler.by == "trial":
            return make_scheduler(scheduler.name, RungConfig(epochs, self.trial_count, first, factor))
        config = RungConfig(epochs, int(self.space.count), first, factor)
        return by_configuration(make_scheduler(scheduler.name, config))

    def document(self) -> dict[str, Json]:
        """Return everything that determines what the study does, as JSON, without descriptions."""
        space, workload = self.space.document(), self.workload.document()
        document = {"space": space, "workload": workload, "seeds": self.seeds}
        document["versions"] = dict(VERSIONS)  # different results need a different default name
        if self.plugins:
            document["plugins"] = self.plugins
        plain: dict[str, Json] = json.loads(canonical(document))
        return plain

    def params(self) -> dict[str, Any]:
        """Return the parameters that all trials share, flat, as comparisons in the MLflow UI need them."""
        workload = self.workload
        return {
            "space": self.space_name,
            "workload": self.workload_name,
            "dataset": workload.dataset,
            "teacher": workload.teacher,
            "student": short_name(workload.student),
            "searcher": self.space.searcher,
            "scheduler": self.space.scheduler.name,
            "train_images": workload.train_images or "all",
            "val_images": workload.val_images or "default",
            "calibration_images": workload.calibration_images,
            "quantizer": workload.quantizer.method,
            "activation_bits": workload.quantizer.activation_bits or "float",
            **({"objective": self.space.objective} if self.space.objective != TOP1 else {}),
            **({"peer_init": workload.peer_init} if self.needs_peer else {}),
            **flat({"quantizer": dict(workload.quantizer.params)}),
            **flat({"train": self.document()["workload"]["train"]}),
        }

    @property
    def default_name(self) -> str:
        """A name that is unique to the plan, and the same for the same command."""
        end = f"-{digest(self.document())[:6]}"
        names = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.space_name}-{self.workload_name}").lstrip("._-")
        return (names or "study")[: LONGEST_NAME - len(end)] + end


def check_name(name: str) -> str:
    """Return `name`; raise UserError unless it can name a folder, an MLflow experiment and a command-line argument."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"study name {name!r}: must be 1 to 100 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return name


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return a description of every setting that differs between two documents of a study, by dotted key."""
    old, new = flat(before), flat(now)
    return {
        key: f"{key} was {old.get(key, 'absent')}, is now {new.get(key, 'absent')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    }


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
