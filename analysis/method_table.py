"""A table of the objective by two parameters, such as methods × widths, with the study paper's numbers beside."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from analysis.results import Results, label
from analysis.volumes import common_objective
from kdq.bits import bits_name, display_order
from kdq.errors import UserError, unknown
from study.results.front import SeedGroup
from study.results.objective import TOP1, Objective
from study.results.point import PARAMETERS
from study.units import exact

AXES = (*PARAMETERS, "bits", "study")
COLUMNS = ("row", "column", "mean", "deviation", "n", "is_best", "study", "configuration")
DATASETS = ("cifar10", "cifar100")
Key = Any


@dataclass(frozen=True, slots=True)
class Cell:
    """The configuration of the best objective of a row and a column, and its measure over its seeds.

    mean, deviation: of the objective on validation or test images, such as accuracy in percent; deviation and
    configuration are None where unknown; study is "paper" for a number of the paper's.
    """

    row: Key
    column: Key
    mean: float
    deviation: float | None
    n: int
    study: str
    configuration: str | None = None


def cells(studies: Sequence[Results], rows: str, columns: str, measure: str) -> list[Cell]:
    """Return the cells of a table of studies, by rows and columns in order.

    rows, columns: two of `AXES`; a configuration without one, such as alpha where the method has none, is left out.
    measure: "val" or "test"; a cell's configuration is chosen on validation images in any case.
    """
    chosen: dict[tuple[Key, Key], tuple[SeedGroup, Results]] = {}
    for each in studies:
        for group in each.groups:
            key = (_value(group, each, rows), _value(group, each, columns))
            if None not in key and (key not in chosen or _rank(group) > _rank(chosen[key][0])):
                chosen[key] = (group, each)
    decides = common_objective(studies)
    name = decides.column if measure == "val" else decides.test_column
    found = [
        Cell(*key, group.mean(name), group.deviation(name), group.n, each.name, label(group))
        for key, (group, each) in chosen.items()
    ]
    return sorted(found, key=lambda cell: (order(rows, cell.row), order(columns, cell.column)))


def best_of_columns(found: Sequence[Cell], decides: Objective) -> set[tuple[Key, Key]]:
    """Return the row and the column of the cells with the best mean of their column; ties are all best."""
    best: dict[Key, float] = {}
    for cell in found:
        best[cell.column] = max(cell.mean, best.get(cell.column, cell.mean), key=decides.score)
    return {(cell.row, cell.column) for cell in found if cell.mean == best[cell.column]}


def paper_cells(dataset: str) -> list[Cell]:
    """Return the test accuracies of tables 1 (CIFAR-10) and 2 (CIFAR-100) of the study paper, methods × widths.

    Gitelman, Wu, Pabba and Wang, Balancing Accuracy and Efficiency: A Comparative Study of Knowledge Distillation and
    Post-Training Quantization Sequences: ResNet-18 students of a ResNet-50, one run each, selected on the test set.
    Raises UserError for an unknown data set.
    """
    if dataset not in DATASETS:
        raise unknown("data set of the paper", dataset, DATASETS)
    text = (files("analysis") / "paper_tables.csv").read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row["dataset"] == dataset]
    return [Cell(row["method"], int(row["bits"]), float(row["top1"]), None, 1, "paper") for row in rows]


def heading(axis: str, value: Key) -> str:
    """Return the heading of a row or a column."""
    if axis == "bits":
        return bits_name(value)
    return exact(value) if isinstance(value, float) else str(value)


def check_axes(rows: str, columns: str, paper: str | None, decides: Objective) -> None:
    """Raise UserError unless a table can have these rows and columns, and the paper's numbers beside them."""
    for axis in (rows, columns):
        if axis not in AXES:
            raise unknown("parameter", axis, AXES)
    if rows == columns:
        raise UserError(f"--rows {rows} --columns {columns}: must differ")
    if paper and (rows, columns) != ("method", "bits"):
        raise UserError("--paper: the paper's tables are of methods × widths; use --rows method --columns bits")
    if paper and decides.name != TOP1:
        raise UserError(
            f"--paper: the paper's tables are of accuracy, the studies' objective is {decides.name}; omit it"
        )


def _value(group: SeedGroup, results: Results, axis: str) -> Key:
    own: Mapping[str, Key] = {**group.parameters, "bits": group.bits, "study": results.name}
    return own.get(axis)


def _rank(group: SeedGroup) -> tuple[float, float, str]:
    return group.score, -group.mean("total_bits"), label(group)


def order(axis: str, value: Key) -> tuple[Any, ...]:
    """Return the sorting key of a row or a column."""
    if axis == "bits":
        return display_order(value)
    return (isinstance(value, str), value)
