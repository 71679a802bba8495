"""The precision of a study: chosen once, kept, and part of the students' identities."""

from collections.abc import Mapping
from typing import Any

import pytest

from kdq.distill.precision import Choice
from study.plan import precision
from study.plan.plan import Plan, differences
from study.plan.precision import settings, settle, slower
from study.space.load import load_space
from study.space.workload import FOLDER, load_workload
from study.trial.trial import InputIds, make_trial

FAST = Choice("bf16", "this processor has AMX")
SLOW = Choice("float32", "this processor has neither")


def plan(workload: str = "cifar10_small", space: str = "smoke", **settings: Any) -> Plan:
    return Plan(space, workload, load_space(space, {}), load_workload(workload, settings), (0,))


def on(monkeypatch: pytest.MonkeyPatch, machine: Choice) -> None:
    monkeypatch.setattr(precision, "choose", lambda device: machine)


@pytest.mark.parametrize("machine", [FAST, SLOW])
def test_auto_is_what_the_machine_chooses(monkeypatch: pytest.MonkeyPatch, machine: Choice) -> None:
    on(monkeypatch, machine)
    settled, line = settle(plan(), "cpu")
    assert settled.workload.train.precision == machine.precision
    assert line == f"precision of training: {machine.precision} (auto: {machine.reason})"
    assert settle(settled, "cpu")[0] == settled


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_shipped_workload_but_digits_is_auto(name: str) -> None:
    workload = load_workload(name, {})
    recipes = [recipe for recipe in (workload.train, workload.teacher_train) if recipe]
    assert {recipe.precision for recipe in recipes} == {"float32" if name == "digits" else "auto"}


def test_the_settings_that_choose_the_same_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, FAST)
    given = plan("digits", **{"train.precision": "auto", "teacher_train.precision": "auto"})
    began, _ = settle(given, "cpu")
    assert settings(given, began) == ("train.precision=bf16", "teacher_train.precision=bf16")
    assert settings(plan(), settle(plan(), "cpu")[0]) == ("train.precision=bf16",)
    assert settings(plan("digits"), settle(plan("digits"), "cpu")[0]) == ()
    on(monkeypatch, SLOW)
    chosen = dict(text.split("=") for text in settings(given, began))
    assert settle(plan("digits", **chosen), "cpu")[0].document() == began.document()


def test_a_study_keeps_its_precision_on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, FAST)
    began, _ = settle(plan(), "cpu")
    on(monkeypatch, SLOW)
    resumed, line = settle(plan(), "cpu", began.document())
    assert differences(began.document(), resumed.document()) == {}
    assert line == (
        "precision of training: bf16 (auto: chosen when the study began; a new study would take float32, since this "
        "processor has neither)"
    )
    ids = InputIds("data", "teacher")
    assert [make_trial(began, ids, *run).id for run in began.runs] == [
        make_trial(resumed, ids, *run).id for run in resumed.runs
    ]


def test_what_the_user_sets_is_compared_with_the_study_as_any_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, FAST)
    began, _ = settle(plan(), "cpu")
    now, line = settle(plan(**{"train.precision": "float32"}), "cpu", began.document())
    assert list(differences(began.document(), now.document())) == ["workload.train.precision"]
    assert line == "precision of training: float32 (as the workload sets it)"


def test_the_default_name_is_the_same_on_every_machine_and_the_students_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids, trials = InputIds("data", "teacher"), []
    for machine in (FAST, SLOW):
        on(monkeypatch, machine)
        assert plan().default_name == plan().default_name
        settled, _ = settle(plan(), "cpu")
        trials.append(make_trial(settled, ids, *settled.runs[0]))
    assert trials[0].model_id != trials[1].model_id
    explicit = plan(**{"train.precision": "float32"})
    assert make_trial(explicit, ids, *explicit.runs[0]).id == trials[1].id  # the choice is no setting of its own


def test_a_teacher_trained_here_has_a_precision_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def taught(machine: Choice, before: Mapping[str, Any] | None) -> Plan:
        on(monkeypatch, machine)
        settings = {"teacher_train": {"epochs": 1, "batch_size": 8, "lr": 0.1, "precision": "auto"}}
        return settle(plan(**settings), "cpu", before)[0]

    began = taught(FAST, None)
    assert began.workload.teacher_train
    assert began.workload.teacher_train.precision == "bf16"
    assert taught(SLOW, began.document()) == began


def test_a_node_on_which_bf16_is_slower_is_named() -> None:
    nodes = {"node a": FAST, "node b": SLOW}
    (line,) = slower("bf16", nodes)
    assert line == ("node b trains slowly: this processor has neither, and one study trains in one precision, bf16")
    assert slower("float32", nodes) == []


CHOSEN = "bf16 (auto: this processor has AMX)"


@pytest.mark.parametrize(
    ("space", "settings", "named"),
    [
        ("smoke", {}, CHOSEN),
        ("teacher_ptq", {}, CHOSEN),
        ("teacher_ptq", {"train.precision": "float32"}, CHOSEN),
        ("teacher_ptq", {"teacher_train": None}, CHOSEN),
        ("teacher_ptq", {"teacher": "resnet56:file"}, None),
        (
            "smoke",
            {"teacher": "resnet56:file", "teacher_train.precision": "float32"},
            CHOSEN,
        ),
        (
            "smoke",
            {"train.precision": "float32"},
            f"students float32 (as the workload sets it), teacher {CHOSEN}",
        ),
        (
            "smoke",
            {"train.precision": "bf16"},
            f"students bf16 (as the workload sets it), teacher {CHOSEN}",
        ),
        (
            "smoke",
            {"teacher_train.precision": "float32"},
            f"students {CHOSEN}, teacher float32 (as the workload sets it)",
        ),
    ],
)
def test_the_line_names_what_is_trained(
    monkeypatch: pytest.MonkeyPatch, space: str, settings: Mapping[str, Any], named: str | None
) -> None:
    on(monkeypatch, FAST)
    _, line = settle(plan("cifar100_small", space, **settings), "cpu")
    assert line == (named and f"precision of training: {named}")
