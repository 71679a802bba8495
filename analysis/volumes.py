"""Hypervolumes of studies, told relative to a reference model and in the range of the studies' own sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.results import Results
from kdq.bits import FLOAT_BITS
from study.results.front import SeedGroup, relative_hypervolume, seed_groups, size_range
from study.results.point import Point


@dataclass(frozen=True, slots=True)
class Reference:
    """The model relative to which hypervolumes are told. accuracy: on validation images, in percent."""

    accuracy: float
    name: str


def reference(studies: Sequence[Results]) -> Reference | None:
    """Return the reference model of studies: the best teacher, else the best float student, else the best student."""
    several = len(studies) > 1
    teachers = {each.name: each.study.teacher for each in studies if each.study.teacher}
    if teachers:
        name = max(teachers, key=lambda name: teachers[name] or 0)
        return Reference(teachers[name] or 0, f"the teacher of {name}" if several else "the teacher")
    groups = [group for each in studies for group in each.groups]
    floats = [group for group in groups if group.bits == FLOAT_BITS]
    accuracy = max((group.mean("val_top1") for group in floats or groups), default=0.0)
    return Reference(accuracy, f"the best {'float ' if floats else ''}student") if accuracy else None


@dataclass(frozen=True, slots=True)
class Scale:
    """What hypervolumes are told in, the same for studies that are compared: the reference model, and the total bits
    from which to which areas count."""

    reference: Reference
    sizes: tuple[float, float]

    def percent(self, groups: Sequence[SeedGroup]) -> float:
        """Return the hypervolume of configurations, see `study.results.front.relative_hypervolume`."""
        return relative_hypervolume(groups, self.reference.accuracy, self.sizes)

    def of_trials(self, results: Results) -> dict[str, float]:
        """Return the hypervolume of the points of each trial of a study, by its id."""
        by_trial: dict[str, list[Point]] = {}
        for point in results.points:
            by_trial.setdefault(point.trial_id, []).append(point)
        return {trial: self.percent(seed_groups(own)) for trial, own in by_trial.items()}

    @property
    def definition(self) -> str:
        """Return what the percentage means, in one line."""
        model = f"{self.reference.name} ({self.reference.accuracy:.2f} % at every size)"
        smallest, largest = self.sizes
        return (
            f"% of the area under {model}: the area under the front of validation accuracy over log2 of total bits, "
            f"from {smallest:,.0f} to {largest:,.0f}"
        )


def scale(studies: Sequence[Results], groups: Sequence[SeedGroup] | None = None) -> Scale | None:
    """Return the scale of studies that are compared; None if they have no points, or none above 0 %.

    groups: the configurations whose sizes count, by default all that are compared.
    """
    sized = [group for each in studies for group in each.groups] if groups is None else groups
    model = reference(studies)
    return Scale(model, size_range(sized)) if sized and model else None
