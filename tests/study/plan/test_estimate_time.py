"""What a study is expected to take, by the costs of its work."""

from functools import cached_property

import pytest

from study.plan.estimate_time import measure
from study.plan.plan import Plan
from study.space.configuration import Configuration
from study.space.load import load_space
from study.space.workload import load_workload


def test_trials_that_the_teacher_teaches_share_its_time_equally() -> None:
    plan = Plan("joint", "digits", load_space("joint", {"trials": 40}), load_workload("digits", {}), (0, 1))
    costs = measure(plan, seconds=0.0)
    epochs = plan.workload.train.epochs
    taught = [costs.training(plan, c.method) - epochs * costs.epoch for c in plan.expected if c.method == "dkd"]
    assert taught
    assert costs.training(plan, "ce") == pytest.approx(epochs * costs.epoch)
    assert costs.training(plan, "dml") == pytest.approx(2 * epochs * costs.epoch)
    assert costs.training(plan, "teacher") == 0.0
    shares = [costs.share for c in plan.expected for _ in plan.seeds if c.method in ("vkd", "mixup", "dkd")]
    assert sum(shares) == pytest.approx(costs.teaching)
    assert taught == pytest.approx([costs.share] * len(taught))


def test_a_cost_is_known_without_counting_the_configurations_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("dkd_grid", "digits", load_space("dkd_grid", {}), load_workload("digits", {}), (0,))
    costs = measure(plan, seconds=0.0)

    def count(plan: Plan) -> list[Configuration]:
        raise AssertionError("the time of a large study's start would be quadratic")

    property_ = cached_property(count)
    property_.__set_name__(Plan, "expected")
    monkeypatch.setattr(Plan, "expected", property_)
    vars(plan).pop("expected")
    assert costs.training(plan, "dkd") > costs.share > 0
