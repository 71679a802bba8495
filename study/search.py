"""Searchers: what a study tries next. Each is asked for configurations and told what came of them."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from kdq.points import FLOAT_BITS, Point
from study.plan import Plan
from study.spaces import Configuration, Space

if TYPE_CHECKING:
    import optuna

Objectives = tuple[float, float]
"""Validation accuracy in percent, to be high, and total bits, to be low: means over a configuration's points."""


def objectives(points: Sequence[Point]) -> Objectives:
    """Those of a trial's points: of its quantized models, or of the float one if there is no other."""
    mine = [point for point in points if point.bits != FLOAT_BITS] or points
    return fmean(point.val_top1 for point in mine), fmean(point.total_bits for point in mine)


FAILED = ("diverged", "out_of_memory", "failed")


REPEATS = 20
"""So many suggestions in a row of what was tried already show that a sampler has settled."""


class Search(Protocol):
    """Its answers depend only on its seed and on the order of what it was asked and told."""

    def ask(self) -> Configuration | None:
        """The next configuration, none twice; None: there is no other."""

    def again(self, identity: str) -> Configuration | None:
        """As `ask`, when it is known what came next before; None: it does not come next, or is not proposed at all."""

    def tell(self, configuration: Configuration, ends: Sequence[str], objectives: Objectives | None) -> None:
        """How its trials ended, one for each seed, and what they reached, if all were completed."""


class Listed:
    """The configurations of a grid or a random draw, in their order."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._left = {configuration.identity: configuration for configuration in configurations}

    def ask(self) -> Configuration | None:
        return self._left.pop(next(iter(self._left))) if self._left else None

    def again(self, identity: str) -> Configuration | None:
        """Any of them: in a study that was extended since, others may have come before."""
        return self._left.pop(identity, None)

    def tell(self, configuration: Configuration, ends: Sequence[str], objectives: Objectives | None) -> None:
        """It takes no interest."""


class Adaptive:
    """Optuna's TPE or NSGA-II on two objectives: accuracy up, total bits down.

    A configuration whose trials were not all completed is pruned if one was stopped, and failed if not; it is never
    complete with made-up values. One that is proposed again, which only discrete spaces see, is not tried
    again: Optuna is told what came of it the first time.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self.space, self.seed = space, seed
        self._study = _optuna_study(space, seed)
        self._trials: dict[str, list[optuna.trial.Trial]] = {}
        self._known: dict[str, tuple[optuna.trial.TrialState, Objectives | None]] = {}

    def ask(self) -> Configuration | None:
        if len(self._trials) >= min(self.space.trials or 0, self.space.size):
            return None
        for _ in range(REPEATS):
            trial = self._study.ask()
            configuration = self.space.suggest(trial)
            identity = configuration.identity
            self._trials.setdefault(identity, []).append(trial)
            if len(self._trials[identity]) == 1:
                return configuration
            if identity in self._known:
                self._tell(trial, *self._known[identity])
        return self._untried()

    def again(self, identity: str) -> Configuration | None:
        configuration = self.ask()
        return configuration if configuration and configuration.identity == identity else None

    def _untried(self) -> Configuration | None:
        """One at random, for a sampler that has settled on what is known; Optuna does not hear of it."""
        count = int(min(len(self._trials) + 1, self.space.size))
        drawn = self.space.samples(self.seed, count)
        left = next((one for one in drawn if one.identity not in self._trials), None)
        if left:
            self._trials[left.identity] = []
        return left

    def tell(self, configuration: Configuration, ends: Sequence[str], objectives: Objectives | None) -> None:
        identity = configuration.identity
        self._known[identity] = (_state(ends), objectives)
        for trial in self._trials[identity]:
            self._tell(trial, *self._known[identity])

    def _tell(
        self, trial: "optuna.trial.Trial", state: "optuna.trial.TrialState", objectives: Objectives | None
    ) -> None:
        self._study.tell(trial, objectives, state=state)


def _state(ends: Sequence[str]) -> "optuna.trial.TrialState":
    from optuna.trial import TrialState

    if any(end in FAILED for end in ends):
        return TrialState.FAIL
    return TrialState.PRUNED if "stopped" in ends else TrialState.COMPLETE


def _optuna_study(space: Space, seed: int) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler: optuna.samplers.BaseSampler
    if space.searcher == "tpe":
        # Trials that run at the same time are taken for bad ones, so that the next is not a copy of them.
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    else:
        sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=population(space.trials or 0))
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def population(trials: int) -> int:
    """Of NSGA-II: four generations at least, since with Optuna's 50 a search of fewer trials would be a random one."""
    return max(4, min(50, trials // 4))


def make_search(plan: Plan) -> Search:
    """The searcher of a plan's space. A random draw and Optuna depend on the first of the study's seeds."""
    return Adaptive(plan.space, plan.seeds[0]) if plan.is_adaptive else Listed(plan.expected)
