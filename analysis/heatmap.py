"""Means over a grid of two parameters, whatever the others are: of the objective at a width, or of hypervolume."""

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from analysis.effect import check_parameters, value_order
from analysis.importance import HYPERVOLUME
from analysis.optuna_study import Value, parameters
from analysis.results import Results
from analysis.volumes import Scale, scale
from kdq.bits import Bits, bits_name, display_order
from kdq.errors import UserError

VALUES = 12  # of a number that have a row or a column each; more are binned
BINS = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """What a study has where two parameters have two values, or are in two bins.

    bits: a width, or `hypervolume`; mean, deviation: of the objectives of all points of this width, such as validation
    accuracies in percent, or of the hypervolumes of all trials, in percent of the reference model's
    (`analysis.volumes.Scale`); the sample standard deviation is None for one; n: of so many.
    """

    study: str
    bits: Bits
    row: Value
    column: Value
    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True, slots=True)
class Grid:
    """rows, columns: the values, or bins, of two parameters in order; cells: without those that no point has."""

    rows: Sequence[Value]
    columns: Sequence[Value]
    cells: Sequence[Cell]


class _Measured(NamedTuple):
    study: str
    row: Value
    column: Value
    value: float


def heatmap(studies: Sequence[Results], rows: str, columns: str, bits: int | None = None) -> Grid:
    """Return the means of studies by the values of two parameters, each study's cells row by row.

    bits: the width whose objectives are averaged; None for the hypervolumes of trials. A number with more than `VALUES`
    values is cut into `BINS` bins with about as many points each, named by their least and greatest value. Raises
    UserError for a parameter or width that no point has.
    """
    if rows == columns:
        raise UserError(f"heatmap {rows} {columns}: must be two different parameters")
    check_parameters(studies, rows, columns)
    _check_width(studies, bits)
    named = scale(studies)
    found = [each for results in studies for each in _measured(results, rows, columns, bits, named)]
    row_names, column_names = _levels(each.row for each in found), _levels(each.column for each in found)
    cells: dict[tuple[str, Value, Value], list[float]] = {}
    for each in found:
        cells.setdefault((each.study, row_names[each.row], column_names[each.column]), []).append(each.value)
    across, down = list(dict.fromkeys(column_names.values())), list(dict.fromkeys(row_names.values()))
    measure = HYPERVOLUME if bits is None else bits
    ordered = [
        Cell(results.name, measure, row, column, *_summary(values))
        for results in studies
        for row in down
        for column in across
        if (values := cells.get((results.name, row, column)))
    ]
    return Grid(down, across, ordered)


def _check_width(studies: Iterable[Results], bits: int | None) -> None:
    known = {point.bits for each in studies for point in each.points if isinstance(point.bits, int)}
    if known and bits is not None and bits not in known:
        widths = ", ".join(str(width) for width in sorted(known, key=display_order))
        raise UserError(f"--bits {bits}: no point has {bits_name(bits)}; use one of {widths}")


def _measured(results: Results, rows: str, columns: str, bits: int | None, named: Scale | None) -> Iterable[_Measured]:
    """Yield a value for each point of a width, or for each trial, that has both parameters."""
    volumes = named.of_trials(results) if named and bits is None else {}
    for point in results.points:
        own = parameters(point)
        if rows not in own or columns not in own:
            continue
        if bits is None and point.trial_id in volumes:
            yield _Measured(results.name, own[rows], own[columns], volumes.pop(point.trial_id))
        elif point.bits == bits:
            yield _Measured(results.name, own[rows], own[columns], point.value)


def _levels(values: Iterable[Value]) -> Mapping[Value, Value]:
    """Return the row or column of each value, in order: itself, or the bin of a number that has many values."""
    everything = sorted(values, key=value_order)
    distinct = list(dict.fromkeys(everything))
    numbers = [value for value in everything if not isinstance(value, str)]
    if len(distinct) <= VALUES or len(numbers) < len(everything):
        return {value: value for value in distinct}
    edges = sorted({numbers[len(numbers) * i // BINS] for i in range(1, BINS)})
    bins: dict[int, list[float]] = {}
    for number in numbers:
        bins.setdefault(bisect_right(edges, number), []).append(number)
    return {number: f"{own[0]:.3g} to {own[-1]:.3g}" for own in bins.values() for number in own}


def _summary(values: Sequence[float]) -> tuple[float, float | None, int]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)
