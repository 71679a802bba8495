"""The answer of a study: its best configuration within a budget, and why: what it cannot be told from, what is smaller.

Configurations are compared with the best on the same validation images, by the intervals of `study.results.compare`; if
a metric other than accuracy decides, by Student's intervals paired over seeds. With K others each interval is at
1 − 0.05 / K (Bonferroni). So those whose interval has 0 contain the truly best one with at least 95 %, although the
best was chosen for its accuracy, which favours lucky ones (the winner's curse; as in subset selection, Gupta 1965).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from analysis.results import Results, no_points, size_first
from analysis.stored import Trial
from kdq.errors import UserError
from study.results.compare import Interval, paired, simultaneous
from study.results.front import SeedGroup, largest, most_valuable, nothing_fits, on_front, within
from study.results.objective import TOP1, Objective
from study.results.status import TrialStatus


@dataclass(frozen=True, slots=True)
class Budget:
    """What an answer is for, one of three: the most total bits, the most bytes packed, or a value of the objective."""

    max_bits: float | None = None
    max_bytes: float | None = None
    target: float | None = None

    @property
    def column(self) -> str:
        return "packed_bytes" if self.max_bytes is not None else "total_bits"

    @property
    def limit(self) -> float | None:
        return self.max_bytes if self.max_bytes is not None else self.max_bits


@dataclass(frozen=True, slots=True)
class Rival:
    """A configuration, and its objective minus that of the best; None if unknown, see `Results.interval`."""

    group: SeedGroup
    difference: Interval | None

    @property
    def is_alike(self) -> bool:
        """Whether it cannot be told from the best; not if that is unknown."""
        return self.difference is not None and not self.difference.excludes_zero


@dataclass(frozen=True, slots=True)
class Answer:
    """best: the best configuration within a budget, by the mean of the objective.

    interval: its own; images: how many it is over; each None if unknown. rivals: all others within the budget, the best
    first; recommended: the smallest configuration on the front that cannot be told from the best,
    possibly itself; off the front, one that is no larger is at least as accurate. For a target, best is the smallest
    configuration whose mean reaches it, it has no rivals, and recommended is the smallest whose whole interval reaches
    it, None if there is none.
    """

    best: SeedGroup
    interval: Interval | None
    images: int | None
    rivals: tuple[Rival, ...]
    recommended: SeedGroup | None

    @property
    def runner_up(self) -> Rival | None:
        return self.rivals[0] if self.rivals else None

    @property
    def alike(self) -> list[Rival]:
        """The configurations that cannot be told from the best, smallest first."""
        alike = (rival for rival in self.rivals if rival.is_alike)
        return sorted(alike, key=lambda rival: largest(rival.group, "total_bits"))  # of equal ones the order remains

    @property
    def ties(self) -> list[SeedGroup]:
        """The configurations with exactly the objective of the best."""
        return [rival.group for rival in self.rivals if rival.group.score == self.best.score]


def answer(results: Results, budget: Budget) -> Answer:
    """Return the answer of a study. Raises UserError if no configuration is within the budget or reaches the target."""
    if not results.groups:
        raise UserError(f"study {results.name}: {no_points([results])}")
    if budget.target is not None:
        return _smallest(results, budget.target)
    assert budget.limit is not None
    groups = within(results.ranked, budget.limit, budget.column)
    if not groups:
        raise nothing_fits(results.points, budget.limit, budget.column)
    best = most_valuable(takewhile(lambda group: group.score == groups[0].score, groups))
    rivals = _rivals(results, best, groups)
    interval, images = _own(results, best)
    front = {group for group, is_on in zip(groups, on_front(groups), strict=True) if is_on}
    alike = [rival.group for rival in rivals if rival.is_alike and rival.group in front]
    return Answer(best, interval, images, rivals, min([best, *alike], key=size_first) if interval else None)


def _rivals(results: Results, best: SeedGroup, groups: Iterable[SeedGroup]) -> tuple[Rival, ...]:
    """Return the others in the same order, compared with the best."""
    others = [group for group in groups if group is not best]
    if results.decides.name != TOP1:
        return tuple(Rival(group, _over_seeds(group, best, simultaneous(len(others)))) for group in others)
    places, panel = results.panel_of(best)
    known = [group for group in others if group in places]
    differences: dict[SeedGroup, Interval] = {}
    if panel is not None:
        numbers = [places[group] for group in known]
        found = panel.differences(numbers, places[best], simultaneous(len(others)))
        differences = dict(zip(known, found, strict=True))
    return tuple(Rival(group, differences.get(group)) for group in others)


def _over_seeds(group: SeedGroup, best: SeedGroup, level: float) -> Interval | None:
    """Return the difference of two configurations paired over seeds; None if there is one, or they have others."""
    own, of_best = ({point.seed: point.value for point in each.points} for each in (group, best))
    if len(own) < 2 or own.keys() != of_best.keys():
        return None
    return paired([own[seed] - of_best[seed] for seed in sorted(own)], level)


def _smallest(results: Results, target: float) -> Answer:
    decides = results.decides
    reaching = [group for group in results.ranked if group.score >= decides.score(target)]
    if not reaching:
        raise UserError(
            f"no configuration has a mean validation {decides.title} of {decides.at_least} {target:g} {decides.unit}: "
            f"the best has {decides.show(results.ranked[0].value)}"
        )
    smallest = sorted(reaching, key=lambda group: largest(group, "total_bits"))  # of equal ones the order remains
    sure = (group for group in smallest if (own := results.interval(group)) and reaches(own, target, decides))
    return Answer(smallest[0], *_own(results, smallest[0]), (), next(sure, None))


def reaches(interval: Interval, target: float, decides: Objective) -> bool:
    """Return whether a whole interval is as good as a target or better."""
    return interval.low >= target if decides.is_higher_better else interval.high <= target


def _own(results: Results, group: SeedGroup) -> tuple[Interval | None, int | None]:
    panel = results.panel_of(group).panel if results.decides.name == TOP1 else None
    return results.interval(group), panel.correct.shape[2] if panel else None


@dataclass(frozen=True, slots=True)
class Missing:
    """A configuration that is not compared, since it has fewer seeds than others: its trials without a point."""

    name: str
    trials: tuple[Trial, ...]

    @property
    def why(self) -> str:
        """Return the seeds and how their trials ended, in one line."""
        return "; ".join(f"seed {trial.seed} {_end(trial)}" for trial in self.trials)


def missing(results: Results) -> list[Missing]:
    """Return the configurations that lack seeds which others have, in the order of their first trials."""
    measured = {point.trial_id for point in results.points}
    trials: dict[tuple[tuple[str, str], ...], list[Trial]] = {}
    for trial in results.trials:
        trials.setdefault(tuple(trial.parameters.items()), []).append(trial)
    lacking = [[trial for trial in same if trial.id not in measured] for same in trials.values()]
    return [Missing(_without_seed(some[0]), tuple(some)) for some in lacking if some]


def _without_seed(trial: Trial) -> str:
    return " ".join(part for part in (trial.name or trial.id).split() if not part.startswith("seed="))


def _end(trial: Trial) -> str:
    reason = f": {trial.reason}" if trial.reason and trial.status is not TrialStatus.COMPLETED else ""
    return f"{trial.status.replace('_', ' ')}{reason}"
