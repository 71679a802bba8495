"""Early stopping of single seeds, compared with that of whole configurations, simulated.

    python -m benchmarks.stopping_by_configuration

The 26 configurations of docs/results/joint_ema_recorded.csv, three seeds each. The recorded curve, of one seed, is
taken for a configuration's mean; a seed deviates from it by σ points at every width, half of the variance the same in
all epochs, half drawn at every epoch (an assumption: no study with several seeds has been recorded). In each of
`--rounds` rounds new seeds are drawn, and the configurations come in a random order, their seeds one after the other,
two trials at a time, as in a study; every epoch takes the same time.

saved: percent of the epochs of all trials; lost: percent of the configurations on the true front, that of the means
over all seeds, that have not completed all seeds, without which they are on no front; partial: percent of the trained
epochs that went into configurations of which some seeds were stopped and others completed. Means over the rounds.
"""

import argparse
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pandas
from numpy.typing import NDArray

from benchmarks.report import RESULTS, circumstances, publish
from study.results.pareto import front
from study.schedulers.registry import by_configuration, make_scheduler
from study.schedulers.scheduler import Decision, RungConfig, Scheduler

SEEDS, SLOTS = 3, 2
RUNGS = ((9, 3.0), (14, 8.0))
SCHEDULERS = ("asha", "asha_pareto", "halving", "halving_pareto")
WAYS = ("trial", "configuration")

Curves = NDArray[np.float64]
"""Accuracy in percent, [configurations, epochs, widths], or [configurations, seeds, epochs, widths]."""


@dataclass(frozen=True, slots=True)
class Played:
    """epochs: trained in each trial, int [configurations, seeds]; completed: bool of the same shape."""

    epochs: NDArray[np.int64]
    completed: NDArray[np.bool_]


def recorded() -> tuple[Curves, NDArray[np.float64]]:
    """Return the recorded curves, and the total bits of each width; float first."""
    table = pandas.read_csv(RESULTS / "joint_ema_recorded.csv")
    table["width"] = table["bits"].where(table["bits"] != 32, 0)
    wide = table.pivot_table(index="trial_id", columns=["epoch", "width"], values="val_top1", sort=True)
    epochs, widths = table["epoch"].nunique(), table["width"].nunique()
    bits = table.groupby("width")["total_bits"].first().sort_index().to_numpy(dtype=np.float64)
    curves: Curves = wide.to_numpy().reshape(-1, epochs, widths)
    return curves, bits


def with_seeds(curves: Curves, sigma: float, generator: np.random.Generator) -> Curves:
    """Return the curves of SEEDS seeds around those of the configurations."""
    configurations, epochs, _ = curves.shape
    steady = generator.normal(size=(configurations, SEEDS, 1, 1))
    passing = generator.normal(size=(configurations, SEEDS, epochs, 1))
    deviations: Curves = sigma * (steady + passing) / np.sqrt(2)
    return curves[:, None] + deviations


def make(name: str, way: str, configurations: int, epochs: int, rungs: tuple[int, float]) -> Scheduler:
    """Return the scheduler, with the trials of each configuration announced."""
    trials = configurations * (SEEDS if way == "trial" else 1)
    scheduler = make_scheduler(name, RungConfig(epochs, trials, *rungs))
    if way == "configuration":
        scheduler = by_configuration(scheduler)
    for one in range(configurations):
        scheduler.group([key(one, seed) for seed in range(SEEDS)])
    return scheduler


def key(configuration: int, seed: int) -> str:
    return f"{configuration:02}/{seed}"


def play(scheduler: Scheduler, curves: Curves, bits: NDArray[np.float64], order: Sequence[int]) -> Played:
    """Run all trials, SLOTS at a time; a free slot first takes a trial that was promoted, as the trial queue does."""
    configurations, _, length, _ = curves.shape
    waiting = deque((one, seed) for one in order for seed in range(SEEDS))
    known = {key(*trial): trial for trial in waiting}
    epochs = np.zeros((configurations, SEEDS), dtype=np.int64)
    completed = np.zeros((configurations, SEEDS), dtype=np.bool_)
    running: list[tuple[int, int]] = []
    while True:
        promoted = deque(known[name] for name in scheduler.resumable() if known[name] not in running)
        while len(running) < SLOTS and (promoted or waiting):
            running.append((promoted or waiting).popleft())
        if not running:
            return Played(epochs, completed)
        for trial in running.copy():
            shown = [(float(a), float(b)) for a, b in zip(curves[trial][epochs[trial]], bits, strict=True)]
            epochs[trial] += 1
            decision = scheduler.report(key(*trial), int(epochs[trial]), shown)
            completed[trial] = decision is Decision.CONTINUE and epochs[trial] == length
            if decision is not Decision.CONTINUE or completed[trial]:
                running.remove(trial)


def scores(played: Played, curves: Curves, bits: NDArray[np.float64]) -> dict[str, float]:
    """Return what the study saved, lost, and spent on configurations that lack seeds; in percent."""
    final = curves[:, :, -1].mean(axis=1)
    owners = np.repeat(np.arange(len(final)), len(bits))
    best = set(owners[front(list(zip(final.ravel(), np.tile(bits, len(final)), strict=True)))])
    count = played.completed.sum(axis=1)
    whole, some = count == SEEDS, count > 0
    return {
        "saved": 100 * (1 - played.epochs.sum() / (curves.shape[0] * SEEDS * curves.shape[2])),
        "lost": 100 * float(np.mean([count[one] < SEEDS for one in best])),
        "partial": 100 * played.epochs[some & ~whole].sum() / played.epochs.sum(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30, help="draws of seeds and order (default: 30)")
    rounds = parser.parse_args().rounds
    curves, bits = recorded()
    rows: list[dict[str, object]] = []
    for sigma in (0.5, 1.0):
        for rungs in RUNGS:
            for name in SCHEDULERS:
                for way in WAYS:
                    generator = np.random.default_rng(0)
                    found = []
                    for _ in range(rounds):
                        drawn = with_seeds(curves, sigma, generator)
                        order = generator.permutation(len(curves)).tolist()
                        scheduler = make(name, way, len(curves), curves.shape[1], rungs)
                        found.append(scores(play(scheduler, drawn, bits, order), drawn, bits))
                    means = {column: round(fmean(one[column] for one in found), 1) for column in found[0]}
                    first = {"sigma": sigma, "rung": rungs[0], "factor": rungs[1]}
                    rows.append({**first, "scheduler": name, "by": way, **means, "n": rounds})
    publish("stopping_by_configuration", circumstances(1), rows)


if __name__ == "__main__":
    main()
