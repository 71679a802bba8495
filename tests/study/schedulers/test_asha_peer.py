"""Our `asha` beside Ray Tune's: the same decisions on every stream without NaN."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers.async_hyperband import AsyncHyperBandScheduler

from study.schedulers.registry import make_scheduler
from study.schedulers.scheduler import Decision, RungConfig

accuracies = st.sampled_from([0.0, 50.0, 90.0]) | st.floats(0, 100)


class Peer:
    """Ray's scheduler, one bracket, called as our schedulers are."""

    def __init__(self, config):
        self.scheduler = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="val_top1",
            mode="max",
            max_t=config.epochs,
            grace_period=config.grace_period,
            reduction_factor=config.reduction_factor,
            stop_last_trials=False,
        )
        self.trials = {}

    def report(self, trial, epoch, accuracy):
        if trial not in self.trials:
            self.trials[trial] = SimpleNamespace(trial_id=trial)
            self.scheduler.on_trial_add(None, self.trials[trial])
        result = {"epoch": epoch, "val_top1": accuracy}
        return Decision(self.scheduler.on_trial_result(None, self.trials[trial], result).lower())


@given(st.data())
def test_the_same_decisions_as_ray(data):
    epochs = data.draw(st.integers(2, 30))
    config = RungConfig(
        epochs,
        trials=data.draw(st.integers(1, 12)),
        grace_period=data.draw(st.integers(1, min(4, epochs - 1))),
        reduction_factor=data.draw(st.sampled_from([2, 2.5, 3, 4])),
    )
    ours, theirs = make_scheduler("asha", config), Peer(config)
    running = {f"t{i}": 0 for i in range(config.trials)}
    while running:
        trial = data.draw(st.sampled_from(sorted(running)))
        for _ in range(data.draw(st.integers(1, 5))):  # several epochs at a time, in any order of trials
            running[trial] += 1
            epoch, accuracy = running[trial], data.draw(accuracies)
            if epoch == config.epochs:  # where Ray may have a rung and we have none
                del running[trial]
                break
            decision = ours.report(trial, epoch, ((accuracy, 1e6),))
            assert decision is theirs.report(trial, epoch, accuracy)
            if decision is Decision.STOP:
                del running[trial]
                break


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_same_decisions_as_ray_in_a_large_study(factor):
    """120 trials, 27 epochs, round by round; many are stopped."""
    import random

    draw = random.Random(factor)
    config = RungConfig(epochs=27, trials=120, reduction_factor=factor)
    ours, theirs = make_scheduler("asha", config), Peer(config)
    running, stopped = {f"t{i}" for i in range(120)}, 0
    for epoch in range(1, 27):
        for trial in draw.sample(sorted(running), len(running)):
            accuracy = draw.uniform(0, 100)
            decision = ours.report(trial, epoch, ((accuracy, 1e6),))
            assert decision is theirs.report(trial, epoch, accuracy)
            if decision is Decision.STOP:
                running.remove(trial)
                stopped += 1
    assert 60 < stopped < 120
