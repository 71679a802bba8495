"""Would early stopping have been right? Rules replayed on a study that is recorded in full, without training.

Data (`play`) -> numbers (`summary`, `mean_curves`); `analysis.report` and `analysis.figures` show them.
"""

import math
import random
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.record import Record
from kdq.errors import UserError
from study.results.front import REFERENCE
from study.results.pareto import front, hypervolume
from study.schedulers.asha import Asynchronous
from study.schedulers.priorities import FLOAT
from study.schedulers.registry import RULES, make_rule
from study.schedulers.scheduler import Decision, RungConfig, Rungs

if TYPE_CHECKING:
    import pandas

MOST = 10_000  # orders, and trials at a time
GRID, RANDOM = "grid", "random"
EQUAL_BUDGET = 0.6  # of the epochs of the full grid: where all strategies are compared


@dataclass(frozen=True, slots=True)
class Setting:
    """How the rules are replayed. orders: random orders of the trials; slots: trials that run at a time."""

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

    completed: the trials that came to their end, each with the epochs that all had trained by then; ascending.
    """

    epochs: int
    completed: tuple[tuple[int, str], ...]


Outcomes = Mapping[str, Sequence[Outcome]]
"""Strategy -> its outcome on each order; the orders are the same for all."""


def play(record: Record, setting: Setting) -> dict[str, list[Outcome]]:
    """Every strategy on every order: the full grid, random search and every rule of `study.schedulers.scheduler`.

    Random search trains as many students as `asha_pareto` could pay for with the epochs that it spent on average.
    """
    if not record.points:
        raise UserError("no trial of the record was completed: there is nothing to find")
    config = RungConfig(record.epochs, len(record.curves), setting.grace_period, setting.reduction_factor)
    if any(len(curve[0]) < 2 for curve in record.curves.values()):
        raise UserError("the record has trials with float accuracy alone: rules for quantized models need a width")
    generator = random.Random(0)
    orders = [generator.sample(list(record.curves), len(record.curves)) for _ in range(setting.orders)]

    def outcomes(name: str, orders: Sequence[Sequence[str]]) -> list[Outcome]:
        return [simulate(_rule(name, config), record, order, setting.slots) for order in orders]

    played = {name: outcomes(name, orders) for name in (GRID, *RULES)}
    affordable = statistics.fmean(outcome.epochs for outcome in played["asha_pareto"]) / record.epochs
    drawn = [_first(record, order, max(1, round(affordable))) for order in orders]
    return {GRID: played.pop(GRID), RANDOM: outcomes(RANDOM, drawn), **played}


def _first(record: Record, order: Sequence[str], students: int) -> list[str]:
    """The trials of an order for which so many students, the first that it names, are enough."""
    chosen = list(dict.fromkeys(record.students[trial] for trial in order))[:students]
    return [trial for trial in order if record.students[trial] in chosen]


def _rule(name: str, config: RungConfig) -> Rungs:
    if name in (GRID, RANDOM):
        return Asynchronous(FLOAT, (), config.reduction_factor)  # without rungs: only what diverges is stopped
    return make_rule(name, config)


def simulate(rule: Rungs, record: Record, order: Sequence[str], slots: int) -> Outcome:
    """Run trials under a rule as a study does, each epoch of each student taking the same time.

    A free slot takes the next trial in the order, and when all have begun one that may go on. An epoch that a student
    has been trained by another trial is there at once.
    """
    new, running = deque(order), list[str]()
    epoch = dict.fromkeys(order, 0)
    trained = dict.fromkeys(record.students.values(), 0)
    completed: list[tuple[int, str]] = []
    while True:
        resumed = deque(trial for trial in rule.resumable() if trial not in running)
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
                decision = rule.report(trial, epoch[trial], record.curves[trial][epoch[trial] - 1])
                goes_on = decision is Decision.CONTINUE and epoch[trial] < record.epochs
                if decision is Decision.CONTINUE and not goes_on:
                    completed.append((sum(trained.values()), trial))
            if not goes_on:
                running.remove(trial)
    assert len(completed) + len(rule.stopped()) + len(rule.diverged) == len(order)
    return Outcome(sum(trained.values()), tuple(completed))


def on_front(record: Record) -> frozenset[str]:
    """The trials with a point on the front of all points: what a study is run to find."""
    owners, pairs = zip(*((trial, pair) for trial, shown in record.points.items() for pair in shown), strict=True)
    return frozenset(trial for trial, is_on in zip(owners, front(pairs), strict=True) if is_on)


def curve(record: Record, outcome: Outcome, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """The hypervolume of the points of completed trials, in percent × octaves, when so many epochs were spent."""
    points = record.points
    found: list[tuple[float, float]] = []
    epochs, volumes = [0], [0.0]
    for spent, trial in outcome.completed:
        found += [(accuracy, math.log2(bits)) for accuracy, bits in points[trial]]
        epochs.append(spent)
        volumes.append(hypervolume(found, REFERENCE))
    return np.array(volumes)[np.searchsorted(epochs, at, side="right") - 1]


def mean_curves(record: Record, outcomes: Outcomes) -> "pandas.DataFrame":
    """Hypervolume against epochs: columns strategy, epochs, mean, deviation, and n; up to the longest order."""
    import pandas

    tables = []
    for name, played in outcomes.items():
        at = np.arange(1 + max(outcome.epochs for outcome in played), dtype=np.float64)
        volumes = np.stack([curve(record, outcome, at) for outcome in played])
        table = {"strategy": name, "epochs": at, "mean": volumes.mean(axis=0), "n": len(played)}
        tables.append(pandas.DataFrame({**table, "deviation": _deviations(volumes)}))
    return pandas.concat(tables, ignore_index=True)


def summary(record: Record, outcomes: Outcomes) -> "pandas.DataFrame":
    """One row a strategy, means over the orders and their sample deviations (`_std`).

    epochs: spent; saved: percent of the full grid's epochs; front_lost: percent of the true front's trials that
    were not completed; hypervolume: of all that was completed; equal_budget: the hypervolume at `EQUAL_BUDGET`
    of the full grid's epochs, or at the end if that was earlier; n: orders.
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
    """The sample deviations over the first axis; NaN for one order."""
    return np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
