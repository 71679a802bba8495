"""The Pareto front of (accuracy up, bits down), and the hypervolume under it."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def front(points: ArrayLike) -> NDArray[np.bool_]:
    """Return which points no other point dominates: bool[n].

    points: [n, 2], a row (accuracy, bits); more accuracy and fewer bits are better, in any unit. A point
    dominates another if it is at least as good in both and better in one, so all duplicates of a point on the
    front are on it, too. Raises ValueError for another shape or a value that is not finite.
    """
    accuracy, bits = _columns(points)
    order = np.lexsort((-accuracy, bits))
    accuracy, bits = accuracy[order], bits[order]
    best = np.maximum.accumulate(accuracy)  # the best accuracy for at most these bits
    cheapest = bits[np.searchsorted(best, accuracy)]  # the fewest bits that reach this accuracy
    mask = np.empty(len(order), dtype=np.bool_)
    mask[order] = (accuracy == best) & (bits == cheapest)
    return mask


def ranks(points: ArrayLike) -> NDArray[np.int64]:
    """Return the non-dominated rank of each point: int[n], 0 on the front, 1 on the front of the rest, and so on.

    points: [n, 2] as in `front`. A point that dominates another has the lower rank; duplicates have the same
    (the sort of NSGA-II, Deb et al. 2002). Raises ValueError for another shape or a value that is not finite.
    """
    array = np.stack(_columns(points), axis=1)
    rank, left = np.zeros(len(array), dtype=np.int64), np.arange(len(array))
    while len(left):
        left = left[~front(array[left])]
        rank[left] += 1
    return rank


def hypervolume(points: ArrayLike, reference: tuple[float, float]) -> float:
    """Return the area that the points dominate, up to the reference point (accuracy, bits).

    points: [n, 2] as in `front`; dominated points, and points not better than the reference in both, change
    nothing. The unit is that of accuracy × bits as given: pass log2 of the bits for percent × octaves. The reference
    must be fixed in advance, not taken from the points, or two sets are not comparable. Raises ValueError for
    another shape or a value that is not finite.
    """
    accuracy, bits = _columns(points)
    worst_accuracy, worst_bits = _columns([reference])
    order = np.lexsort((-accuracy, bits))
    best = np.maximum.accumulate(np.maximum(accuracy[order], worst_accuracy))
    widths = np.maximum(worst_bits - bits[order], 0.0)
    return float(np.sum(np.diff(best, prepend=worst_accuracy) * widths))


def contributions(points: ArrayLike, owners: Sequence[int], reference: tuple[float, float]) -> dict[int, float]:
    """Return the hypervolume that only the points of each owner dominate, which all points lose without them.

    points: [n, 2] and reference as in `hypervolume`; owners: the owner of each point. One pass from few bits to many
    keeps the owner of the best accuracy for at most these bits, and the best one of all other owners; the area between
    the two is the former's alone. Raises ValueError as `hypervolume` does.
    """
    accuracy, bits = _columns(points)
    (worst_accuracy,), (worst_bits,) = (column.tolist() for column in _columns([reference]))
    order = np.lexsort((-accuracy, bits))
    edges = [*np.minimum(bits[order], worst_bits).tolist(), worst_bits]
    added = dict.fromkeys(owners, 0.0)
    leader, best, of_others = None, worst_accuracy, worst_accuracy
    for i, value, (low, high) in zip(order.tolist(), accuracy[order].tolist(), pairwise(edges), strict=True):
        owner = owners[i]
        if owner == leader:
            best = max(best, value)
        elif value > best:
            leader, best, of_others = owner, value, best
        elif value > of_others:
            of_others = value
        if leader is not None:
            added[leader] += (best - of_others) * (high - low)
    return added


def _columns(points: ArrayLike) -> tuple[Floats, Floats]:
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"points of shape {array.shape}: must be [n, 2], a row (accuracy, bits)")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise ValueError(f"point {row} is {tuple(array[row].tolist())}: accuracy and bits must be finite")
    return array[:, 0], array[:, 1]
