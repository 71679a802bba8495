"""What a study is going to do, known before anything runs: its trials, their students, its points."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdq.data import DATA_VERSION, SPLIT_VERSION
from kdq.errors import UserError
from kdq.measure import POINT_VERSION
from kdq.methods import METHODS
from kdq.points import FLOAT_BITS
from kdq.stages import Json, canonical, digest
from kdq.students import STUDENT_VERSION
from study.spaces import TEACHER, Configuration, Space
from study.workloads import Workload

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Plan:
    """A space searched on a workload. trials: at most this many configurations, None for all."""

    space_name: str
    workload_name: str
    space: Space
    workload: Workload
    seeds: tuple[int, ...]
    trials: int | None

    @property
    def configurations(self) -> Sequence[Configuration]:
        return self.space.configurations()[: self.trials]

    @property
    def runs(self) -> list[tuple[Configuration, int]]:
        """Every trial as its configuration and seed."""
        return [(configuration, seed) for configuration in self.configurations for seed in self.seeds]

    @property
    def students(self) -> int:
        """How many students are distilled: configurations of the same method and parameters share theirs."""
        return len({(c.identity, seed) for c, seed in self.runs if c.method != TEACHER})

    @property
    def widths(self) -> tuple[int, ...]:
        """The bit widths of a trial's points, float first."""
        return tuple(dict.fromkeys((FLOAT_BITS, *self.space.bits)))

    @property
    def points(self) -> int:
        return len(self.runs) * len(self.widths)

    @property
    def needs_teacher(self) -> bool:
        return any(c.method == TEACHER or METHODS[c.method].needs_teacher for c in self.configurations)

    @property
    def needs_peer(self) -> bool:
        """Some students learn beside a peer that starts from given weights."""
        return self.workload.peer_init is not None and any(
            c.method != TEACHER and METHODS[c.method].needs_peer for c in self.configurations
        )

    @property
    def needs_distilling(self) -> bool:
        return any(c.method != TEACHER for c in self.configurations)

    def document(self) -> dict[str, Json]:
        """Everything that decides what the study does, as JSON; the words that only describe it left out."""
        space, workload = asdict(self.space), asdict(self.workload)
        del space["description"], workload["description"]
        versions = {"data": DATA_VERSION, "split": SPLIT_VERSION, "student": STUDENT_VERSION, "point": POINT_VERSION}
        document = {"space": space, "workload": workload, "seeds": self.seeds, "trials": self.trials}
        document["versions"] = versions  # other results need another default name
        plain: dict[str, Json] = json.loads(canonical(document))
        return plain

    @property
    def default_name(self) -> str:
        """A name that the same command always gets, and no other."""
        return f"{self.space_name}-{self.workload_name}-{digest(self.document())[:6]}"


def check_name(name: str) -> str:
    """Raise UserError unless `name` can be a folder, an MLflow experiment and a word on a command line."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"study name {name!r}: must be 1 to 100 letters, digits, '.', '_' or '-', a letter or digit first"
        )
    return name


def check_same(study: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError naming every setting in which a study differs from what it was under this name."""
    old, new = flat(before), flat(now)
    differences = [
        f"{key} was {old.get(key, 'absent')}, is now {new.get(key, 'absent')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if differences:
        raise UserError(
            f"study {study!r} exists with other settings: {'; '.join(differences)}; "
            f"choose another --name, or give the settings that it had"
        )


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
