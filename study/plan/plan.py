"""What a study is going to do, known before anything runs: its trials, their students, its points."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from kdq.bits import FLOAT_BITS
from kdq.data.dataset import SPLIT_VERSION
from kdq.data.sources import DATA_VERSION
from kdq.distill.methods import METHODS
from kdq.errors import UserError
from kdq.pipeline.point import POINT_VERSION
from kdq.pipeline.student import STUDENT_VERSION
from kdq.store.stage import Json, canonical, digest
from study.schedulers.registry import make_rule
from study.schedulers.scheduler import RungConfig, Rungs
from study.space.configuration import Configuration
from study.space.declaration import METHOD, TEACHER
from study.space.space import ADAPTIVE, LARGEST, Space
from study.space.workload import Workload

LONGEST_NAME = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")


@dataclass(frozen=True)
class Plan:
    """A space searched on a workload; every configuration is tried once with each seed."""

    space_name: str
    workload_name: str
    space: Space
    workload: Workload
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if (trials := int(self.space.count) * len(self.seeds)) > LARGEST:
            raise UserError(
                f"seeds: {trials:,} trials, and a study has at most {LARGEST:,}; give fewer seeds or trials"
            )

    @property
    def is_adaptive(self) -> bool:
        """The searcher decides as it goes: how many trials there will be is known, but not which."""
        return self.space.searcher in ADAPTIVE

    @property
    def configurations(self) -> Sequence[Configuration]:
        """What will be tried, as far as it is known: all of it, or nothing under an adaptive searcher."""
        return () if self.is_adaptive else self.expected

    @cached_property
    def expected(self) -> Sequence[Configuration]:
        """What will be tried; under an adaptive searcher what a random one would try, to reckon with.

        Random draws depend on the first of the seeds.
        """
        if self.space.searcher == "grid":
            return list(islice(self.space, self.space.trials))
        assert self.space.trials is not None
        return self.space.samples(self.seeds[0], int(min(self.space.trials, self.space.size)))

    @property
    def trial_count(self) -> int:
        """How many trials there will be, at most if the searcher is adaptive."""
        tried = self.space.trials if self.is_adaptive else len(self.expected)
        assert tried is not None
        return tried * len(self.seeds)

    @property
    def runs(self) -> list[tuple[Configuration, int]]:
        """Every trial that is known as its configuration and seed."""
        return [(configuration, seed) for configuration in self.configurations for seed in self.seeds]

    @property
    def students(self) -> int:
        """How many students are distilled by `expected`: configurations that differ in bits alone share theirs."""
        return len({c.student for c in self.expected if c.method != TEACHER}) * len(self.seeds)

    @property
    def widths(self) -> tuple[int, ...]:
        """The bit widths of all trials' points, float first."""
        return tuple(dict.fromkeys((FLOAT_BITS, *(bits for widths in self.space.bits for bits in widths))))

    @property
    def points(self) -> int:
        """How many points there will be, as far as `expected` tells."""
        return sum(len({FLOAT_BITS, *c.bits}) for c in self.expected) * len(self.seeds)

    @cached_property
    def methods(self) -> set[str]:
        """The methods that trials may have."""
        if self.is_adaptive:
            return {str(values[METHOD]) for values in self.space.cases()}
        return {configuration.method for configuration in self.configurations}

    @property
    def needs_teacher(self) -> bool:
        return any(method == TEACHER or METHODS[method].needs_teacher for method in self.methods)

    @property
    def needs_peer(self) -> bool:
        """Some students learn beside a peer that starts from given weights."""
        distilling = self.methods - {TEACHER}
        return self.workload.peer_init is not None and any(METHODS[method].needs_peer for method in distilling)

    @property
    def needs_distilling(self) -> bool:
        return self.methods != {TEACHER}

    def rule(self) -> Rungs | None:
        """The scheduler's rule in its first state; None if every trial runs to its end.

        Raises UserError for rungs that the trainings never reach.
        """
        scheduler = self.space.scheduler
        if scheduler.kind.promotion is None:
            return None
        epochs = self.workload.train.epochs
        config = RungConfig(epochs, self.trial_count, scheduler.grace_period, scheduler.reduction_factor)
        return make_rule(scheduler.name, config)

    def document(self) -> dict[str, Json]:
        """Everything that decides what the study does, as JSON; the words that only describe it left out."""
        space, workload = self.space.document(), asdict(self.workload)
        del workload["description"]
        versions = {"data": DATA_VERSION, "split": SPLIT_VERSION, "student": STUDENT_VERSION, "point": POINT_VERSION}
        document = {"space": space, "workload": workload, "seeds": self.seeds}
        document["versions"] = versions  # other results need another default name
        plain: dict[str, Json] = json.loads(canonical(document))
        return plain

    def params(self) -> dict[str, Any]:
        """What all trials have in common, flat, as a comparison in the MLflow UI needs it."""
        workload = self.workload
        return {
            "space": self.space_name,
            "workload": self.workload_name,
            "dataset": workload.dataset,
            "teacher": workload.teacher,
            "student": workload.student,
            "searcher": self.space.searcher,
            "scheduler": self.space.scheduler.name,
            "train_images": workload.train_images or "all",
            "val_images": workload.val_images,
            "calibration_images": workload.calibration_images,
            "quantizer": workload.quantizer.method,
            "activation_bits": workload.quantizer.activation_bits or "float",
            **({"peer_init": workload.peer_init} if self.needs_peer else {}),
            **flat({"quantizer": dict(workload.quantizer.params)}),
            **flat({"train": self.document()["workload"]["train"]}),
        }

    @property
    def default_name(self) -> str:
        """A name that the same command always gets, and no other."""
        end = f"-{digest(self.document())[:6]}"
        names = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{self.space_name}-{self.workload_name}").lstrip("._-")
        return (names or "study")[: LONGEST_NAME - len(end)] + end


def check_name(name: str) -> str:
    """Raise UserError unless `name` can be a folder, an MLflow experiment and a word on a command line."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"study name {name!r}: must be 1 to 100 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return name


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Every setting in which a study's document differs from what it was, and how."""
    old, new = flat(before), flat(now)
    return {
        key: f"{key} was {old.get(key, 'absent')}, is now {new.get(key, 'absent')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    }


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
