"""Would early stopping have been right? Schedulers replayed on a complete record of a study, without training.

Data (`play`) -> numbers (`summary`, `mean_curves`); `analysis.commands.replay` and `analysis.figures.replay` show them.
"""

import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.record import StudyRecord, Target
from kdq.errors import UserError
from study.results.front import REFERENCE
from study.results.pareto import front, hypervolume
from study.schedulers.asha import Asha
from study.schedulers.priorities import FLOAT
from study.schedulers.registry import make_scheduler, stopping
from study.schedulers.scheduler import Decision, RungConfig, Scheduler

if TYPE_CHECKING:
    import pandas

MOST = 10_000  # orders, and trials at a time
GRID, RANDOM = "grid", "random"
EQUAL_BUDGET = 0.6  # of the epochs of the full grid: where all strategies are compared


@dataclass(frozen=True, slots=True)
class Setting:
    """How schedulers are replayed. orders: number of random orders of the trials; slots: trials at a time."""

    orders: int = 100
    slots: int = 2
    grace_period: int = 1
    reduction_factor: float = 3

    def __post_init__(self) -> None:
        for name in ("orders", "slots"):
            if not 1 <= getattr(self, name) <= MOST:
                raise UserError(f"{name} = {getattr(self, name)}: must be at least 1 and at most {MOST:,}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One strategy on one order of trials. epochs: trained by all trials together.

    completed: the trials that completed, each with the epochs that all trials had trained by then; ascending.
    """

    epochs: int
    completed: tuple[tuple[int, str], ...]


Outcomes = Mapping[str, Sequence[Outcome]]
"""Strategy -> its outcome on each order; the orders are the same for all."""

Track = Callable[[Sequence[Sequence[str]], str], Iterable[Sequence[str]]]
"""Passes on what it is given, and may show the progress under the name, like `rich.progress.Progress.track`."""


def play(record: StudyRecord, setting: Setting, track: Track = lambda orders, _: orders) -> dict[str, list[Outcome]]:
    """Return the outcomes of the full grid, random search and every scheduler that stops trials, on every order.

    Random search trains as many students as the epochs of `asha_pareto`, on average, are enough for. `track` gets the
    orders of each strategy, and the strategy's name. Raises UserError if no trial completed, or one has no quantized
    accuracies.
    """
    if not record.points:
        raise UserError("no trial of the record completed, so there is no front to find")
    config = RungConfig(record.epochs, len(record.curves), setting.grace_period, setting.reduction_factor)
    if any(len(curve[0]) < 2 for curve in record.curves.values()):
        raise UserError(
            "the record has trials with float accuracy only: schedulers that compare quantized students need a width"
        )
    generator = random.Random(0)
    orders = [generator.sample(list(record.curves), len(record.curves)) for _ in range(setting.orders)]

    def outcomes(name: str, orders: Sequence[Sequence[str]]) -> list[Outcome]:
        return [simulate(_scheduler(name, config), record, order, setting.slots) for order in track(orders, name)]

    played = {name: outcomes(name, orders) for name in (GRID, *stopping())}
    affordable = statistics.fmean(outcome.epochs for outcome in played["asha_pareto"]) / record.epochs
    drawn = [_first(record, order, max(1, round(affordable))) for order in orders]
    return {GRID: played.pop(GRID), RANDOM: outcomes(RANDOM, drawn), **played}


def _first(record: StudyRecord, order: Sequence[str], students: int) -> list[str]:
    """Return the trials of an order whose student is among its first `students` ones."""
    chosen = list(dict.fromkeys(record.students[trial] for trial in order))[:students]
    return [trial for trial in order if record.students[trial] in chosen]


def _scheduler(name: str, config: RungConfig) -> Scheduler:
    if name in (GRID, RANDOM):
        return Asha(FLOAT, (), config.reduction_factor)  # without rungs: stops only diverged trials
    return make_scheduler(name, config)


def simulate(scheduler: Scheduler, record: StudyRecord, order: Sequence[str], slots: int) -> Outcome:
    """Run trials under a scheduler as a study does, where every epoch of every student takes the same time.

    A free slot takes the next trial in the order; once all have started, a paused one that may continue. An epoch
    that another trial has trained of the same student takes no time.
    """
    new, running = deque(order), list[str]()
    epoch = dict.fromkeys(order, 0)
    trained = dict.fromkeys(record.students.values(), 0)
    completed: list[tuple[int, str]] = []
    while True:
        resumed = deque(trial for trial in scheduler.resumable() if trial not in running)
        while len(running) < slots and (new or resumed):
            running.append((new or resumed).popleft())
        if not running:
            break
        for trial in running.copy():
            student, goes_on, is_new = record.students[trial], True, False
            while goes_on and not is_new:
                epoch[trial] += 1
                is_new = epoch[trial] > trained[student]
                trained[student] = max(trained[student], epoch[trial])
                decision = scheduler.report(trial, epoch[trial], record.curves[trial][epoch[trial] - 1])
                goes_on = decision is Decision.CONTINUE and epoch[trial] < record.epochs
                if decision is Decision.CONTINUE and not goes_on:
                    completed.append((sum(trained.values()), trial))
            if not goes_on:
                running.remove(trial)
    assert len(completed) + len(scheduler.stopped()) + len(scheduler.diverged) == len(order)
    return Outcome(sum(trained.values()), tuple(completed))


def on_front(record: StudyRecord) -> frozenset[str]:
    """Return the trials of the targets on the front of all targets, which a study is to find."""
    marks = front([(target.accuracy, target.total_bits) for target in record.targets])
    best = [target for target, is_on in zip(record.targets, marks, strict=True) if is_on]
    return frozenset(trial for target in best for same in target.trials for trial in same)


def curve(record: StudyRecord, outcome: Outcome, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the hypervolume of the targets that completed trials have found, in percent × octaves, after `at` epochs
    in all."""
    targets: dict[str, list[Target]] = {}  # those that each trial measures a seed of
    for target in record.targets:
        for trial in frozenset().union(*target.trials):
            targets.setdefault(trial, []).append(target)
    completed: set[str] = set()
    found: list[tuple[float, float]] = []
    epochs, volumes = [0], [0.0]
    for spent, trial in outcome.completed:
        candidates = [target for target in targets.get(trial, ()) if not target.is_found_by(completed)]
        completed.add(trial)
        found += [(each.accuracy, math.log2(each.total_bits)) for each in candidates if each.is_found_by(completed)]
        epochs.append(spent)
        volumes.append(hypervolume(found, REFERENCE))
    return np.array(volumes)[np.searchsorted(epochs, at, side="right") - 1]


def mean_curves(record: StudyRecord, outcomes: Outcomes) -> "pandas.DataFrame":
    """Return the hypervolume by epochs, up to the longest order: columns strategy, epochs, mean, deviation and n."""
    import pandas

    tables = []
    for name, played in outcomes.items():
        at = np.arange(1 + max(outcome.epochs for outcome in played), dtype=np.float64)
        volumes = np.stack([curve(record, outcome, at) for outcome in played])
        table = {"strategy": name, "epochs": at, "mean": volumes.mean(axis=0), "n": len(played)}
        tables.append(pandas.DataFrame({**table, "deviation": _deviations(volumes)}))
    return pandas.concat(tables, ignore_index=True)


def summary(record: StudyRecord, outcomes: Outcomes) -> "pandas.DataFrame":
    """Return a row for each strategy: means over the orders and sample deviations (`_std`).

    epochs: trained; saved: percent of the full grid's epochs; front_lost: percent of the true front's trials that
    did not complete; hypervolume: of all completed trials; equal_budget: the hypervolume at `EQUAL_BUDGET` of the
    full grid's epochs, or at the end if that was earlier; n: number of orders.
    """
    import pandas

    whole = outcomes[GRID][0].epochs
    best = on_front(record)
    rows = []
    for name, played in outcomes.items():
        ends = np.array([curve(record, o, np.array([EQUAL_BUDGET * whole, whole])) for o in played])
        lost = [100 * len(best - {trial for _, trial in outcome.completed}) / len(best) for outcome in played]
        epochs = np.array([outcome.epochs for outcome in played], dtype=np.float64)
        measured = {
            "epochs": epochs,
            "saved": 100 * (1 - epochs / whole),
            "front_lost": np.array(lost),
            "hypervolume": ends[:, 1],
            "equal_budget": ends[:, 0],
        }
        row: dict[str, object] = {"strategy": name}
        for column, values in measured.items():
            row |= {column: float(values.mean()), f"{column}_std": float(_deviations(values))}
        rows.append({**row, "n": len(played)})
    return pandas.DataFrame(rows)


def _deviations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sample deviations over the first axis; NaN for one order."""
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
