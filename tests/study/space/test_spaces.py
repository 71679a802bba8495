"""Spaces and workloads: every shipped one passes the same tests, and a space means what it says."""

import re
import subprocess
import sys
from collections import Counter
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
import yaml

from kdq.bits import FLOAT_BITS
from kdq.distill.methods import METHODS, MethodConfig
from kdq.distill.teachers import parse_spec
from kdq.errors import UserError
from study.plan.plan import Plan
from study.results.point import TEACHER
from study.schedulers.config import SchedulerConfig
from study.space import load as load_module
from study.space import workload as workload_module
from study.space.configuration import Configuration
from study.space.load import load_space, read_space
from study.space.searchers import SEARCHERS
from study.space.space import DEFAULT_BITS, Space
from study.space.workload import load_workload

SPACES = sorted(path.stem for path in load_module.FOLDER.glob("*.yaml"))
WORKLOADS = sorted(path.stem for path in workload_module.FOLDER.glob("*.yaml"))


def space_of(params: dict[str, Any], **others: Any) -> Space:
    return read_space({"description": "x", "params": params, **others}, "space.yaml")


def write(folder: Path, document: object) -> str:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def planned(space: Space) -> Plan:
    return Plan("space", "digits", space, load_workload("digits", {}), (0,))


class TestShipped:
    @pytest.mark.parametrize("name", SPACES)
    def test_has_the_trials_that_its_description_says(self, name: str) -> None:
        space = load_space(name, {})
        said = re.search(r"\b(\d+) trials?\b", space.description)
        assert said, "a description ends with the number of trials"
        assert planned(space).trial_count == int(said[1])
        if space.is_finite:
            assert len(space) == len(list(space)) == len({one.identity for one in space})

    @pytest.mark.parametrize("name", SPACES)
    def test_has_whole_configurations(self, name: str) -> None:
        for one in planned(load_space(name, {})).expected:
            if one.method != TEACHER:
                # The identity is complete: read back it is the same configuration.
                parsed = MethodConfig.parse({"method": one.method, **one.parameters})
                assert dict(parsed.params) == dict(one.parameters)
                assert set(parsed.params) == set(METHODS[one.method].params)

    @pytest.mark.parametrize("searcher", SEARCHERS)
    @pytest.mark.parametrize("name", SPACES)
    def test_serves_every_searcher_that_it_allows(self, name: str, searcher: str) -> None:
        if searcher == "grid" and not load_space(name, {}).is_finite:
            with pytest.raises(UserError, match="has infinitely many"):
                load_space(name, {"searcher": searcher})
            return
        plan = planned(load_space(name, {"searcher": searcher} | ({"trials": 1} if searcher != "grid" else {})))
        assert plan.trial_count == (len(plan.space) if searcher == "grid" else 1)
        assert plan.points >= plan.trial_count

    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("workload", WORKLOADS)
    def test_combines_with_every_workload(self, space: str, workload: str) -> None:
        plan = Plan(space, workload, load_space(space, {}), load_workload(workload, {}), (0, 1))
        assert plan.points == plan.trial_count * len(plan.widths)
        assert plan.students <= plan.trial_count
        assert TEACHER not in plan.methods or plan.needs_teacher

    @pytest.mark.parametrize("name", SPACES)
    def test_is_told_by_its_document(self, name: str) -> None:
        """What a study records of a space is a space again, the same one."""
        document = load_space(name, {}).document()
        again = read_space(written(document), "space.yaml")
        assert again.document() == document


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_shipped_workload(name: str) -> None:
    workload = load_workload(name, {})
    assert workload.description
    if ":" in workload.teacher:
        parse_spec(workload.teacher)


def written(document: dict[str, Any]) -> dict[str, Any]:
    """The file that a space's document could have been read from."""
    params = {name: document["params"][name] for name in document["order"]}
    kept = {key: value for key, value in document.items() if key != "order" and value is not None}
    return {"description": "x", **kept, "params": params}


def test_the_papers_grid_in_the_order_of_the_file() -> None:
    space = load_space("dkd_grid", {})
    found = [(c.parameters["alpha"], c.parameters["beta"]) for c in list(space)]
    assert found == [(a, b) for a in (0.5, 1, 2) for b in (4, 8, 10)]
    assert {c.bits for c in space} == {DEFAULT_BITS}


def test_joint_asha_is_the_joint_space_with_a_scheduler() -> None:
    joint, stopped = load_space("joint", {}).document(), load_space("joint_asha", {}).document()
    assert stopped.pop("scheduler")["name"] == "asha"
    assert joint.pop("scheduler")["name"] == "none"
    assert joint == stopped


@pytest.mark.parametrize("name", ["paper_cifar10", "paper_cifar100"])
def test_the_papers_tables_row_by_row_and_two_rows_more(name: str) -> None:
    models = [(TEACHER, 0), ("vkd", 0), ("mixup", 1), ("dml", 0), ("dkd", 0), ("ce", 0), ("dkd", 1)]
    rows = {(*model, bits) for model in models for bits in (*range(2, 9), FLOAT_BITS)}
    space = load_space(name, {})
    found = [(c.method, c.parameters.get("mixup_alpha", 0), bits) for c in space for bits in (FLOAT_BITS, *c.bits)]
    assert Counter(found) == Counter(rows)


def test_inactive_parameters_make_no_second_name() -> None:
    space = space_of({"method": {"grid": ["ce", "dkd"]}, "beta": {"grid": [4, 8]}, "temperature": {"grid": [1, 4.0]}})
    assert [c.method for c in space] == ["ce", "dkd", "dkd", "dkd", "dkd"]
    assert len(space) == 5


def test_a_name_shows_what_tells_two_trials_apart() -> None:
    dml = {"method": "dml", "temperature": 2, "handover": {"grid": [0, 0.5]}}
    assert [c.name for c in space_of(dml)] == ["dml alpha=1 temperature=2", "dml alpha=1 temperature=2 handover=0.5"]
    assert [c.name for c in space_of({"method": "ce"}, bits=[2, 4])] == ["ce"]
    assert [c.name for c in space_of({"method": "ce"}, bits={"grid": [2, [3, 4]]})] == ["ce bits=2", "ce bits=3,4"]


class TestConditions:
    def test_the_first_declaration_that_holds_is_taken_else_the_default(self) -> None:
        alpha = [{"value": 0.5, "when": {"method": "vkd"}}, {"grid": [2, 3], "when": {"method": "dkd", "beta": 1}}]
        space = space_of({"alpha": alpha, "beta": {"grid": [1, 8]}, "method": {"grid": ["vkd", "dkd", "dml"]}})
        found = [(c.method, c.parameters["alpha"], c.parameters.get("beta")) for c in space]
        assert found == [("vkd", 0.5, None), ("dkd", 2, 1), ("dkd", 3, 1), ("dkd", 1, 8), ("dml", 1, None)]
        assert len(space) == 5

    def test_one_looks_at_defaults_too_and_at_nothing_where_there_is_none(self) -> None:
        """Under dkd beta is 8 unless alpha is 2; under vkd there is no beta."""
        beta = {"value": 4, "when": {"alpha": 0.5}}
        smoothing = [{"value": 0.1, "when": {"beta": 8}}, {"value": 0.2, "when": {"beta": 4}}]
        params = {"method": {"grid": ["dkd", "vkd"]}, "alpha": {"grid": [0.5, 1]}, "beta": beta}
        space = space_of({**params, "label_smoothing": smoothing})
        found = [(c.method, c.parameters["alpha"], c.parameters["label_smoothing"]) for c in space]
        assert found == [("dkd", 0.5, 0.2), ("dkd", 1, 0.1), ("vkd", 0.5, 0), ("vkd", 1, 0)]

    def test_a_whole_number_is_looked_at(self) -> None:
        space = space_of(
            {"method": "dkd", "beta": {"int": [1, 5]}, "warmup": {"grid": [0, 1], "when": {"beta": [2, 3]}}}
        )
        assert len(space) == len(list(space)) == 7

    def test_a_range_counts_only_where_it_is_drawn_from(self) -> None:
        alpha = {"uniform": [0, 1], "when": {"method": "vkd"}}
        assert space_of({"method": {"grid": ["ce", "vkd"]}, "alpha": alpha}, searcher="random", trials=1).size == inf
        assert space_of({"method": {"grid": ["ce", "dml"]}, "beta": {"uniform": [0, 1]}}).size == 2

    def test_the_size_of_a_space_too_large_to_list(self) -> None:
        space = space_of({"method": "dkd", "alpha": {"int": [1, 2**53]}, "beta": {"int": [1, 10]}}, trials=3)
        assert space.size == 2**53 * 10
        assert [c.parameters["beta"] for c in planned(space).configurations] == [1, 2, 3]


class TestBits:
    def test_a_list_is_a_sweep_and_a_grid_is_an_axis(self) -> None:
        sweep, axis = space_of({"method": "ce"}, bits=[2, 4]), space_of({"method": "ce"}, bits={"choice": [2, [3, 4]]})
        assert [c.bits for c in sweep] == [(2, 4)]
        assert [c.bits for c in axis] == [(2,), (3, 4)]

    def test_as_an_axis_they_need_as_many_students_as_one_width(self) -> None:
        params = {"method": {"grid": ["ce", "dkd"]}, "beta": {"grid": [4, 8]}}
        one, four = space_of(params, bits=[2]), space_of(params, bits={"grid": [2, 3, 4, 8]})
        assert (planned(one).trial_count, planned(one).students, planned(one).points) == (3, 3, 6)
        assert (planned(four).trial_count, planned(four).students, planned(four).points) == (12, 3, 24)
        assert len({c.student for c in four}) == 3

    def test_their_order_makes_no_second_trial(self) -> None:
        a, b = Configuration("ce", {}, (2, 4)), Configuration("ce", {}, (4, 2, 32))
        assert a.identity == b.identity != Configuration("ce", {}, (2,)).identity
        assert a.student == Configuration("ce", {}, (2,)).student


class TestSamples:
    def test_equal_seeds_equal_samples_and_a_longer_search_begins_with_the_shorter(self) -> None:
        space = load_space("joint_ranges", {})
        assert space.samples(3, 8) == space.samples(3, 8) == space.samples(3, 20)[:8]
        assert space.samples(4, 8) != space.samples(3, 8)

    def test_all_of_a_space_are_found_each_once(self) -> None:
        space = load_space("joint", {})
        found = space.samples(0, len(space))
        assert sorted(c.identity for c in found) == sorted(c.identity for c in space)

    def test_more_than_there_are_is_refused(self) -> None:
        with pytest.raises(UserError, match="trials = 10: the space has 9 configurations; ask for at most that many"):
            load_space("dkd_grid", {}).samples(0, 10)

    def test_a_rare_configuration_is_found_all_the_same(self) -> None:
        """One in a hundred thousand of what is drawn: the rest is listed once nothing new turns up."""
        params = {"method": {"grid": ["ce", "dkd"]}, "beta": {"int": [1, 1000], "when": {"alpha": 1}}}
        space = space_of({**params, "alpha": {"grid": [1, *range(2, 200)]}})
        assert len({c.identity for c in space.samples(0, len(space))}) == len(space) == 1 + 1000 + 198

    def test_methods_are_drawn_alike_whatever_parameters_they_have(self) -> None:
        space, rng = load_space("joint", {}), Random(0)
        counts = Counter(space.sample(rng).method for _ in range(5000))
        assert len(counts) == 5
        assert all(abs(count - 1000) < 5 * 30 for count in counts.values())  # deviation: 28

    def test_draws_stay_in_their_ranges_and_reach_all_of_them(self) -> None:
        params: dict[str, Any] = {"method": "dkd", "alpha": {"loguniform": [0.01, 100]}, "beta": {"int": [1, 3]}}
        space, rng = space_of({**params, "temperature": {"uniform": [1, 2]}}, searcher="random", trials=1), Random(0)
        drawn = [space.sample(rng).parameters for _ in range(4000)]
        assert all(0.01 <= one["alpha"] <= 100 and 1 <= one["temperature"] <= 2 for one in drawn)
        # Half of a log-uniform draw lies below the geometric mean of its ends; deviation of the count: 32.
        assert abs(sum(one["alpha"] < 1 for one in drawn) - 2000) < 160
        assert abs(sum(one["temperature"] < 1.5 for one in drawn) - 2000) < 160
        assert set(Counter(one["beta"] for one in drawn)) == {1, 2, 3}


class TestOptuna:
    @pytest.fixture(autouse=True)
    def quiet(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def test_a_trial_is_asked_for_what_exists_and_nothing_else(self) -> None:
        space = load_space("joint_ranges", {})
        params = {"method": "vkd", "alpha.0": 0.25, "temperature": 2.0, "mixup_alpha.1": 0.2, "bits": "unused"}
        found = space.suggest(optuna.trial.FixedTrial(params))
        assert (found.name, found.bits) == ("vkd alpha=0.25 temperature=2 mixup_alpha=0.2", (2, 3, 4, 8))
        with pytest.raises(ValueError, match=re.escape("alpha.1")):
            space.suggest(optuna.trial.FixedTrial(params | {"method": "dml"}))

    def test_it_is_asked_with_the_distributions_that_the_file_names(self) -> None:
        params = {"method": "dkd", "alpha": {"uniform": [0, 2]}, "beta": {"int": [1, 9]}, "warmup": {"grid": [0, 0.5]}}
        space = space_of({**params, "temperature": {"loguniform": [1, 8]}}, searcher="tpe", trials=1)
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
        space.suggest(trial)
        assert trial.distributions == {
            "alpha": optuna.distributions.FloatDistribution(0, 2),
            "beta": optuna.distributions.IntDistribution(1, 9),
            "warmup": optuna.distributions.CategoricalDistribution((0.0, 0.5)),
            "temperature": optuna.distributions.FloatDistribution(1, 8, log=True),
        }

    def test_bits_as_an_axis_are_asked_for(self) -> None:
        space = space_of({"method": "ce"}, bits={"grid": [2, [3, 4]]})
        assert space.suggest(optuna.trial.FixedTrial({"bits": "3,4"})).bits == (3, 4)

    @pytest.mark.parametrize("name", SPACES)
    @pytest.mark.parametrize(
        "sampler",
        [
            lambda: optuna.samplers.TPESampler(seed=0, n_startup_trials=5, multivariate=False),
            lambda: optuna.samplers.NSGAIISampler(seed=0, population_size=5),
        ],
        ids=["tpe", "nsga2"],
    )
    def test_every_shipped_space_with_two_objectives(self, name: str, sampler: Any) -> None:
        space = load_space(name, {})
        known = {c.identity for c in space} if space.is_finite else None

        def search() -> list[Configuration]:
            study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler())
            found = []
            for _ in range(12):
                trial = study.ask()
                found.append(space.suggest(trial))
                study.tell(trial, [float(len(found[-1].method)), float(min(found[-1].bits))])
            return found

        found = search()
        assert found == search()
        assert known is None or all(c.identity in known for c in found)

    def test_tpe_finds_the_better_method_under_conditions(self) -> None:
        """With beta near 3 under dkd as the best value, and nothing else as good."""
        params = {"method": {"grid": ["ce", "dkd"]}, "beta": {"uniform": [1, 10], "when": {"method": "dkd"}}}
        space = space_of(params, searcher="tpe", trials=60)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
        found = []
        for _ in range(60):
            trial = study.ask()
            found.append(space.suggest(trial))
            beta = found[-1].parameters.get("beta")
            study.tell(trial, -10 if beta is None else -abs(beta - 3))
        late = [c.parameters.get("beta", inf) for c in found[30:]]
        assert sum(abs(beta - 3) < 1 for beta in late) >= 10  # a random search has 3.3 of 30 there


def test_reading_a_space_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom study.space.load import load_space\nload_space('joint_ranges', {}).samples(0, 3)\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'optuna', 'pandas', 'pydantic') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


class TestOptions:
    def test_they_take_the_place_of_what_the_file_says(self) -> None:
        space = load_space("dkd_grid", {"bits": (2,), "alpha": 1, "trials": 2})
        assert [c.bits for c in space] == [(2,)] * 3
        assert [c.name for c in planned(space).configurations] == [
            "dkd alpha=1 beta=4 temperature=4",
            "dkd alpha=1 beta=8 temperature=4",
        ]
        assert load_space("joint", {"scheduler": "halving"}).scheduler.name == "halving"

    @pytest.mark.parametrize("key", ["scheduler", "scheduler.name"])
    def test_a_schedulers_name_keeps_the_rungs_of_the_file_if_it_has_rungs(self, key: str) -> None:
        assert load_space("joint_asha", {key: "halving"}).scheduler == SchedulerConfig("halving", 0.5, 8)
        assert load_space("joint_asha", {key: "none"}).scheduler == SchedulerConfig()
        assert load_space("joint_asha", {key: "record"}).document() == load_space("joint", {key: "record"}).document()

    @pytest.mark.parametrize("name", ["joint", "joint_asha"])
    @pytest.mark.parametrize(("setting", "value"), [("by", "configuration"), ("grace_period", 5)])
    def test_a_setting_without_effect_is_refused(self, name: str, setting: str, value: str | int) -> None:
        message = rf"scheduler\.{setting} = {value!r}: has no effect, since 'none' compares no trials; remove it"
        with pytest.raises(UserError, match=message):
            load_space(name, {"scheduler": "none", f"scheduler.{setting}": value})

    def test_one_may_leave_conditions_that_cannot_hold(self, tmp_path: Path) -> None:
        """The joint space under one method is what its file says of that method."""
        joint = load_space("joint", {})
        for method in ("ce", "vkd", "mixup", "dkd", "dml"):
            found = list(load_space("joint", {"method": method}))
            assert found == [c for c in joint if c.method == method]
        never = {"description": "x", "params": {"method": "ce", "mixup_alpha": {"value": 1, "when": {"method": "dkd"}}}}
        with pytest.raises(UserError, match="can never hold"):
            load_space(write(tmp_path, never), {"bits": [2]})

    def test_a_grid_in_the_place_of_another_searcher_is_whole(self, tmp_path: Path) -> None:
        document = {
            "description": "x",
            "params": {"method": {"grid": ["ce", "dkd"]}},
            "searcher": "random",
            "trials": 1,
        }
        path = write(tmp_path, document)
        assert planned(load_space(path, {})).trial_count == 1
        assert planned(load_space(path, {"searcher": "grid"})).trial_count == 2
        assert planned(load_space(path, {"searcher": "grid", "trials": 1})).trial_count == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.lr": -1}, "lr = -1"),
        ({"train.lrr": 1}, "train.lrr: unknown key 'lrr': did you mean 'lr'"),
        ({"train.augment.crop_padding": -4}, "crop_padding = -4"),
        ({"dataset": "cifar11"}, "unknown data set 'cifar11': did you mean 'cifar1"),
        ({"student": "resnet19"}, "unknown architecture 'resnet19'"),
        ({"train_images": 0}, "train_images = 0: must be at least 1"),
        ({"dataset.name": "x"}, "'dataset' is a single value"),
        ({"teacher_normalization": "cifar"}, "unknown teacher_normalization 'cifar'"),
    ],
)
def test_errors_of_a_workload(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_workload("digits", overrides)


def test_workload_overrides_reach_their_place() -> None:
    workload = load_workload("digits", {"train.epochs": 3, "train.augment.flip": True, "student": "resnet14"})
    assert (workload.train.epochs, workload.train.augment.flip, workload.student) == (3, True, "resnet14")
    assert workload.train.augment.crop_padding == 1
