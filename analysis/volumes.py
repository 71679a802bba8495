"""Hypervolumes of studies, told relative to a reference model and in the range of the studies' own sizes."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.results import Results
from kdq.bits import FLOAT_BITS
from kdq.errors import UserError
from study.results.front import SeedGroup, relative_hypervolume, seed_groups, size_range
from study.results.objective import OBJECTIVES, TOP1, Objective
from study.results.point import Point


@dataclass(frozen=True, slots=True)
class Reference:
    """The model relative to which hypervolumes are told. value: of the objective, the validation accuracy in percent
    unless the studies have another."""

    value: float
    name: str


def reference(studies: Sequence[Results]) -> Reference | None:
    """Return the reference model of studies: the best teacher, else the best float student, else the best student."""
    several = len(studies) > 1
    decides = common_objective(studies)
    teachers = {each.name: each.study.teacher for each in studies if each.study.teacher and decides.name == TOP1}
    if teachers:
        name = max(teachers, key=lambda name: teachers[name] or 0)
        return Reference(teachers[name] or 0, f"the teacher of {name}" if several else "the teacher")
    groups = [group for each in studies for group in each.groups]
    floats = [group for group in groups if group.bits == FLOAT_BITS]
    best = max((group.score for group in floats or groups), default=0.0)
    return Reference(decides.value(best), f"the best {'float ' if floats else ''}student") if best > 0 else None


def common_objective(studies: Sequence[Results]) -> Objective:
    """Return the metric that decides in all of the studies. Raises UserError if they have different ones."""
    decides = {each.decides.name: each for each in studies}
    if len(decides) > 1:
        named = ", ".join(f"{name} ({each.name})" for name, each in decides.items())
        raise UserError(f"the studies have different objectives: {named}; compare studies of one objective")
    return studies[0].decides if studies else OBJECTIVES[TOP1]


@dataclass(frozen=True, slots=True)
class Scale:
    """What hypervolumes are told in, the same for studies that are compared: the reference model, the total bits from
    which to which areas count, and the metric that decides."""

    reference: Reference
    sizes: tuple[float, float]
    objective: Objective = OBJECTIVES[TOP1]

    def percent(self, groups: Sequence[SeedGroup]) -> float:
        """Return the hypervolume of configurations, see `study.results.front.relative_hypervolume`."""
        return relative_hypervolume(groups, self.objective.score(self.reference.value), self.sizes)

    def of_trials(self, results: Results) -> dict[str, float]:
        """Return the hypervolume of the points of each trial of a study, by its id."""
        by_trial: dict[str, list[Point]] = {}
        for point in results.points:
            by_trial.setdefault(point.trial_id, []).append(point)
        return {trial: self.percent(seed_groups(own)) for trial, own in by_trial.items()}

    @property
    def definition(self) -> str:
        """Return what the percentage means, in one line."""
        model = f"{self.reference.name} ({self.objective.show(self.reference.value)} at every size)"
        smallest, largest = self.sizes
        decides = self.objective
        base = "" if decides.is_higher_better else f", counted from {decides.show(decides.worst)} down,"
        return (
            f"% of the area under {model}: the area under the front of validation {decides.title}{base} over log2 of "
            f"total bits, from {smallest:,.0f} to {largest:,.0f}"
        )


def scale(studies: Sequence[Results], groups: Sequence[SeedGroup] | None = None) -> Scale | None:
    """Return the scale of studies that are compared; None if they have no points, or none above 0 %.

    groups: the configurations whose sizes count, by default all that are compared. Raises UserError if the studies
    have different objectives.
    """
    sized = [group for each in studies for group in each.groups] if groups is None else groups
    model = reference(studies)
    return Scale(model, size_range(sized), common_objective(studies)) if sized and model else None
