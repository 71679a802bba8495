"""Optuna's samplers as searchers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kdq import plugins
from kdq.store.stage import digest
from study.results.status import TrialStatus
from study.searchers.searcher import Objectives
from study.space.configuration import Configuration
from study.space.searchers import SEARCHERS
from study.space.space import Space

if TYPE_CHECKING:
    import optuna

REPEATS = 20
"""A sampler has converged if this many suggestions in a row were tried before."""


class OptunaSearcher:
    """Optuna's TPE or NSGA-II on two objectives: the score of the study's objective, such as accuracy, is maximised,
    total bits are minimised.

    Optuna records a configuration as failed if a trial failed or diverged, else as pruned if one was stopped; it
    is never complete with made-up values. A configuration that a sampler proposes again, as in discrete spaces,
    is not tried again: Optuna gets the results of the first time, at once or when they are known. A converged
    sampler, which proposes nothing new, gets a random configuration enqueued. So every configuration tried is a
    trial of Optuna, and once all are told, none is left running.
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
            if configuration := self._suggested():
                return configuration
        self._study.enqueue_trial(self.space.choices(self._untried()))
        configuration = self._suggested()
        assert configuration, "the configuration enqueued was tried before"
        return configuration

    def _suggested(self) -> Configuration | None:
        """Return the configuration of Optuna's next trial; None if it is not new."""
        trial = self._study.ask()
        configuration = self.space.suggest(trial)
        identity = configuration.identity
        is_new = identity not in self._trials
        self._trials.setdefault(identity, []).append(trial)
        if identity in self._known:
            self._tell(trial, *self._known[identity])
        return configuration if is_new else None

    def replay(self, identity: str) -> Configuration | None:
        configuration = self.ask()
        return configuration if configuration and configuration.identity == identity else None

    def _untried(self) -> Configuration:
        """Return a random configuration not yet tried."""
        drawn = self.space.samples(self.seed, len(self._trials) + 1)
        return next(one for one in drawn if one.identity not in self._trials)

    def tell(self, configuration: Configuration, ends: Sequence[TrialStatus], objectives: Objectives | None) -> None:
        identity = configuration.identity
        self._known[identity] = (_state(ends), objectives)
        for trial in self._trials[identity]:
            self._tell(trial, *self._known[identity])

    def _tell(
        self, trial: "optuna.trial.Trial", state: "optuna.trial.TrialState", objectives: Objectives | None
    ) -> None:
        self._study.tell(trial, objectives, state=state)


def _state(ends: Sequence[TrialStatus]) -> "optuna.trial.TrialState":
    from optuna.trial import TrialState

    if any(end.has_no_score for end in ends):
        return TrialState.FAIL
    return TrialState.PRUNED if TrialStatus.STOPPED in ends else TrialState.COMPLETE


def _optuna_study(space: Space, seed: int) -> "optuna.Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = SAMPLERS[space.searcher](sampler_seed(seed), space.trials or 0)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def _tpe(seed: int, trials: int) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import TPESampler

    # Running trials count as bad ones, so that the next suggestion is not a copy of them.
    return TPESampler(seed=seed, constant_liar=True)


def _nsga2(seed: int, trials: int) -> "optuna.samplers.BaseSampler":
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=population(trials))


SAMPLERS: dict[str, Callable[[int, int], "optuna.samplers.BaseSampler"]] = {"tpe": _tpe, "nsga2": _nsga2}
"""Name of an adaptive searcher -> its sampler, from a seed and the number of trials."""


def register_sampler(name: str, sampler: Callable[[int, int], "optuna.samplers.BaseSampler"], description: str) -> None:
    """Add a sampler of Optuna as a searcher, from a plugin: a function of a seed and the number of trials.

    Raises UserError for a name that is taken.
    """
    plugins.add("searcher", SEARCHERS, name, description, "study.conformance.searchers")
    SAMPLERS[name] = sampler


def sampler_seed(seed: int) -> int:
    """Return the seed of Optuna's sampler, which must be below 2^32: a larger one is replaced by its hash."""
    return seed if seed < 2**32 else int(digest(seed)[:8], 16)


def population(trials: int) -> int:
    """Return NSGA-II's population size: a quarter of the trials, from 4 to Optuna's 50.

    With 50, a search of up to 50 trials would be random.
    """
    return max(4, min(50, trials // 4))
