"""What a study is going to do, known before it runs."""

import json
from dataclasses import replace

import pytest

from kdq.errors import UserError
from study.plan.plan import Plan, check_name, differences
from study.space.load import load_space
from study.space.workload import load_workload


def plan(
    space: str = "dkd_grid", seeds: tuple[int, ...] = (0,), trials: int | None = None, bits: tuple[int, ...] = (2, 4)
) -> Plan:
    overrides = {"bits": bits} | ({} if trials is None else {"trials": trials})
    return Plan(space, "digits", load_space(space, overrides), load_workload("digits", {}), seeds)


def test_counts() -> None:
    assert (len(plan().runs), plan().students, plan().points) == (9, 9, 27)
    assert (len(plan(seeds=(0, 1, 2)).runs), plan(seeds=(0, 1, 2)).points) == (27, 81)
    assert len(plan(trials=4).runs) == 4
    assert (plan("teacher_ptq").students, plan("teacher_ptq").points) == (0, 3)


def test_an_adaptive_searcher_says_how_many_trials_but_not_which() -> None:
    space = load_space("joint_ranges", {"trials": 12, "bits": (2, 4)})
    tpe = Plan("joint_ranges", "digits", space, load_workload("digits", {}), (0, 1))
    assert (tpe.trial_count, tpe.points) == (24, 72)
    assert tpe.configurations == ()
    assert tpe.runs == []
    assert tpe.methods == {"ce", "vkd", "mixup", "dkd", "dml"}
    assert tpe.needs_teacher
    random = replace(tpe, space=replace(space, searcher="random"))
    assert random.configurations == tpe.expected == space.samples(0, 12)
    assert random.trial_count == 24


def test_random_draws_follow_the_first_seed() -> None:
    space = load_space("joint", {"searcher": "random", "trials": 5})
    a, b, c = (Plan("joint", "digits", space, load_workload("digits", {}), seeds) for seeds in ((0,), (0, 1), (1,)))
    assert a.configurations == b.configurations != c.configurations


def test_a_search_of_more_trials_than_there_are_configurations_is_reckoned_with_all() -> None:
    space = load_space("dkd_grid", {"searcher": "tpe", "trials": 20})
    plan = Plan("dkd_grid", "digits", space, load_workload("digits", {}), (0,))
    assert (plan.trial_count, len(plan.expected)) == (9, 9)
    assert space.shortage == "the space has 9 configurations in all, each tried once, fewer than trials = 20"
    assert not load_space("dkd_grid", {"searcher": "tpe", "trials": 9}).shortage


def test_float_comes_first_and_once() -> None:
    assert plan(bits=(4, 32, 2)).widths == (32, 4, 2)


def test_the_same_settings_have_the_same_default_name_and_others_another() -> None:
    assert plan().default_name == plan().default_name
    names = {
        plan().default_name,
        plan(seeds=(1,)).default_name,
        plan(bits=(2,)).default_name,
        plan(trials=1).default_name,
        replace(plan(), space=load_space("dkd_grid", {"bits": (2, 4), "scheduler": "asha"})).default_name,
    }
    assert len(names) == 5
    assert all(check_name(name) for name in names)


@pytest.mark.parametrize(
    ("space", "name"),
    [
        ("my space", "my-space-digits-"),
        ("_x", "x-digits-"),
        ("日本", "digits-"),
        ("a/../b", "a-..-b-digits-"),
        ("x" * 250, "x" * 93 + "-"),
        ("x" * 83 + ".2", "x" * 83 + ".2-digits-"),
    ],
)
def test_a_default_name_is_a_name_whatever_the_file_is_called(space: str, name: str) -> None:
    default = replace(plan(), space_name=space).default_name
    assert check_name(default) == name + default[-6:]
    assert default[-6:] == plan().default_name[-6:]


def test_more_trials_than_a_study_has_are_refused() -> None:
    assert plan(seeds=tuple(range(11_111))).trial_count == 99_999
    with pytest.raises(UserError, match=r"seeds: 100,008 trials, and a study has at most 100,000"):
        plan(seeds=tuple(range(11_112)))


def test_the_document_is_plain_json() -> None:
    assert json.loads(json.dumps(plan().document())) == plan().document()
    assert json.loads(json.dumps(plan("joint_asha").document())) == plan("joint_asha").document()


def test_differences_are_named() -> None:
    assert differences(plan().document(), plan().document()) == {}
    assert differences(plan().document(), plan(seeds=(0, 1), bits=(2,)).document()) == {
        "seeds": "seeds was [0], is now [0, 1]",
        "space.bits": "space.bits was [2, 4], is now [2]",
    }


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 101, "ä", "a/b", "a\n"])
def test_names_that_are_not_plain(name: str) -> None:
    with pytest.raises(UserError, match="must be"):
        check_name(name)
