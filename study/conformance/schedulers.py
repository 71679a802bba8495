"""What every scheduler that stops trials keeps: it is a function of its reports, and every trial ends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from kdq.conformance.check import Check, require
from study.schedulers.priorities import Values
from study.schedulers.registry import SCHEDULERS, make_scheduler
from study.schedulers.scheduler import Decision, RungConfig, Scheduler

RACES = 20
WIDTHS = 2


@dataclass
class Race:
    """What every trial would report at each of its epochs, were it not stopped, and what was reported and decided."""

    config: RungConfig
    curves: Mapping[str, Sequence[Values]]
    log: list[tuple[str, int, Values, Decision]] = field(default_factory=list)

    def run(self, scheduler: Scheduler, random: Random) -> None:
        """Report the trials' epochs in a random order until all have ended, or wait for ever."""
        epochs, waiting = dict.fromkeys(self.curves, 0), set[str]()
        while True:
            waiting -= set(scheduler.resumable())
            ended = {trial for trial, epoch in epochs.items() if epoch == self.config.epochs} | self.stopped
            ready = sorted(epochs.keys() - ended - waiting - scheduler.stopped().keys())
            if not ready:
                return
            trial = random.choice(ready)
            epochs[trial] += 1
            values = self.curves[trial][epochs[trial] - 1]
            decision = scheduler.report(trial, epochs[trial], values)
            self.log.append((trial, epochs[trial], values, decision))
            if decision is Decision.PAUSE:
                waiting.add(trial)

    @property
    def stopped(self) -> set[str]:
        return {trial for trial, _, _, decision in self.log if decision is Decision.STOP}

    @property
    def finished(self) -> set[str]:
        return {
            trial for trial, epoch, _, decision in self.log if epoch == self.config.epochs and decision == "continue"
        }


def race(seed: int, trials: int | None = None) -> Race:
    """Return a race of 1 to 9 trials over 2 to 10 epochs, of few distinct values, so that ties are common."""
    random = Random(seed)
    epochs, trials = random.randint(2, 10), trials or random.randint(1, 9)
    config = RungConfig(epochs, trials, random.randint(1, min(3, epochs - 1)), random.choice([2, 2.5, 3, 4]))

    def values() -> Values:
        return tuple((random.choice([0, 10, 50, 90, 100]), random.choice([1, 2, 4]) * 1e5) for _ in range(1 + WIDTHS))

    return Race(config, {f"t{i}": [values() for _ in range(epochs)] for i in range(trials)})


def _run(name: str, seed: int) -> tuple[Race, Scheduler]:
    own = race(seed)
    scheduler = make_scheduler(name, own.config)
    own.run(scheduler, Random(seed))
    return own, scheduler


def ends_every_trial(name: str) -> None:
    for seed in range(RACES):
        own, scheduler = _run(name, seed)
        lost = own.finished | own.stopped | scheduler.stopped().keys()
        require(
            lost == own.curves.keys(), f"race {seed}: some trials neither finish nor stop: {own.curves.keys() - lost}"
        )
        require(bool(own.finished), f"race {seed}: all trials were stopped")


def decides_at_rungs_only(name: str) -> None:
    for seed in range(RACES):
        own, scheduler = _run(name, seed)
        for trial, epoch, _, decision in own.log:
            at_rung = epoch in scheduler.levels
            require(
                at_rung or decision is Decision.CONTINUE, f"race {seed}: {trial} gets {decision} after epoch {epoch}"
            )
        require(own.config.epochs not in scheduler.levels, f"race {seed}: a rung after the last epoch")


def is_restored_by_its_reports(name: str) -> None:
    for seed in range(RACES):
        own, scheduler = _run(name, seed)
        again = make_scheduler(name, own.config)
        decisions = [again.report(trial, epoch, values) for trial, epoch, values, _ in own.log]
        require(decisions == [record[3] for record in own.log], f"race {seed}: other decisions on the same reports")
        require(again.stopped() == scheduler.stopped(), f"race {seed}: other trials stopped on the same reports")


def stops_what_is_not_finite(name: str) -> None:
    own = race(0, trials=3)
    scheduler = make_scheduler(name, own.config)
    bad = tuple((math.nan, 1e5) for _ in range(1 + WIDTHS))
    require(scheduler.report("t0", scheduler.levels[0], bad) is Decision.STOP, "a trial that reports NaN continues")


def lets_one_trial_alone_finish(name: str) -> None:
    own = race(1, trials=1)
    own.run(make_scheduler(name, own.config), Random(0))
    require(own.finished == {"t0"}, "a single trial does not finish")


def never_pauses_if_asynchronous(name: str) -> None:
    if SCHEDULERS[name].promotion == "asynchronous":
        logs = [record for seed in range(RACES) for record in _run(name, seed)[0].log]
        require(all(record[3] is not Decision.PAUSE for record in logs), "it is asynchronous, and pauses a trial")


CHECKS: Mapping[str, Check] = {
    "every trial finishes or is stopped, and one finishes": ends_every_trial,
    "decisions are made at rungs, and none after the last epoch": decides_at_rungs_only,
    "its reports restore it": is_restored_by_its_reports,
    "what is not finite stops": stops_what_is_not_finite,
    "one trial alone finishes": lets_one_trial_alone_finish,
    "an asynchronous one never pauses": never_pauses_if_asynchronous,
}
