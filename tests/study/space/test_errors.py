"""Every mistake in a space is said, at its place, with all the others, and nothing but a UserError is raised."""

import copy
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdq.distill.methods import METHODS
from kdq.errors import UserError
from kdq.params import Interval, Switch
from study.run import main
from study.schedulers.config import SchedulerConfig
from study.schedulers.registry import SCHEDULERS
from study.space.load import load_space, read_space

Document = dict[str, Any]

BASE: Document = {"description": "x", "params": {"method": "dkd"}}


def messages(document: Document) -> list[str]:
    with pytest.raises(UserError) as error:
        read_space(document, "f.yaml")
    return str(error.value).splitlines()


def params(**declared: Any) -> Document:
    return {"params": {"method": "dkd", **declared}}


MISTAKES: list[tuple[Document, str]] = [
    ({"description": None}, "description: is required"),
    ({"objective": "nnl"}, "objective: unknown objective 'nnl': did you mean 'nll'? known: agreement, balanced, ece"),
    ({"objective": ["nll"]}, "objective: unknown objective"),
    ({"objective": "nll", "scheduler": "asha"}, "objective: 'nll' is measured of finished students, and scheduler"),
    (
        {"objective": "agreement", "params": {"method": "ce"}},
        "objective: 'agreement' is with a teacher, and no method has one; use top1, or add such as vkd",
    ),
    ({"serach": "grid"}, "serach: unknown key 'serach': did you mean 'searcher'"),
    ({"params": None}, "params = None: must be a mapping"),
    ({"params": {}}, "params.method: is required but missing; known: ce"),
    ({"params": {"method": "dkdd"}}, "params.method: unknown method 'dkdd': did you mean 'dkd'"),
    ({"params": {"method": {"grid": ["ce", "dkdd"]}}}, "params.method.grid: unknown method 'dkdd'"),
    ({"params": {"method": 3}}, "params.method: unknown method '3'"),
    ({"params": {"method": {"uniform": [0, 1]}}}, "params.method.uniform = [0, 1]: names have no range"),
    (
        {"params": {"method": {"value": "dkd", "when": {"alpha": 1}}, "alpha": 1}},
        "params.method.when: the method takes no conditions",
    ),
    (params(alhpa=1), "params.alhpa: unknown parameter 'alhpa': did you mean 'alpha'"),
    (params(alpha=-1), "params.alpha = -1: for method 'dkd' it must be a number at least 0"),
    (params(alpha=True), "params.alpha = True: must be a finite number"),
    (params(alpha="1"), "params.alpha = '1': must be a finite number"),
    (params(alpha=None), "params.alpha = None: must be a finite number"),
    (params(alpha=float("nan")), "params.alpha = nan: must be a finite number"),
    (params(alpha=float("inf")), "params.alpha = inf: must be a finite number"),
    (params(alpha=10**400), "must be a finite number"),
    (params(alpha=[]), "params.alpha = []: must be a value, a declaration"),
    (params(alpha=[1, 2]), "params.alpha = [1, 2]: must be a value, a declaration such as {grid: [1, 2]}"),
    (params(alpha={}), "params.alpha = {}: must have exactly one of value, grid"),
    (params(alpha={"gird": [1]}), "params.alpha.gird: unknown key 'gird': did you mean 'grid'"),
    (params(alpha={"grid": [1], "int": [1, 2]}), "must have exactly one of"),
    (params(alpha={"grid": []}), "params.alpha.grid = []: must be a list of at least one value"),
    (params(alpha={"choice": []}), "params.alpha.choice = []: must be a list of at least one value"),
    (params(alpha={"grid": 1}), "params.alpha.grid = 1: must be a list of at least one value"),
    (params(alpha={"grid": [1, 2, 1.0]}), "params.alpha.grid = [1, 2, 1.0]: 1 is duplicated"),
    (params(alpha={"grid": [1, -2]}), "params.alpha.grid = -2: for method 'dkd' it must be a number at least 0"),
    (params(alpha={"grid": [1, float("nan")]}), "params.alpha.grid = nan: must be a finite number"),
    (params(alpha={"uniform": [2, 1]}), "params.alpha.uniform = [2, 1]: the first must be below the second; swap"),
    (params(alpha={"uniform": [1, 1.0]}), "params.alpha.uniform = [1, 1.0]: the first must be below the second"),
    (params(alpha={"uniform": [1]}), "params.alpha.uniform = [1]: must be two numbers"),
    (params(alpha={"uniform": ["a", 1]}), "params.alpha.uniform = ['a', 1]: both ends must be finite"),
    (params(alpha={"uniform": [0, float("inf")]}), "params.alpha.uniform = [0, inf]: both ends must be finite"),
    (params(alpha={"uniform": [-1, 1]}), "params.alpha.uniform = [-1, 1]: for method 'dkd' it must be a number at"),
    (params(warmup={"uniform": [0, 2]}), "params.warmup.uniform = [0, 2]: for method 'dkd' it must be a number at"),
    (params(temperature={"uniform": [0, 2]}), "params.temperature.uniform = [0, 2]: for method 'dkd' it must be"),
    (params(alpha={"uniform": [0.5, 0.5 + 1e-15]}), "000000000001]: the two are equal to 9 digits, with few numbers"),
    (params(alpha={"loguniform": [0, 1]}), "params.alpha.loguniform = [0, 1]: the first must be above 0"),
    (params(alpha={"loguniform": [2, 1]}), "params.alpha.loguniform = [2, 1]: the first must be below"),
    (params(alpha={"int": [1, 2.5]}), "params.alpha.int = [1, 2.5]: both ends must be whole numbers"),
    (params(alpha={"int": [1, 2**60]}), "both ends must be whole numbers within ±2^53"),
    (params(alpha={"int": [3, 1]}), "params.alpha.int = [3, 1]: the first must be below the second"),
    (
        {"params": {"method": "mixup", "mix_logits": {"uniform": [0, 1]}}},
        "params.mix_logits.uniform = [0, 1]: for method 'mixup' it must be a number that is 0 (off) or 1 (on)",
    ),
    (
        {"params": {"method": {"grid": ["vkd", "dkd"]}, "alpha": {"grid": [0.5, 2]}}},
        "params.alpha.grid = 2: for method 'vkd' it must be a number at least 0 and at most 1",
    ),
    (
        {"params": {"method": "vkd", "alpha": [{"grid": [2], "when": {"temperature": 1}}, 0.5], "temperature": 1}},
        "params.alpha.0.grid = 2: for method 'vkd' it must be",
    ),
    (params(alpha={"value": 1, "when": {}}), "params.alpha.when = {}: must map parameters"),
    (params(alpha={"value": 1, "when": "dkd"}), "params.alpha.when = 'dkd': must map parameters"),
    (params(alpha={"value": 1, "when": {"metod": "dkd"}}), "params.alpha.when.metod: unknown parameter 'metod'"),
    (params(alpha={"value": 1, "when": {"bits": 2}}), "params.alpha.when.bits: unknown parameter 'bits'"),
    (params(alpha={"value": 1, "when": {"beta": 1}}), "params.alpha.when.beta: 'beta' is not declared in this space"),
    (params(alpha={"value": 1, "when": {"method": "dkdd"}}), "params.alpha.when.method: unknown method 'dkdd'"),
    (params(alpha={"value": 1, "when": {"method": []}}), "params.alpha.when.method = []: must be a list of at least"),
    (
        params(alpha={"value": 1, "when": {"method": ["dkd", "vkd"]}}),
        "params.alpha.when.method = 'vkd': can never hold: in this space method has 'dkd'",
    ),
    (
        params(beta={"grid": [4, 8]}, alpha={"value": 2, "when": {"beta": [4, 5]}}),
        "params.alpha.when.beta = 5: can never hold: in this space beta has 4, 8",
    ),
    (
        params(alpha={"value": 1, "when": {"handover": 0}}, handover=0),
        "params.alpha.when.handover = 0: can never hold: in this space handover has no value at all",
    ),
    (
        params(beta={"uniform": [1, 2]}, alpha={"value": 1, "when": {"beta": 1}}) | {"searcher": "tpe", "trials": 1},
        "params.alpha.when.beta: depends on params.beta.uniform, a range, where no single value recurs",
    ),
    (
        params(alpha={"value": 1, "when": {"alpha": 1}}),
        "params.alpha.when: alpha → alpha: each depends on the next, a cycle",
    ),
    (
        params(alpha={"value": 1, "when": {"beta": 1}}, beta={"value": 1, "when": {"alpha": 1}}),
        "alpha → beta → alpha: each depends on the next",
    ),
    (
        params(
            alpha={"grid": [1, 2]},
            beta=[{"value": 1, "when": {"alpha": 1}}, {"value": 2, "when": {"alpha": 2}}],
            warmup={"value": 1, "when": {"alpha": 1, "beta": 2}},
        ),
        "params.warmup: is never used: its conditions never hold together",
    ),
    (
        {"params": {"method": {"grid": ["vkd", "dkd"]}, "beta": {"value": 1, "when": {"method": "vkd"}}}},
        "params.beta: is never used: no method for which its conditions hold has a parameter 'beta'",
    ),
    (params(alpha=[1, {"value": 2, "when": {"method": "dkd"}}]), "params.alpha.1: is never used: an earlier"),
    (
        params(alpha={"int": [0, 1000]}, beta={"int": [0, 1000]}, warmup={"value": 1, "when": {"alpha": 1, "beta": 1}}),
        "params: conditions depend on 1002001 combinations of values, and at most 100000 are checked; list fewer",
    ),
    (
        params(
            alpha={"int": [1, 200]},
            beta={"int": [1, 200]},
            warmup=[{"value": 1, "when": {"alpha": i + 1, "beta": 1}} for i in range(100)],
        ),
        "params: conditions depend on 40000 combinations of values, and at most 19417 are checked",
    ),
    (
        params(alpha={"int": [1, 200]}, beta=[{"value": i, "when": {"alpha": i}} for i in range(1, 102)]),
        "params.beta: has 101 declarations, at most 100 are read",
    ),
    ({"bits": [9]}, "bits = 9: must be 1 to 8, or 32 for float"),
    ({"bits": [0]}, "bits = 0: must be 1 to 8, or 32 for float"),
    ({"bits": [True]}, "bits = True: must be 1 to 8"),
    ({"bits": [2.0]}, "bits = 2.0: must be 1 to 8"),
    ({"bits": ["2"]}, "bits = '2': must be 1 to 8"),
    ({"bits": None}, "bits = None: must be 1 to 8"),
    ({"bits": []}, "bits: at least one width is required"),
    ({"bits": [2, 2]}, "bits = [2, 2]: 2 is duplicated"),
    ({"bits": {"grid": []}}, "bits.grid = []: must be a list of widths"),
    ({"bits": {"grid": [2, []]}}, "bits.grid: at least one width"),
    ({"bits": {"grid": [2, 9]}}, "bits.grid = 9: must be 1 to 8"),
    (
        {"bits": {"grid": [2, [2]]}},
        "bits.grid = [2, [2]]: two entries define the same trial, with points at [2, 32]; remove",
    ),
    ({"bits": {"choice": [[2, 4], [4, 2, 32]]}}, "two entries define the same trial, with points at [2, 4, 32]"),
    ({"bits": {"uniform": [2, 4]}}, "bits.uniform: unknown key 'uniform': known: choice, grid"),
    ({"searcher": "optuna"}, "searcher: unknown searcher 'optuna': known: grid, nsga2, random, tpe"),
    ({"searcher": ["grid"]}, "searcher: unknown searcher"),
    (
        params(alpha={"uniform": [0, 1]}),
        "searcher: 'grid', the default, tries every value, and params.alpha.uniform has infinitely many",
    ),
    (params(alpha={"uniform": [0, 1]}) | {"searcher": "random"}, "trials: is required but missing"),
    ({"searcher": "nsga2"}, "trials: is required but missing: searcher 'nsga2'"),
    ({"searcher": "random", "trials": 2}, "trials = 2: the space has 1 configurations; ask for at most that many"),
    ({"trials": 0}, "trials = 0: must be a whole number, at least 1"),
    ({"trials": None}, "trials = None: must be a whole number"),
    ({"trials": 2.0}, "trials = 2.0: must be a whole number"),
    ({"trials": 10**12}, "trials = 1000000000000: must be at most 100,000, the most trials of a study"),
    ({"trials": 100_001, "searcher": "tpe"}, "trials = 100001: must be at most 100,000"),
    (
        params(alpha={"int": [0, 2**53]}),
        "params: the grid has 9,007,199,254,740,993 configurations, and a study at most 100,000 trials; list fewer",
    ),
    (
        params(alpha={"int": [1, 1000]}, beta={"int": [1, 1000]}, temperature={"int": [1, 1000]}),
        "params: the grid has 1,000,000,000 configurations",
    ),
    ({"trials": True}, "trials = True: must be a whole number"),
    ({"scheduler": "asah"}, "scheduler.name: unknown scheduler 'asah': did you mean 'asha'"),
    ({"scheduler": None}, "scheduler.name: unknown scheduler 'None'"),
    ({"scheduler": {"grace_period": 2}}, "scheduler.name: is required but missing; known: none"),
    ({"scheduler": {"name": "asha", "max_t": 2}}, "scheduler.max_t: unknown key 'max_t': known: by, grace_period"),
    (
        {"scheduler": {"name": "asha", "by": "seed"}},
        "scheduler.by: unknown unit of comparison 'seed': known: configuration",
    ),
    ({"scheduler": {"name": "asha", "grace_period": 0}}, "scheduler.grace_period = 0: must be a whole number"),
    ({"scheduler": {"name": "asha", "grace_period": 1.5}}, "scheduler.grace_period = 1.5: must be a whole number"),
    (
        {"scheduler": {"name": "asha", "reduction_factor": 1}},
        "scheduler.reduction_factor = 1: must be a number, at least 2",
    ),
    ({"scheduler": {"name": "asha", "reduction_factor": float("nan")}}, "scheduler.reduction_factor = nan: must be"),
    (
        {"scheduler": "asha", "params": {"method": "teacher"}},
        "scheduler: 'asha' acts after epochs, and method 'teacher'",
    ),
    ({"scheduler": "asha_quantized", "bits": [32]}, "scheduler: 'asha_quantized' compares quantized students"),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES, ids=[message[:50] for _, message in MISTAKES])
def test_a_mistake_is_one_line_with_its_place(change: Document, message: str) -> None:
    found = messages({**BASE, **change})
    assert [line for line in found if message in line]
    assert all(line.startswith("f.yaml: ") for line in found)
    assert len(found) == len(set(found))


def test_all_errors_are_reported_together() -> None:
    document = {
        "params": {
            "method": {"grid": ["vkd", "dkd"]},
            "alhpa": 1,
            "alpha": {"grid": [0.5, 2]},
            "beta": {"uniform": [2, 1]},
            "warmup": {"value": 1, "when": {"method": "ce"}},
            "handover": {"value": 1, "when": {"beta": 2}},
        },
        "bits": [9],
        "searcher": "tpe",
        "scheduler": {"name": "asha", "grace_period": 0},
    }
    found = messages(document)
    places = [line.split(": ")[1].split(" = ")[0] for line in found]
    assert sorted(places) == [
        "bits",
        "description",
        "params.alhpa",
        "params.alpha.grid",
        "params.beta.uniform",
        "params.warmup.when.method",
        "scheduler.grace_period",
        "trials",
    ]


def test_a_message_quotes_no_page() -> None:
    assert all(len(line) < 400 for line in messages({**BASE, "bits": list(range(100_000))}))
    assert all(len(line) < 400 for line in messages({**BASE, **params(alpha="a" * 100_000)}))


def test_a_large_grid_may_be_searched_in_part() -> None:
    document = {**BASE, **params(alpha={"int": [0, 2**53]})}
    assert read_space({**document, "trials": 100_000}, "f").count == 100_000
    assert read_space({**document, "trials": 100_000, "searcher": "random"}, "f").count == 100_000
    assert read_space({**BASE, "trials": 100_000}, "f").count == 1


def test_the_settings_of_a_scheduler() -> None:
    for name in SCHEDULERS:
        assert read_space({**BASE, "scheduler": name}, "f").scheduler == SchedulerConfig(name)
    scheduler = {"name": "asha", "grace_period": 2, "reduction_factor": 2.5}
    assert read_space({**BASE, "scheduler": scheduler}, "f").scheduler == SchedulerConfig("asha", 2, 2.5)
    with pytest.raises(UserError, match=r"scheduler\.grace_period = 0: .*; scheduler\.reduction_factor = 1: "):
        SchedulerConfig("asha", 0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "description: x\nparams: {method: dkd, alpha: &a {grid: [*a]}}",
            "line 2, column 41: an alias contains itself",
        ),
        ("description: x\nparams: &p {method: dkd, alpha: {value: 1, when: *p}}", "an alias contains itself"),
        ("description: x\nparams: {method: dkd, alpha: 2020-01-01}", "params.alpha = datetime.date(2020, 1, 1)"),
        ("description: x\nparams: {method: dkd, 1: 2}", "params.1: unknown parameter '1'"),
        ("description: x\nparams: {method: dkd, alpha: {1: 2}}", "params.alpha.1: unknown key '1'"),
        ("description: x\nparams: {method: dkd}\nbits: !!set {2, 4}", "bits"),
        ("description: x\nparams: {method: dkd, alpha: .nan}", "params.alpha = nan"),
    ],
)
def test_what_only_yaml_can_say(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_space(str(path), {})
    assert all(line.startswith(f"{path}: ") for line in str(error.value).splitlines())


def test_the_command_line_says_them_and_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "space.yaml"
    path.write_text("description: x\nparams: {method: dkd, alpha: {uniform: [2, 1]}}\nbits: [9]\n")
    assert main(["--space", str(path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"error: {path}: params.alpha.uniform = [2, 1]: the first must be below the second; ")
    assert said[1].startswith(f"{path}: bits = 9: must be 1 to 8")


# What follows generates mistakes from the rules.

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
NO_NUMBER = st.sampled_from([None, True, "1", "", [1], {"a": 1}, float("nan"), float("inf"), 10**400])
PARAMETERS = [(method, name) for method, known in METHODS.items() for name in known.params]


def refused(allowed: Interval | Switch) -> st.SearchStrategy[float]:
    """Numbers that a constraint does not allow."""
    return FINITE.filter(lambda value: value not in allowed)


@given(st.data(), st.sampled_from(PARAMETERS))
def test_a_value_that_the_method_refuses(data: st.DataObject, parameter: tuple[str, str]) -> None:
    method, name = parameter
    default, allowed = METHODS[method].params[name]
    value = data.draw(refused(allowed))
    ends = sorted([value, default])
    declaration, place = data.draw(
        st.sampled_from(
            [
                (value, name),
                ({"value": value}, f"{name}.value"),
                ({"grid": [default, value]}, f"{name}.grid"),
                ({"choice": [value]}, f"{name}.choice"),
                ({"uniform": ends}, f"{name}.uniform"),
                ([{"grid": [value], "when": {"method": method}}, default], f"{name}.0.grid"),
            ]
        )
    )
    document = {"description": "x", "params": {"method": method, name: declaration}, "searcher": "tpe", "trials": 1}
    found = [line for line in messages(document) if "never used" not in line]
    assert [line.startswith(f"f.yaml: params.{place} = ") for line in found] == [True]


def a_mistake(name: str) -> st.SearchStrategy[tuple[Any, str]]:
    """A declaration of a parameter that no method allows, and the place that the message must name."""
    low_high = st.tuples(FINITE, FINITE).map(lambda pair: [max(pair), min(pair)])
    broken = st.floats(1, 100).filter(lambda value: not value.is_integer())
    declarations = [
        NO_NUMBER.filter(lambda value: not isinstance(value, dict)).map(lambda value: (value, name)),
        st.just(({"grid": []}, f"{name}.grid")),
        NO_NUMBER.map(lambda value: ({"grid": [0.5, value]}, f"{name}.grid")),
        FINITE.map(lambda value: ({"choice": [value, value]}, f"{name}.choice")),
        NO_NUMBER.map(lambda value: ({"value": value}, f"{name}.value")),
        low_high.map(lambda ends: ({"uniform": ends}, f"{name}.uniform")),
        NO_NUMBER.map(lambda value: ({"uniform": [0, value]}, f"{name}.uniform")),
        st.floats(-5, 0).map(lambda low: ({"loguniform": [low, 1]}, f"{name}.loguniform")),
        broken.map(lambda end: ({"int": [1, end]}, f"{name}.int")),
        st.text("abcxyz", min_size=1).map(lambda word: ({"value": 1, "when": {word: 1}}, f"{name}.when.{word}")),
        st.text("abcxyz", min_size=1).map(lambda word: ({word: [1], "value": 0.5}, f"{name}.{word}")),
        st.text("xyz").map(lambda word: ({"value": 1, "when": {"method": word}}, f"{name}.when.method")),
        st.just(([{"value": 0.5, "when": {"method": "dml"}}, {"grid": []}], f"{name}.1.grid")),
    ]
    return st.one_of(declarations)


@given(st.data())
def test_several_mistakes_are_all_said(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(METHODS["dkd"].params)), min_size=1, unique=True))
    mistakes = {name: data.draw(a_mistake(name)) for name in names}
    declared = {name: declaration for name, (declaration, _) in mistakes.items()}
    places = [f"params.{place}" for _, place in mistakes.values()]
    document: Document = {"description": "x", "params": {"method": {"grid": ["dkd", "dml"]}, **declared}}
    for key, value in {"bits": [0], "trials": -1, "searcher": "x", "scheduler": "x"}.items():
        if data.draw(st.booleans()):
            document[key] = value
            places.append(key)
    found = messages(document)
    assert all(any(line.startswith(f"f.yaml: {place}") for line in found) for place in places)


JUNK = st.recursive(
    st.one_of(NO_NUMBER, FINITE, st.integers(-2, 40), st.sampled_from(["dkd", "method", "teacher", "grid", "asha"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["method", "alpha", "beta", "value", "grid", "choice", "uniform", "int", "when", "name"]),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=12,
)


@given(
    st.fixed_dictionaries(
        {"params": JUNK | st.fixed_dictionaries({"method": JUNK | st.just("dkd"), "alpha": JUNK, "beta": JUNK})},
        optional={"description": JUNK, "bits": JUNK, "searcher": JUNK, "trials": JUNK, "scheduler": JUNK, "x": JUNK},
    )
)
def test_no_document_ends_in_a_traceback(document: Document) -> None:
    before = copy.deepcopy(document)
    with suppress(UserError):
        assert json.loads(json.dumps(read_space(document, "f.yaml").document(), allow_nan=False))
    assert repr(document) == repr(before)


def test_yaml_of_a_sound_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(yaml.safe_dump(BASE))
    assert len(load_space(str(path), {})) == 1
