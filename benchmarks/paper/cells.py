"""The cells of the tables: accuracies by row, width and seed. Ours are from a points CSV."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np

from analysis.method_table import paper_cells
from kdq.bits import FLOAT_BITS
from kdq.errors import UserError
from study.results.front import content
from study.results.point import Point
from study.results.tables import from_csv

TEACHER, CE = "Teacher", "CE"
_NAMES = {
    ("teacher", False): TEACHER,
    ("ce", False): CE,
    ("vkd", False): "VKD",
    ("mixup", True): "Mixup",
    ("dml", False): "DML",
    ("dkd", False): "DKD",
    ("dkd", True): "DKD + mixup",
}
"""Method, and whether it mixes images -> the row of the table."""

ROWS = tuple(_NAMES.values())
WIDTHS = (2, 3, 4, 5, 6, 7, 8, FLOAT_BITS)
_PAPER_ROWS = {"teacher": TEACHER, "vkd": "VKD", "mixup": "Mixup", "dml": "DML", "dkd": "DKD"}
FIGURE_2 = {(2.0, 10.0): 90.64, (0.5, 10.0): 86.68}
"""(alpha, beta) -> top-1 of a float student on CIFAR-10: the two cells of figure 2 that the paper quotes (2.2.5)."""

Accuracies = Mapping[int, float]
"""Seed -> test accuracy in percent."""


@dataclass(frozen=True)
class Cells:
    """The points of one study by row, bits and seed. name: what an error message calls it."""

    name: str
    points: Mapping[tuple[str, int, int], Point]

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The rows that have any point, in the order of the table."""
        found = {row for row, _, _ in self.points}
        return tuple(row for row in ROWS if row in found)

    @property
    def distilled(self) -> tuple[str, ...]:
        """The students that learn from a teacher or a peer."""
        return tuple(row for row in self.rows if row not in (TEACHER, CE))

    @cached_property
    def seeds(self) -> int:
        """The number of seeds of a complete cell."""
        return len({seed for _, _, seed in self.points})

    def accuracies(self, row: str, bits: int) -> dict[int, float]:
        """Return the test accuracy of each seed of a cell."""
        return {seed: point.test_top1 for seed, point in self._cell(row, bits).items()}

    def total_bits(self, row: str, bits: int) -> float:
        """Return the mean total bits of a cell, NaN without points."""
        return fmean([point.total_bits for point in self._cell(row, bits).values()] or [math.nan])

    def drops(self, row: str, bits: int) -> dict[int, float]:
        """Return the float accuracy minus that at a width, in points, of each seed that has both."""
        return subtract(self.accuracies(row, FLOAT_BITS), self.accuracies(row, bits))

    def accuracies_at(self, row: str, sizes: Mapping[int, float]) -> dict[int, float]:
        """Return the accuracy of a row at given total bits (seed -> bits), linear in log bits between its widths.

        A seed whose size is below the row's smallest or above its largest model is left out: nothing is extrapolated.
        """
        found: dict[int, float] = {}
        for seed, size in sizes.items():
            models = [self.points[row, bits, seed] for bits in WIDTHS if (row, bits, seed) in self.points]
            if models:
                octaves, accuracies = zip(*sorted((math.log2(p.total_bits), p.test_top1) for p in models), strict=True)
                found[seed] = float(np.interp(math.log2(size), octaves, accuracies, left=math.nan, right=math.nan))
        return {seed: accuracy for seed, accuracy in found.items() if not math.isnan(accuracy)}

    def sizes(self, row: str, bits: int) -> dict[int, float]:
        """Return the total bits of each seed of a cell."""
        return {seed: float(point.total_bits) for seed, point in self._cell(row, bits).items()}

    def _cell(self, row: str, bits: int) -> dict[int, Point]:
        return {seed: point for (name, width, seed), point in self.points.items() if (name, width) == (row, bits)}


def subtract(one: Accuracies, other: Accuracies) -> dict[int, float]:
    """Return one minus the other for each seed that both have."""
    return {seed: one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())}


def mean_over(rows: Sequence[Accuracies]) -> dict[int, float]:
    """Return the mean over rows for each seed that all of them have."""
    seeds = set.intersection(*(set(row) for row in rows)) if rows else set()
    return {seed: fmean(row[seed] for row in rows) for seed in sorted(seeds)}


def read(path: Path) -> Cells:
    """Return the cells of a points CSV. Raises UserError for a point that belongs to no row, or a cell that has two."""
    cells: dict[tuple[str, int, int], Point] = {}
    for point in read_points(path):
        row = _NAMES.get((point.method, bool(point.mixup_alpha)))
        if row is None or point.bits not in WIDTHS:
            mixed = f" with mixup_alpha {point.mixup_alpha:g}" if point.mixup_alpha else ""
            raise UserError(f"{path}: {point.method}{mixed} at {point.bits} bits: is in no row of the paper's tables")
        assert isinstance(point.bits, int)
        other = cells.setdefault((row, point.bits, point.seed), point)
        if content(other) != content(point):
            raise UserError(
                f"{path}: {row} at {point.bits} bits, seed {point.seed}: has two points, of the trials "
                f"{other.trial_id} and {point.trial_id}; keep one study in a file"
            )
    if not cells:
        raise UserError(f"{path}: has no points")
    return Cells(path.name, cells)


def check_same_students(one: Cells, other: Cells) -> None:
    """Raise UserError if a student that both have is not the same: its float accuracy differs."""
    for key in sorted(one.points.keys() & other.points.keys()):
        row, bits, seed = key
        accuracies = [cells.points[key].test_top1 for cells in (one, other)]
        if bits == FLOAT_BITS and accuracies[0] != accuracies[1]:
            raise UserError(
                f"{row}, seed {seed}: has {accuracies[0]:g} % at float in {one.name}, but {accuracies[1]:g} % in "
                f"{other.name}; quantize the same students, from one storage path"
            )


def read_points(path: Path) -> list[Point]:
    """Return the points of a CSV file. Raises UserError if it cannot be read."""
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return from_csv(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def paper(dataset: str) -> dict[tuple[str, int], float]:
    """Return the paper's accuracies on a data set, in percent: (row, bits) -> top-1 on the test images."""
    return {(_PAPER_ROWS[str(cell.row)], int(cell.column)): cell.mean for cell in paper_cells(dataset)}
