"""What a study measured, read at once: its points, which images they classify correctly, its trials."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.store import Store
from analysis.stored import StoredStudy, Training, Trial
from kdq.correctness import Correct
from kdq.errors import UserError
from study.results.compare import Sample, SeedNoise
from study.results.front import SeedGroup, comparable
from study.results.point import Point
from study.units import exact


@dataclass(frozen=True)
class Results:
    """A study's results; each kind is read when it is first asked for."""

    store: Store
    study: StoredStudy

    @property
    def name(self) -> str:
        return self.study.name

    @cached_property
    def runs(self) -> dict[Point, str]:
        """The finished points with the front marked -> their runs."""
        return self.store.points(self.study)

    @property
    def points(self) -> list[Point]:
        return list(self.runs)

    @cached_property
    def groups(self) -> list[SeedGroup]:
        """The configurations that are compared with each other."""
        return comparable(self.points)

    @cached_property
    def common(self) -> frozenset[str]:
        """The settings that all configurations have, which a list of them need not repeat."""
        counts = Counter(setting for group in self.groups for setting in settings(group))
        return frozenset(setting for setting, count in counts.items() if count == len(self.groups))

    @cached_property
    def trials(self) -> list[Trial]:
        return self.store.trials(self.study)

    @cached_property
    def trainings(self) -> dict[str, Training]:
        return self.store.trainings(self.study)

    @cached_property
    def val_correct(self) -> dict[str, Correct]:
        return self.store.correct(self.study, "val")

    @cached_property
    def test_correct(self) -> dict[str, Correct]:
        return self.store.correct(self.study, "test")

    @cached_property
    def noise(self) -> SeedNoise:
        """How the seeds' validation accuracies vary, pooled over the configurations that are compared."""
        return self.noise_of("val")

    def noise_of(self, part: str) -> SeedNoise:
        """Return how the seeds' accuracies on a part, "val" or "test", vary."""
        samples = (self.sample(group, part) for group in self.groups if group.n > 1)
        return SeedNoise.of(sample for sample in samples if sample is not None)

    def sample(self, group: SeedGroup, part: str = "val") -> Sample | None:
        """Return what was measured of a configuration, sorted by seed; None if its images were not logged."""
        correct = self.val_correct if part == "val" else self.test_correct
        points = sorted(group.points, key=lambda point: point.seed)
        vectors = [correct[self.runs[point]] for point in points if self.runs[point] in correct]
        if len(vectors) < len(points) or len(set(map(len, vectors))) != 1:
            return None
        students = (*group.parameters.items(), *(point.seed for point in points))
        return Sample(100.0 * np.array(vectors, dtype=np.float64), (self.name, group.bits), students)


def read(store: Store, names: Sequence[str]) -> list[Results]:
    """Return the results of studies by name. Raises UserError for an unknown or repeated name."""
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"study {min(repeated)!r} is given twice: name each study once")
    known = {study.name: study for study in store.studies()} if len(names) > 1 else {}
    return [Results(store, known.get(name) or store.study(name)) for name in names]


def label(group: SeedGroup) -> str:
    """Return a configuration's settings, such as `method=dkd alpha=0.5 student=resnet20`."""
    return " ".join(settings(group))


def settings(group: SeedGroup) -> list[str]:
    """Return the settings of a configuration, such as `alpha=0.5`."""
    parameters: Mapping[str, str | float] = {k: v for k, v in group.parameters.items() if k != "options"}
    named = [f"{name}={value if isinstance(value, str) else exact(value)}" for name, value in parameters.items()]
    return named + group.points[0].options.split()
