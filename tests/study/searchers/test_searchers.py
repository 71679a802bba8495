from random import Random
from statistics import fmean
from typing import Any

import pytest
from optuna.trial import FixedTrial, TrialState

from study.conformance.searchers import search, space
from study.results.status import TrialStatus
from study.searchers.optuna_searcher import SAMPLERS, OptunaSearcher, sampler_seed
from study.searchers.searcher import Objectives
from study.space.configuration import Configuration
from study.space.load import read_space
from study.space.searchers import SEARCHERS, adaptive


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 5_000_000_000, 2**63 - 1])
@pytest.mark.parametrize("searcher", SEARCHERS)
def test_a_seed_may_be_large(searcher: str, seed: int) -> None:
    first = [search(space(searcher), seed).ask() for _ in range(2)]
    assert first[0] == first[1]
    assert first[0]


def test_optunas_seeds_below_its_limit_are_the_studys() -> None:
    assert [sampler_seed(seed) for seed in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    derived = {sampler_seed(seed) for seed in (2**32, 2**32 + 7, 5_000_000_000, 2**63 - 1)}
    assert len(derived) == 4
    assert all(0 <= seed < 2**32 for seed in derived)


def test_every_adaptive_searcher_has_a_sampler() -> None:
    assert SAMPLERS.keys() == set(adaptive()) <= SEARCHERS.keys()


@pytest.mark.parametrize("searcher", adaptive())
def test_optuna_is_told_the_truth(searcher: str) -> None:
    one = OptunaSearcher(space(searcher, trials=4), 0)
    ends = [
        [TrialStatus.COMPLETED, TrialStatus.COMPLETED],
        [TrialStatus.COMPLETED, TrialStatus.STOPPED],
        [TrialStatus.DIVERGED, TrialStatus.COMPLETED],
        [TrialStatus.FAILED, TrialStatus.STOPPED],
    ]
    for each in ends:
        configuration = one.ask()
        assert configuration is not None
        one.tell(configuration, each, (80.0, 1e5) if set(each) == {TrialStatus.COMPLETED} else None)
    assert one.ask() is None
    first = {trial.number: trial for trial in one._study.trials}
    told = [first[trials[0].number] for trials in one._trials.values()]
    wanted = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert [trial.state for trial in told] == wanted
    assert told[0].values == [80.0, 1e5]
    assert all(trial.state.is_finished() for trial in one._study.trials)


SPACES: dict[str, dict[str, Any]] = {
    "grids": {"params": {"method": "vkd", "alpha": {"grid": [0.1, 0.5, 0.9]}, "temperature": {"grid": [1, 2, 4]}}},
    "whole numbers": {"params": {"method": "dkd", "beta": {"int": [1, 5]}}, "bits": {"choice": [2, [4, 3]]}},
    "conditions": {
        "params": {
            "method": {"grid": ["ce", "vkd", "teacher"]},
            "alpha": {"grid": [0.1, 0.5], "when": {"method": "vkd"}},
            "label_smoothing": {"grid": [0, 0.1]},
        }
    },
    "one": {"params": {"method": "ce"}},
}
"""Finite spaces of 9, 10, 7 and 1 configurations."""


def end(configuration: Configuration, rng: Random) -> tuple[list[TrialStatus], Objectives | None]:
    """Return how a configuration with one seed ends; only a completed one has objectives."""
    status = rng.choice([TrialStatus.COMPLETED] * 3 + [TrialStatus.STOPPED, TrialStatus.DIVERGED, TrialStatus.FAILED])
    objectives = (float(len(configuration.name)), 1e5 * fmean(configuration.bits))
    return [status], objectives if status is TrialStatus.COMPLETED else None


@pytest.mark.parametrize("seed", [0, 6])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("trials", [4, 9, 20])
@pytest.mark.parametrize("document", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("searcher", adaptive())
def test_a_finite_space_is_searched_without_repetition_to_its_end(
    searcher: str, document: dict[str, Any], trials: int, workers: int, seed: int
) -> None:
    """Several at a time, in any order, some without a value; Optuna has every one, and none as running at the end."""
    own = read_space({"description": "x", "bits": [2], **document, "searcher": searcher, "trials": trials}, "here")
    one, rng = OptunaSearcher(own, seed), Random(seed)
    asked, running, ends = list[str](), list[Configuration](), dict[str, TrialState]()
    while True:
        while len(running) < workers and (configuration := one.ask()):
            asked.append(configuration.identity)
            running.append(configuration)
        if not running:
            break
        ended = running.pop(rng.randrange(len(running)))
        statuses, values = end(ended, rng)
        one.tell(ended, statuses, values)
        ends[ended.identity] = {None: TrialState.FAIL, "stopped": TrialState.PRUNED}.get(
            None if statuses[0].has_no_score else str(statuses[0]), TrialState.COMPLETE
        )
    assert len(set(asked)) == len(asked) == min(trials, own.size)
    states = {c.identity: t.state for t in one._study.trials for c in [own.suggest(FixedTrial(t.params))]}
    assert states == ends
    assert all(trial.state.is_finished() for trial in one._study.trials)
