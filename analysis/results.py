"""What a study measured, read at once: its points, which images they classify correctly, its trials."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from analysis.store import Store
from analysis.stored import StoredStudy, Training, Trial
from kdq.correctness import Correct
from kdq.errors import UserError
from study.results.compare import Interval, Panel, Sample, SeedNoise, accuracy, paired
from study.results.front import SeedGroup, comparable, largest
from study.results.objective import OBJECTIVES, TOP1, Objective
from study.results.point import Point


class Places(NamedTuple):
    """Configurations that are compared at once. places: of each in the panel; panel: None without any."""

    places: Mapping[SeedGroup, int]
    panel: Panel | None


PACKED = ".safetensors"


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
        counts = Counter(setting for group in self.groups for setting in group.settings)
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

    @cached_property
    def ranked(self) -> list[SeedGroup]:
        """The configurations that are compared with each other, the best objective first."""
        return sorted(self.groups, key=lambda group: (-group.score, *size_first(group)))

    @cached_property
    def decides(self) -> Objective:
        """The metric that decides in the study."""
        return OBJECTIVES[self.study.objective]

    def interval(self, group: SeedGroup) -> Interval | None:
        """Return the objective of a configuration with its interval; None if unknown.

        An accuracy's is over validation images and seeds; it is unknown if the images were not logged. Another
        metric's is Student's over seeds, within the metric's range, unknown with one.
        """
        if group not in self._intervals:
            self._intervals[group] = self._interval(group)
        return self._intervals[group]

    def _interval(self, group: SeedGroup) -> Interval | None:
        if self.decides.name != TOP1:
            found = paired([point.value for point in group.points]) if group.n > 1 else None
            return found and replace(found, low=max(0.0, found.low), high=min(self.decides.most, found.high))
        sample = self.sample(group)
        return accuracy(sample, self.noise) if sample else None

    @cached_property
    def _intervals(self) -> dict[SeedGroup, Interval | None]:
        return {}

    def panel_of(self, group: SeedGroup) -> Places:
        """Return the configurations of which the same images were logged as of this one; empty if none were."""
        return next((panel for panel in self._panels if group in panel.places), Places({}, None))

    @cached_property
    def _panels(self) -> list[Places]:
        correct = {group: vectors for group in self.groups if (vectors := self._correct(group, self.val_correct))}
        panels = []
        for images in sorted({len(vectors[0]) for vectors in correct.values()}):
            own = {group: vectors for group, vectors in correct.items() if len(vectors[0]) == images}
            kinds, students = map(self._kind, own), map(_students, own)
            panel = Panel(np.array(list(own.values())), list(kinds), list(students), self.noise)
            panels.append(Places({group: place for place, group in enumerate(own)}, panel))
        return panels

    def sample(self, group: SeedGroup, part: str = "val") -> Sample | None:
        """Return what was measured of a configuration, sorted by seed; None if its images were not logged."""
        vectors = self._correct(group, self.val_correct if part == "val" else self.test_correct)
        if not vectors:
            return None
        return Sample(100.0 * np.array(vectors, dtype=np.float64), self._kind(group), _students(group))

    def _kind(self, group: SeedGroup) -> object:
        """Return what names the configurations whose seeds vary alike."""
        return self.name, group.bits

    def packed_file(self, group: SeedGroup) -> str:
        """Return the packed model of a configuration's best seed. Raises UserError if none was logged."""
        run = self.runs[group.best_point]
        packed = [path for path in self.store.artifacts(run) if path.endswith(PACKED)]
        if not packed:
            raise UserError(f"study {self.name}: run {run} has no packed model; run the study again")
        return packed[0]

    def _correct(self, group: SeedGroup, correct: Mapping[str, Correct]) -> list[Correct]:
        """Return which images a configuration classifies correctly, sorted by seed; nothing if some were not logged."""
        runs = [self.runs[point] for point in by_seed(group)]
        vectors = [correct[run] for run in runs if run in correct]
        return vectors if len(vectors) == len(runs) and len(set(map(len, vectors))) == 1 else []


def by_seed(group: SeedGroup) -> list[Point]:
    """Return the points of a configuration, sorted by seed."""
    return sorted(group.points, key=lambda point: point.seed)


def _students(group: SeedGroup) -> tuple[object, ...]:
    """Return what names the students of a configuration: it is the same at every width."""
    return (*group.parameters.items(), *(point.seed for point in by_seed(group)))


def read(store: Store, names: Sequence[str]) -> list[Results]:
    """Return the results of studies by name. Raises UserError for an unknown or repeated name."""
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"study {min(repeated)!r} is given twice: name each study once")
    known = {study.name: study for study in store.studies()} if len(names) > 1 else {}
    return [Results(store, known.get(name) or store.study(name)) for name in names]


def no_points(studies: Sequence[Results]) -> str:
    """Return why studies have no points: how their trials ended."""
    ends = Counter(trial.status.replace("_", " ") for each in studies for trial in each.trials)
    counted = ", ".join(f"{count} {status}" for status, count in ends.items())
    return f"no points; trials: {counted}" if ends else "no points: no trial has started"


def label(group: SeedGroup) -> str:
    """Return a configuration's settings, such as `method=dkd alpha=0.5 student=resnet20`."""
    return " ".join(group.settings)


def size_first(group: SeedGroup) -> tuple[int, float, str]:
    """Return what sorts configurations by size; of the same size the better one is first, then by name."""
    return largest(group, "total_bits"), -group.score, label(group)
