"""A trial as a value: its points, its identity, and its way to a worker."""

import pickle
from dataclasses import replace

from kdq.bits import FLOAT, Allocation
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.pipeline.point import PointSpec
from kdq.pipeline.student import StudentSpec
from kdq.quantize.config import QuantizerSpec
from study.plan.plan import Plan
from study.space.load import load_space
from study.space.workload import load_workload
from study.trial.trial import InputIds, Trial, make_trial

STUDENT = StudentSpec("data", None, "resnet8", MethodConfig.parse({"method": "ce"}), TrainConfig(1, 8, 0.1), 0)
ALLOCATIONS = (FLOAT, Allocation.uniform(4), Allocation.of({"stem": 8, "out": 2}))


def points(*allocations: Allocation) -> tuple[PointSpec, ...]:
    return tuple(PointSpec(STUDENT.stage().id, "data", bits, QuantizerSpec(), 16, 0) for bits in allocations)


TRIAL = Trial("ce seed=0", STUDENT, points(*ALLOCATIONS))


def test_a_worker_gets_the_same_trial() -> None:
    again = pickle.loads(pickle.dumps(TRIAL))
    assert (again, again.id) == (TRIAL, TRIAL.id)


def test_another_allocation_is_another_trial() -> None:
    other = replace(TRIAL, points=points(FLOAT, Allocation.uniform(4), Allocation.of({"stem": 8, "out": 3})))
    assert other.id != TRIAL.id
    assert other.points[1] == TRIAL.points[1]


def test_float_comes_first_and_once() -> None:
    plan = Plan("s", "digits", load_space("smoke", {"bits": (4, 32, 2)}), load_workload("digits", {}), (0,))
    trials = [make_trial(plan, InputIds("data", "teacher"), *run) for run in plan.runs]
    assert len({trial.id for trial in trials}) == len(trials) == 3
    for trial in trials:
        assert [bits.column for bits in trial.bits] == [32, 4, 2]
        assert trial.model_id == trial.student.stage().id if trial.student else "teacher"
