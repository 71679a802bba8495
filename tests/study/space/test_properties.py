"""What holds of every space, over generated ones: sizes, identities, and that all searchers mean the same space."""

import json
from itertools import product
from random import Random
from typing import Any

import optuna
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdq.distill.methods import METHODS
from study.results.point import TEACHER
from study.space.configuration import Configuration
from study.space.declaration import METHOD
from study.space.domains import Listed
from study.space.load import read_space
from study.space.space import Space

# Values that every method allows which has the parameter, with its default among them.
POOL: dict[str, list[float]] = {
    "alpha": [0.25, 0.5, 0.9, 1],
    "beta": [1, 4, 8],
    "temperature": [1, 2, 4],
    "mixup_alpha": [0.5, 1],
    "handover": [0, 1],
    "label_smoothing": [0, 0.25],
    "mix_logits": [0, 1],
}


def some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True)


def domains(name: str, ranges: bool) -> st.SearchStrategy[dict[str, Any]]:
    known: list[st.SearchStrategy[dict[str, Any]]] = [
        st.sampled_from(POOL[name]).map(lambda value: {"value": value}),
        some(POOL[name]).map(lambda values: {"grid": values}),
        some(POOL[name]).map(lambda values: {"choice": values}),
    ]
    if name == "beta":
        known.append(st.tuples(st.integers(0, 2), st.integers(3, 5)).map(lambda ends: {"int": list(ends)}))
    if ranges and name != "mix_logits":
        known += [st.just({"uniform": [0.25, 1]}), st.just({"loguniform": [0.25, 1]})]
    return st.one_of(known)


@st.composite
def documents(draw: st.DrawFn, ranges: bool = False) -> dict[str, Any]:
    """A space: conditions look at parameters chosen before, which may stand anywhere in the file."""
    params: dict[str, Any] = {METHOD: {"grid": draw(some([*METHODS, TEACHER]))}}
    for name in draw(st.lists(st.sampled_from(list(POOL)), max_size=4, unique=True)):
        # A condition must not look at a range.
        parents = [known for known, given in params.items() if "uniform" not in json.dumps(given)]
        values = {key: params[METHOD]["grid"] if key == METHOD else POOL[key] for key in parents}
        several = draw(st.lists(domains(name, ranges), min_size=1, max_size=3))
        for one in several:
            if looked_at := draw(st.lists(st.sampled_from(parents), max_size=2, unique=True)):
                one["when"] = {key: draw(some(values[key])) for key in looked_at}
        params[name] = several if len(several) > 1 else several[0]
    order = draw(st.permutations(list(params)))
    bits = draw(st.sampled_from([[2, 4], {"grid": [2, [3, 4]]}]))
    search = {"searcher": "tpe", "trials": 3}
    return {"description": "x", "params": {name: params[name] for name in order}, "bits": bits, **search}


def read(document: dict[str, Any]) -> Space:
    return read_space(document, "f.yaml", conditions_must_hold=False)


finite_spaces = documents().map(read)
all_spaces = documents(ranges=True).map(read)


def naive(space: Space) -> set[str]:
    """The identities of all configurations, found by trying every combination of all values that anything has."""
    names = list(space.params)
    values = [
        {None, *(v for one in space.params[name] for v in one.domain.values), *defaults_of(name)} for name in names
    ]
    found = [dict(zip(names, each, strict=True)) for each in product(*values)]
    means = [one for one in found if all(says(space, name, one) for name in names)]
    return {json.dumps([sorted(one.items()), bits]) for one in means for bits in space.bits}


def defaults_of(name: str) -> set[float]:
    return {method.params[name][0] for method in METHODS.values() if name in method.params}


def says(space: Space, name: str, values: dict[str, Any]) -> bool:
    """Whether the value of a parameter is one that the space gives it beside these values of the others."""
    if name != METHOD and (values[METHOD] not in METHODS or name not in METHODS[values[METHOD]].params):
        return values[name] is None
    for one in space.params[name]:
        if all(values[key] in allowed for key, allowed in one.when.items()):
            return values[name] is not None and values[name] in one.domain.values
    return bool(values[name] == METHODS[values[METHOD]].params[name][0])


@given(finite_spaces)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_the_size_is_that_of_the_naive_enumeration_and_no_identity_comes_twice(space: Space) -> None:
    listed = list(space)
    assert len(space) == len(listed) == len({one.identity for one in listed}) == len(naive(space))
    assert len({(one.name, one.bits) for one in listed}) == len(listed)


@given(finite_spaces, st.integers(0, 5))
def test_a_random_search_finds_the_configurations_of_the_grid_each_once(space: Space, seed: int) -> None:
    listed = {one.identity for one in space}
    drawn = [one.identity for one in space.samples(seed, len(space))]
    assert len(drawn) == len(listed)
    assert set(drawn) == listed
    assert [one.identity for one in space.samples(seed, len(space) // 2)] == drawn[: len(space) // 2]


@given(all_spaces, st.integers(0, 5))
def test_samples_are_configurations_with_the_methods_own_parameters(space: Space, seed: int) -> None:
    one = space.sample(Random(seed))
    assert one == space.sample(Random(seed))
    assert one.bits in space.bits
    assert set(one.parameters) == (set(METHODS[one.method].params) if one.method != TEACHER else set())


@given(all_spaces, st.integers(0, 5))
@settings(max_examples=50)
def test_optuna_and_a_replay_of_its_parameters_mean_the_same_configuration(space: Space, seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    asked = [study.ask() for _ in range(5)]
    found: list[Configuration] = [space.suggest(trial) for trial in asked]
    for trial, one in zip(asked, found, strict=True):
        assert space.suggest(optuna.trial.FixedTrial(trial.params)) == one
        assert all(len(d.domain.values) > 1 for d in declarations(space, trial.params) if isinstance(d.domain, Listed))
    if space.is_finite:
        assert {one.identity for one in found} <= {one.identity for one in space}


def declarations(space: Space, labels: Any) -> list[Any]:
    return [one for several in space.params.values() for one in several if one.label in labels]


@given(all_spaces)
def test_a_document_is_the_space(space: Space) -> None:
    document = space.document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    params = {name: document["params"][name] for name in document["order"]}
    kept = {key: value for key, value in document.items() if key != "order"}
    again = read({"description": "x", **kept, "params": params})
    assert again.document() == document
    assert draws(again) == draws(space)


def draws(space: Space) -> list[Configuration]:
    return [space.sample(Random(seed)) for seed in range(5)]
