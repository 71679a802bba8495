from statistics import fmean
from typing import Any

import pytest
from optuna.trial import TrialState

from study.plan.plan import Plan
from study.results.status import TrialStatus
from study.searchers.optuna_searcher import OptunaSearcher, sampler_seed
from study.searchers.registry import make_searcher
from study.searchers.searcher import Objectives, Searcher
from study.space.configuration import Configuration
from study.space.load import read_space
from study.space.space import ADAPTIVE, SEARCHERS, Space
from study.space.workload import load_workload

DOCUMENT: dict[str, Any] = {
    "description": "nine configurations",
    "params": {"method": "dkd", "alpha": {"grid": [0.5, 1, 2]}, "beta": {"grid": [2, 4, 8]}},
    "bits": {"grid": [2, 4]},
    "trials": 18,
}


def space(searcher: str, **changes: Any) -> Space:
    return read_space({**DOCUMENT, "searcher": searcher, **changes}, "here")


def search(own: Space, seed: int = 0) -> Searcher:
    return make_searcher(Plan("here", "digits", own, load_workload("digits", {}), (seed,)))


def reached(configuration: Configuration) -> Objectives:
    bits = fmean(configuration.bits)
    return 90 - abs(configuration.parameters["alpha"] - 1) - configuration.parameters["beta"] / 4 - 4 / bits, bits * 1e5


def drain(one: Searcher) -> list[str]:
    asked = []
    while configuration := one.ask():
        asked.append(configuration.identity)
        one.tell(configuration, [TrialStatus.COMPLETED], reached(configuration))
    return asked


@pytest.mark.parametrize("searcher", SEARCHERS)
def test_equal_seeds_ask_the_same_and_nothing_twice(searcher: str) -> None:
    asked = drain(search(space(searcher)))
    assert asked == drain(search(space(searcher)))
    assert len(set(asked)) == len(asked)
    everything = {c.identity for c in list(space(searcher))}
    assert set(asked) <= everything
    assert set(asked) == everything


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


@pytest.mark.parametrize("searcher", ADAPTIVE)
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
