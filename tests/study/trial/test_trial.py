"""A trial as a value: its points, and its way to a worker as plain JSON."""

import json
from dataclasses import asdict, replace

from kdq.bits import FLOAT, Allocation
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.quantize.config import QuantizerSpec
from study.trial.trial import DataRef, ModelRef, Trial

METHOD = MethodConfig.parse({"method": "ce"})
TRIAL = Trial(
    name="ce seed=0",
    data=DataRef("folder", "data", 10, 10),
    teacher=ModelRef("folder", "teacher", "resnet20"),
    peer=None,
    method=METHOD.name,
    parameters=METHOD.params,
    student="resnet8",
    train=json.loads(json.dumps(asdict(TrainConfig(epochs=1, batch_size=8, lr=0.1)))),
    seed=0,
    bits=(Allocation.uniform(4), Allocation.of({"stem": 8, "out": 2})),
    quantizer=QuantizerSpec(),
    calibration_images=16,
    store="store",
)


def test_a_worker_gets_the_same_trial() -> None:
    document = json.loads(json.dumps(TRIAL.document()))
    assert document["bits"] == [4, {"out": 2, "stem": 8}]
    assert Trial.of(document) == TRIAL
    assert Trial.of(document).id == TRIAL.id


def test_float_comes_first_and_once() -> None:
    assert [point.bits for point in TRIAL.points] == [FLOAT, *TRIAL.bits]
    with_float = replace(TRIAL, bits=(TRIAL.bits[0], FLOAT, TRIAL.bits[1]))
    assert with_float.points == TRIAL.points


def test_another_allocation_is_another_trial() -> None:
    other = replace(TRIAL, bits=(Allocation.uniform(4), Allocation.of({"stem": 8, "out": 3})))
    assert other.id != TRIAL.id
    assert other.points[1] == TRIAL.points[1]
