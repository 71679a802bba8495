"""What a study is going to do, known before it runs."""

import json

import pytest

from kdq.errors import UserError
from study.plan import Plan, check_name, check_same
from study.spaces import load_space
from study.workloads import load_workload


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


def test_float_comes_first_and_once() -> None:
    assert plan(bits=(4, 32, 2)).widths == (32, 4, 2)


def test_the_same_settings_have_the_same_default_name_and_others_another() -> None:
    assert plan().default_name == plan().default_name
    names = {
        plan().default_name,
        plan(seeds=(1,)).default_name,
        plan(bits=(2,)).default_name,
        plan(trials=1).default_name,
    }
    assert len(names) == 4
    assert all(check_name(name) for name in names)


def test_the_document_is_plain_json() -> None:
    assert json.loads(json.dumps(plan().document())) == plan().document()


def test_differences_are_named() -> None:
    check_same("s", plan().document(), plan().document())
    with pytest.raises(UserError, match=r"seeds was \[0\], is now \[0, 1\]; space\.bits was \[2, 4\], is now \[2\]"):
        check_same("s", plan().document(), plan(seeds=(0, 1), bits=(2,)).document())


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 101, "ä", "a/b", "a\n"])
def test_names_that_are_not_plain(name: str) -> None:
    with pytest.raises(UserError, match="must be"):
        check_name(name)
