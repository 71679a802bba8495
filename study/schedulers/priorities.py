"""How trials are compared at a rung: by float accuracy, quantized accuracy, or all their (accuracy, bits) pairs.

A priority is a function of the set of reports at a rung; the order in which they arrived does not matter.
"""

import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.results.front import REFERENCE
from study.results.pareto import contributions, ranks
from study.schedulers.registry import PriorityName

Values = Sequence[tuple[float, float]]
"""What a trial reports after an epoch: (validation accuracy in percent, total bits) of each of its models.

The float model comes first, then one model for each width of the study. Total bits are positive and known
before the first epoch. A priority that compares float accuracies needs the float model only.
"""

Rung = Mapping[str, Values]
"""Trial id -> the values that the trial reported at a rung; all finite."""


@dataclass(frozen=True, slots=True)
class Priority:
    """A way to compare trials.

    scores: a rung -> a score for each trial; higher is better, equal scores are ties. needs_widths: trials must
    report their quantized models too, which costs a probe at each rung. ordinal: a score is a place among the
    trials of the rung, of which only the order counts; a trial that `dominates` another scores higher.
    """

    scores: Callable[[Rung], dict[str, float]]
    needs_widths: bool
    ordinal: bool = False


def float_accuracy(rung: Rung) -> dict[str, float]:
    """Return the accuracy of each trial's float model."""
    return {trial: values[0][0] for trial, values in rung.items()}


def quantized_accuracy(rung: Rung) -> dict[str, float]:
    """Return the mean of each trial's quantized accuracies, in which every width has the same weight.

    Trials are comparable if they have the same widths.
    """
    assert all(len(values) > 1 for values in rung.values()), "a trial reports no quantized accuracy"
    return {trial: statistics.fmean(accuracy for accuracy, _ in values[1:]) for trial, values in rung.items()}


def pareto_standing(rung: Rung) -> dict[str, float]:
    """Return how many trials of the rung each trial beats, compared by all their pairs; ties are equal.

    All pairs of all trials are pooled and sorted by non-domination. Trials compare by, in this order,

    1. the rank of their best pair: 0 if it is on the front of the pool;
    2. among equal ranks, the hypervolume (percent × octaves, reference as in `study.results.point`) that the trials of
       this rank and the lower ones together lose without the trial;
    3. the number of trials that dominate it.

    So a trial ranks above every trial that it dominates: its best rank is no worse; the dominated trial adds
    nothing to a set with both; and if neither adds anything, whatever dominates the better trial dominates the
    other too, as the better trial itself does. A trial that improves while the others stay as they are never falls
    behind one that it was ahead of. (With the hypervolume of its own rank alone it could: by overtaking one
    trial, it may remove the rival of a third.)
    """
    if not rung:
        return {}
    trials = sorted(rung)
    pairs = [np.asarray(rung[trial], dtype=np.float64) for trial in trials]
    rank = np.minimum.reduceat(ranks(np.concatenate(pairs)), _starts(pairs)).tolist()
    added = _contributions(pairs, rank)
    covered = _covers(pairs)
    dominators = (covered & ~covered.T).sum(axis=0).tolist()
    keys = [(-r, a, -d) for r, a, d in zip(rank, added, dominators, strict=True)]
    worst_first = sorted(keys)
    return {trial: float(bisect_left(worst_first, key)) for trial, key in zip(trials, keys, strict=True)}


def dominates(a: Values, b: Values) -> bool:
    """Return whether some pair of a is at least as good as each pair of b, and not the other way round."""
    covered = _covers([np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)])
    return bool(covered[0, 1] and not covered[1, 0])


def _covers(pairs: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """bool[n, n]: whether some pair of the first trial is at least as good as each pair of the second."""
    starts = _starts(pairs)
    accuracy, bits = np.concatenate(pairs).T
    better = (accuracy[:, None] >= accuracy) & (bits[:, None] <= bits)
    by_trial = np.logical_or.reduceat(better, starts, axis=0)
    return np.logical_and.reduceat(by_trial, starts, axis=1)


def _starts(pairs: Sequence[NDArray[np.float64]]) -> NDArray[np.int64]:
    """Return where the pairs of each trial begin among those of all trials."""
    return np.cumsum([0, *(len(pair) for pair in pairs[:-1])])


def _contributions(pairs: Sequence[NDArray[np.float64]], rank: Sequence[int]) -> list[float]:
    """Return the hypervolume that each trial adds to the other trials of its rank and the lower ones.

    Rounded, so that equal contributions of different shape are equal floats. A trial alone in its rank is not compared
    by its contribution, which is left at 0.
    """
    added = [0.0] * len(pairs)
    accuracy, bits = np.concatenate(pairs).T
    points = np.stack([accuracy, np.log2(bits)], axis=1)
    owners = np.repeat(np.arange(len(pairs)), [len(pair) for pair in pairs])
    ranks_of_pairs = np.asarray(rank)[owners]
    for own_rank, count in Counter(rank).items():
        if count > 1:
            pool = ranks_of_pairs >= own_rank
            for trial, area in contributions(points[pool], owners[pool].tolist(), REFERENCE).items():
                if rank[trial] == own_rank:
                    added[trial] = round(area, 9)
    return added


FLOAT = Priority(float_accuracy, needs_widths=False)
QUANTIZED = Priority(quantized_accuracy, needs_widths=True)
PARETO = Priority(pareto_standing, needs_widths=True, ordinal=True)
PRIORITIES: dict[PriorityName, Priority] = {"float": FLOAT, "quantized": QUANTIZED, "pareto": PARETO}
