"""Remarks on early stopping, and the average of the weights that a space asks for."""

from dataclasses import replace
from typing import Any

import pytest

from study.plan.averaging import averaged
from study.plan.plan import Plan
from study.plan.remarks import remarks
from study.space.load import load_space
from study.space.workload import load_workload


def plan(space: str, workload: str = "digits", changes: dict[str, Any] | None = None, **settings: Any) -> Plan:
    chosen, given = load_space(space, changes or {}), {"train.epochs": 27, **settings}
    return averaged(Plan(space, workload, chosen, load_workload(workload, given), (0,)), given)


@pytest.mark.parametrize("epochs", [2, 9, 10, 27, 30, 200])
def test_the_shipped_space_compares_late_and_averaged(epochs: int) -> None:
    shipped = plan("joint_asha", **{"train.epochs": epochs})
    scheduler = shipped.make_scheduler()
    assert scheduler
    assert scheduler.levels == ((epochs + 1) // 2,)
    assert scheduler.reduction_factor == 8
    assert remarks(shipped) == []


def test_an_average_in_epochs_is_that_of_the_measurements() -> None:
    """0.98 for 2,000 images in batches of 128, of which docs/results has records."""
    settings = {"train_images": 2000}
    assert plan("joint_asha", "cifar10_small", **settings).workload.train.ema == pytest.approx(0.98, abs=0.001)
    assert plan("joint_asha", "cifar10_small").workload.train.ema == pytest.approx(1 - 1 / (3 * 352), abs=1e-5)
    assert plan("joint_asha", "digits", **{"train.ema": 0}).workload.train.ema == 0
    assert plan("joint_asha", "digits", **{"train.ema": 0.5}).workload.train.ema == 0.5
    assert plan("joint").workload.train.ema == 0


@pytest.mark.parametrize(
    ("scheduler", "early"),
    [("asha", True), ({"name": "halving", "grace_period": 9}, True), ({"name": "asha", "grace_period": 14}, False)],
)
def test_an_early_rung_and_single_weights_are_remarked(scheduler: Any, early: bool) -> None:
    found = remarks(plan("joint", changes={"scheduler": scheduler}))
    assert ["stops trials after epoch" in line for line in found] == [True, False][1 - early :]
    assert "with --set train.ema=0.9" in found[-1]
    assert all(line.startswith("warning: ") for line in found)


@pytest.mark.parametrize("scheduler", ["none", "record"])
def test_nothing_is_remarked_where_nothing_is_stopped(scheduler: str) -> None:
    assert remarks(plan("joint", changes={"scheduler": scheduler})) == []


def test_a_schedulers_name_alone_keeps_the_rungs_of_the_file() -> None:
    chosen = load_space("joint_asha", {"scheduler": "halving_pareto"}).scheduler
    assert (chosen.name, chosen.grace_period, chosen.reduction_factor) == ("halving_pareto", 0.5, 8)


def test_seeds_that_are_stopped_one_by_one_are_remarked() -> None:
    single = plan("joint_asha")
    several = replace(single, seeds=(0, 1, 2))
    together = replace(plan("joint_asha", changes={"scheduler.by": "configuration"}), seeds=(0, 1, 2))
    assert [line.partition(";")[0] for line in remarks(several)] == [
        "warning: asha stops the 3 seeds of a configuration one by one, and the front has only configurations with all "
        "seeds"
    ]
    assert remarks(single) == remarks(together) == []
    assert "by" not in single.document()["space"]["scheduler"]
    assert together.document()["space"]["scheduler"]["by"] == "configuration"


@pytest.mark.parametrize(
    ("space", "changes", "settings"),
    [
        ("joint_asha", {"scheduler.by": "configuration"}, ("asha", 0.5, "configuration")),
        ("joint_asha", {"scheduler.name": "halving", "scheduler.grace_period": 3}, ("halving", 3, "trial")),
        ("joint", {"scheduler": "halving", "scheduler.by": "configuration"}, ("halving", 1, "configuration")),
        ("joint", {"scheduler.name": "asha", "scheduler.grace_period": 3}, ("asha", 3, "trial")),
    ],
)
def test_single_settings_of_a_scheduler_can_be_given(space: str, changes: dict[str, Any], settings: tuple[Any]) -> None:
    chosen = load_space(space, changes).scheduler
    assert (chosen.name, chosen.grace_period, chosen.by) == settings
