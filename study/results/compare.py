"""Whether one configuration is better than another: intervals over validation images and seeds, paired where possible.

What is measured is a matrix in percent, [n, N]: a row for each seed, which is a training of its own, and a column for
each image, in the same order for all configurations. Seeds and images are both random: another training, and other
images of the same kind, would give other numbers. The mean of the matrix has the variance of crossed random effects,

    V = V_images + V_seeds − V_rest,    not below V_images or V_seeds,

where V_images is the sample variance of the column means over N, V_seeds that of the row means over n, and V_rest that
of what remains over n N, which the first two both contain (Searle, Casella and McCulloch, Variance Components, 1992).
Its degrees of freedom are Satterthwaite's (1946), and the intervals Student's. Since studies have few seeds, V_seeds is
pooled over configurations (`SeedNoise`), as in an analysis of variance. With one seed it is unknown: the interval is
about this training on other images.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
Floats = NDArray[np.float64]
_BLOCK = 64  # configurations whose images fit a processor's cache


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """What is measured of a configuration. values: percent, [n, N]; kind: configurations whose seeds vary alike, such
    as those of a width; students: the same for samples whose rows are pairs, such as widths of the same students."""

    values: Floats
    kind: object = None
    students: object = None

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def images(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, in percent or percentage points, and its interval.

    over_seeds: whether it allows for other trainings, not for other images alone.
    """

    value: float
    low: float
    high: float
    over_seeds: bool

    @property
    def excludes_zero(self) -> bool:
        return not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Variance:
    """An estimate of a variance, and its degrees of freedom."""

    value: float
    freedom: float


@dataclass(frozen=True)
class SeedNoise:
    """How single seeds vary around the mean of their configuration. residuals: kind -> students -> [n]."""

    residuals: dict[object, dict[object, Floats]]

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Self:
        """Return the noise of these configurations; those with one seed add nothing."""
        residuals = defaultdict[object, dict[object, Floats]](dict)
        for sample in samples:
            if sample.seeds > 1:
                rows = sample.values.mean(axis=1)
                residuals[sample.kind][sample.students] = rows - rows.mean()
        return cls(residuals)

    def mean(self, sample: Sample) -> Variance | None:
        """Return the variance over seeds of a configuration's mean, pooled over its kind; None if unknown."""
        return _variance(self._pools.get(sample.kind, (0.0, 0)), sample.seeds)

    def difference(self, a: Sample, b: Sample) -> Variance | None:
        """Return the variance over seeds of the difference of two means; None if unknown.

        Of the same students it is that of the paired differences, pooled over all students that both kinds have; other
        students are independent trainings.
        """
        if a.students == b.students:
            first, second = (self.residuals.get(sample.kind, {}) for sample in (a, b))
            return _variance(_pooled(first[key] - second[key] for key in first.keys() & second.keys()), a.seeds)
        mean_a, mean_b = self.mean(a), self.mean(b)
        if mean_a is None or mean_b is None:
            return None
        value = mean_a.value + mean_b.value
        # Of one kind, both are the same estimate.
        freedom = mean_a.freedom if a.kind == b.kind else _satterthwaite(value, mean_a, mean_b)
        return Variance(value, freedom)

    @cached_property
    def _pools(self) -> dict[object, tuple[float, int]]:
        return {kind: _pooled(of.values()) for kind, of in self.residuals.items()}

    def __or__(self, other: Self) -> Self:
        """Return the noise of two sets of configurations with different kinds."""
        return type(self)({**self.residuals, **other.residuals})


NONE = SeedNoise({})


def accuracy(sample: Sample, noise: SeedNoise = NONE, level: float = LEVEL) -> Interval:
    """Return the mean accuracy with Wilson's interval (1927).

    With several seeds, its number of images is the effective one, p (1 − p) / V (Korn and Graubard 1998), at most n N.
    """
    p, images, seeds = sample.mean / 100, float(sample.images), noise.mean(sample)
    t = _quantile(level, math.inf)
    if seeds is not None:
        total = _total(_over_images(sample.values), seeds, _rest(sample.values))
        shrunk = (images * p + 2) / (images + 4)  # away from 0 and 1, where a variance would be 0
        images = min(1e4 * shrunk * (1 - shrunk) / total.value, sample.values.size) if total.value else images
        t = _quantile(level, total.freedom)
    scale = 1 + t * t / images
    centre = (p + t * t / (2 * images)) / scale
    half = t / scale * math.sqrt(p * (1 - p) / images + (t / (2 * images)) ** 2)
    return Interval(100 * p, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half), seeds is not None)


def difference(a: Sample, b: Sample, noise: SeedNoise = NONE, level: float = LEVEL) -> Interval:
    """Return the mean of a minus that of b in percentage points, paired on the same images.

    Two images are added, one that only a and one that only b has right, so that a few images alone tell nothing (Bonett
    and Price 2012; for one seed this is their interval for McNemar's table). Raises ValueError if the numbers of images
    differ.
    """
    if a.images != b.images:
        raise ValueError(f"{a.images} and {b.images} images: must be the same images")
    images = np.concatenate([a.values.mean(axis=0) - b.values.mean(axis=0), [100.0, -100.0]])
    rest = _rest(a.values - b.values) if a.students == b.students else _rest(a.values) + _rest(b.values)
    seeds = noise.difference(a, b)
    total = _total(_over_images(images[None, :]), seeds, rest)
    return _student(a.mean - b.mean, float(images.mean()), total, level, seeds is not None)


@dataclass(frozen=True, eq=False)
class Panel:
    """Many configurations of single images, to compare one of them with many others at once.

    correct: which images each seed's model classifies correctly, [G, n, N]; kinds, students: see `Sample`, [G].
    """

    correct: NDArray[np.bool_]
    kinds: Sequence[object]
    students: Sequence[object]
    noise: SeedNoise = NONE

    def differences(self, others: Sequence[int], b: int, level: float = LEVEL) -> list[Interval]:
        """Return `difference` of each of the others and configuration b."""
        images, scale = self.correct.shape[2], 100 / self.correct.shape[1]
        (sums, squares), products = self._moments, self._products(others, b)
        values = scale * (sums[others] - sums[b]) / images
        centres = values * images / (images + 2)
        total = scale**2 * (squares[others] + squares[b] - 2 * products) + 2 * 100.0**2
        variances = np.maximum(total - (images + 2) * centres**2, 0) / (images + 1) / (images + 2)
        return [
            self._difference(other, b, value, centre, Variance(variance, images + 1), level)
            for other, value, centre, variance in zip(
                others, values.tolist(), centres.tolist(), variances.tolist(), strict=True
            )
        ]

    def _difference(self, a: int, b: int, value: float, centre: float, images: Variance, level: float) -> Interval:
        first, second = (Sample(self.correct[each], self.kinds[each], self.students[each]) for each in (a, b))
        seeds = self.noise.difference(first, second)
        if first.students == second.students:
            rest = _rest(100.0 * first.values - 100.0 * second.values)
        else:
            rest = self._rests[a] + self._rests[b]
        return _student(value, centre, _total(images, seeds, rest), level, seeds is not None)

    @cached_property
    def _counts(self) -> NDArray[np.uint16]:
        """How many seeds classify each image correctly, [G, N]."""
        counts: NDArray[np.uint16] = self.correct.sum(axis=1, dtype=np.uint16)
        return counts

    @cached_property
    def _moments(self) -> tuple[Floats, Floats]:
        """The sums and the sums of squares of the counts over the images, both [G]."""
        blocks = (self._counts[start : start + _BLOCK] for start in range(0, len(self._counts), _BLOCK))
        rows = [(block.sum(axis=1), np.einsum("ij,ij->i", block, block, dtype=np.float64)) for block in blocks]
        sums, squares = zip(*rows, strict=True)
        return np.concatenate(sums).astype(np.float64), np.concatenate(squares)

    @cached_property
    def _rests(self) -> list[float]:
        return [_rest(100.0 * each) for each in self.correct]

    def _products(self, others: Sequence[int], b: int) -> Floats:
        """Return the scalar products of the others' counts with those of b; sums of whole numbers are exact."""
        own, blocks = self._counts[b].astype(np.float64), range(0, len(others), _BLOCK)
        parts = [self._counts[others[start : start + _BLOCK]] @ own for start in blocks]
        return np.concatenate([np.zeros(0), *parts])


def paired(differences: Sequence[float], level: float = LEVEL) -> Interval:
    """Return the mean of at least two paired differences, one a seed, with Student's interval."""
    values = np.asarray(differences, dtype=np.float64)
    half = _quantile(level, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(float(values.mean()), float(values.mean()) - half, float(values.mean()) + half, True)


def simultaneous(comparisons: int) -> float:
    """Return the level of each of several intervals that all hold together with LEVEL (Bonferroni)."""
    return 1 - (1 - LEVEL) / max(1, comparisons)


def _student(value: float, centre: float, total: Variance, level: float, over_seeds: bool) -> Interval:
    half = _quantile(level, total.freedom) * math.sqrt(total.value)
    return Interval(value, centre - half, centre + half, over_seeds)


def _over_images(values: Floats) -> Variance:
    images = values.shape[1]
    return Variance(float(values.mean(axis=0).var(ddof=1)) / images if images > 1 else 0.0, max(1, images - 1))


def _rest(values: Floats) -> float:
    """Return the variance of the mean by what neither seeds nor images explain; 0 for one seed."""
    seeds, images = values.shape
    if seeds == 1 or images == 1:
        return 0.0
    rest = values - values.mean(axis=0) - values.mean(axis=1)[:, None] + values.mean()
    return float((rest * rest).sum()) / float((seeds - 1) * (images - 1) * values.size)


def _total(images: Variance, seeds: Variance | None, rest: float) -> Variance:
    if seeds is None:
        return images
    value = max(images.value + seeds.value - rest, images.value, seeds.value)
    return Variance(value, _satterthwaite(value, images, seeds))


def _satterthwaite(value: float, *parts: Variance) -> float:
    """Return the degrees of freedom of a variance that is composed of others."""
    spread = sum(part.value**2 / part.freedom for part in parts)
    return value * value / spread if spread else math.inf


def _pooled(residuals: Iterable[Floats]) -> tuple[float, int]:
    """Return the sum of squares of several residuals, and its degrees of freedom."""
    residuals = list(residuals)
    return math.fsum(float((each**2).sum()) for each in residuals), sum(len(each) - 1 for each in residuals)


def _variance(pool: tuple[float, int], seeds: int) -> Variance | None:
    """Return the variance of a mean over seeds by pooled residuals; None without any."""
    squares, freedom = pool
    return Variance(squares / freedom / seeds, freedom) if freedom else None


@lru_cache(maxsize=1024)
def _quantile(level: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t."""
    from scipy.special import ndtri, stdtrit

    tail = (1 + level) / 2
    return float(ndtri(tail) if math.isinf(freedom) else stdtrit(freedom, tail))
