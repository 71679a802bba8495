"""Which studies may go on with other settings under their name, and what is said of the others."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdq.errors import UserError
from kdq.pipeline.point import POINT_VERSION
from study.commands.extend import check, check_rungs, lengthened
from study.control.journal import Ended, Journal, Reported
from study.plan.plan import Plan
from study.results.status import TrialStatus
from study.schedulers.config import SchedulerConfig
from study.schedulers.scheduler import Decision
from study.space.load import load_space
from study.space.workload import load_workload

CONSTANT = {"train.schedule": "step", "train.milestones": []}


def plan(
    space: str = "dkd_grid", seeds: tuple[int, ...] = (0,), train: Mapping[str, Any] | None = None, **changes: Any
) -> Plan:
    return Plan(space, "digits", load_space(space, changes), load_workload("digits", train or {}), seeds)


def tpe(trials: int, searcher: str = "tpe", **changes: Any) -> Plan:
    return plan("joint_ranges", searcher=searcher, trials=trials, **changes)


def recorded(by: str, seeds: tuple[int, ...] = (0,)) -> Plan:
    """As an earlier version read it."""
    made = plan(seeds=seeds)
    return replace(made, space=replace(made.space, scheduler=SchedulerConfig("record", by=by)))


ALLOWED = {
    "a larger grid": (plan(), plan(beta={"grid": [4, 8, 12]})),
    "another grid": (plan(), plan("joint", searcher="grid")),
    "widths": (plan(), plan(bits=(2, 3))),
    "seeds": (plan(), plan(seeds=(0, 1))),
    "epochs": (plan(), plan(train={"train.epochs": 20})),
    "milestones": (plan(train=CONSTANT), plan(train=CONSTANT | {"train.milestones": [0.5]})),
    "a longer asha": (plan(scheduler="asha"), plan(scheduler="asha", seeds=(0, 1))),
    "more seeds under a scheduler that compares nothing": (
        recorded(by="configuration"),
        recorded(by="configuration", seeds=(0, 1)),
    ),
    "a longer tpe": (tpe(10), tpe(20)),
    "a longer nsga2": (tpe(10, "nsga2"), tpe(19, "nsga2")),
    "a grid after tpe": (plan(searcher="tpe", trials=5), plan()),
}
REFUSED = {
    r"an extension cannot change workload\.train\.lr: choose another": (plan(), plan(train={"train.lr": 0.3})),
    "another scheduler decided which": (plan(), plan(scheduler="asha")),
    "decides each rung once": (plan(scheduler="halving"), plan(scheduler="halving", seeds=(0, 1))),
    "compares configurations by all their seeds": (
        plan(scheduler={"name": "asha", "by": "configuration"}),
        plan(scheduler={"name": "asha", "by": "configuration"}, seeds=(0, 1)),
    ),
    "tpe would have proposed other trials with another space.bits": (tpe(10), tpe(10, bits=(2,))),
    "tpe would have proposed other trials with another space.searcher": (plan(), plan(searcher="tpe", trials=5)),
    "fewer trials, since tpe may already have proposed 10": (tpe(10), tpe(9)),
    "generations of 5 instead of 4": (tpe(10, "nsga2"), tpe(20, "nsga2")),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_what_may_be_extended_needs_the_word(case: str) -> None:
    before, now = ALLOWED[case]
    check("s", before.document(), now, extend=True)
    with pytest.raises(UserError, match=r"study 's' exists with other settings: .* was .*, is now .*; give --extend"):
        check("s", before.document(), now, extend=False)


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("extend", [True, False])
def test_what_cannot_be_extended_says_why(why: str, extend: bool) -> None:
    before, now = REFUSED[why]
    with pytest.raises(UserError, match=why) as refused:
        check("s", before.document(), now, extend=extend)
    assert "is now" in str(refused.value)
    assert "--extend" not in str(refused.value)


@pytest.mark.parametrize("extend", [True, False])
def test_the_same_settings_are_no_extension(extend: bool) -> None:
    for one in (plan(), tpe(10, "nsga2"), plan(scheduler="halving")):
        check("s", one.document(), one, extend=extend)


@pytest.mark.parametrize("extend", [True, False])
def test_a_study_of_another_version_is_refused_whatever_else_changed(extend: bool) -> None:
    before = plan().document()
    before["versions"]["point"] = 2
    before["workload"]["quantizer"]["method"] = "gpfq"
    with pytest.raises(UserError) as refused:
        check("s", before, plan(seeds=(0, 1)), extend=extend)
    assert str(refused.value) == (
        f"study 's' was started by another version of this program (versions.point was 2, is now {POINT_VERSION}), and "
        "results of different versions are not comparable: choose another --name, which reuses stages of the same "
        "version"
    )


def test_a_trial_that_others_were_compared_with_must_stay(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    check_rungs("s", journal, [])
    journal.append(Ended("other", TrialStatus.FAILED, "", None))
    for trial in "aab":
        journal.append(Reported(trial, 1, (), Decision.CONTINUE))
    check_rungs("s", journal, ["a", "b", "c"])
    with pytest.raises(UserError, match="lacks 1 of the trials that its scheduler has compared"):
        check_rungs("s", journal, ["b"])


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"train.epochs": 10}, ""),
        ({}, {"train.epochs": 20}, "are retrained, since the schedule 'cosine'"),
        (CONSTANT, CONSTANT | {"train.epochs": 20}, "are resumed from epoch 10"),
        (CONSTANT, CONSTANT | {"train.epochs": 5}, "cannot be shortened"),
        ({"train.schedule": "step"}, {"train.schedule": "step", "train.epochs": 20}, "milestones are at other epochs"),
        (
            {"train.schedule": "step"},
            {"train.schedule": "step", "train.epochs": 20, "train.milestones": [0.25, 0.375]},
            "are resumed from epoch 10",
        ),
    ],
)
def test_what_becomes_of_the_students_is_said(before: Mapping[str, Any], now: Mapping[str, Any], said: str) -> None:
    old, new = (plan(train=train, warmup=0) for train in (before, now))
    lines = lengthened(old.document(), new)
    assert len(lines) == bool(said)
    assert all("9 of 9" in line and said in line for line in lines)


def test_a_method_whose_loss_depends_on_the_length_is_named() -> None:
    old, new = (plan("joint", train=CONSTANT | {"train.epochs": epochs}) for epochs in (10, 20))
    lines = lengthened(old.document(), new)
    assert any("warmup of dkd is a share of the training" in line for line in lines)
    assert any("are resumed from epoch 10" in line for line in lines)
