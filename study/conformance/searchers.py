"""What every searcher keeps: it is a function of its seed and its results, and asks for nothing twice."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from kdq.conformance.check import Check, require
from study.plan.plan import Plan
from study.results.status import TrialStatus
from study.searchers.registry import make_searcher
from study.searchers.searcher import Objectives, Searcher
from study.space.configuration import Configuration
from study.space.load import read_space
from study.space.space import Space
from study.space.workload import load_workload

DOCUMENT: Mapping[str, Any] = {
    "description": "nine configurations at two widths",
    "params": {"method": "dkd", "alpha": {"grid": [0.5, 1, 2]}, "beta": {"grid": [2, 4, 8]}},
    "bits": {"grid": [2, 4]},
    "trials": 18,
}


def space(name: str, **changes: Any) -> Space:
    """Return the space with this searcher. changes: of other keys of its document."""
    return read_space({**DOCUMENT, "searcher": name, **changes}, "here")


def search(own: Space, seed: int = 0) -> Searcher:
    return make_searcher(Plan("here", "digits", own, load_workload("digits", {}), (seed,)))


def reached(configuration: Configuration) -> Objectives:
    """Return made-up objectives of a configuration."""
    bits = fmean(configuration.bits)
    return 90 - abs(configuration.parameters["alpha"] - 1) - configuration.parameters["beta"] / 4 - 4 / bits, bits * 1e5


def drain(one: Searcher) -> list[str]:
    """Return the identities of all configurations that a searcher asks for, each told its result."""
    asked = []
    while configuration := one.ask():
        asked.append(configuration.identity)
        one.tell(configuration, [TrialStatus.COMPLETED], reached(configuration))
    return asked


def asks_for_everything_once(name: str) -> None:
    own = space(name)
    asked = drain(search(own))
    require(asked == drain(search(own)), "equal seeds ask for other configurations")
    require(len(set(asked)) == len(asked), "it asks for a configuration twice")
    require(set(asked) == {c.identity for c in own}, "it ends before every configuration of a small space was tried")


def takes_large_seeds(name: str) -> None:
    for seed in (2**32 - 1, 2**32, 2**63 - 1):
        require(search(space(name), seed).ask() is not None, f"it asks for nothing with the seed {seed}")


def takes_failures(name: str) -> None:
    one = search(space(name))
    for end in (TrialStatus.FAILED, TrialStatus.STOPPED, TrialStatus.DIVERGED):
        configuration = one.ask()
        assert configuration
        one.tell(configuration, [end], None)
    require(one.ask() is not None, "it asks for nothing after trials that failed")


CHECKS: Mapping[str, Check] = {
    "equal seeds ask the same, everything, and nothing twice": asks_for_everything_once,
    "a seed may be large": takes_large_seeds,
    "it goes on after failures": takes_failures,
}
