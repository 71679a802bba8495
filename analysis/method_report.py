"""The objective by two parameters as a table, with the best of a column stressed and the study paper's beside."""

from collections.abc import Sequence
from typing import Any

from analysis.formats import Report
from analysis.method_table import COLUMNS, Cell, best_of_columns, cells, check_axes, heading, order, paper_cells
from analysis.results import Results, no_points
from analysis.volumes import common_objective
from study.results.objective import Objective


def report(studies: Sequence[Results], rows: str, columns: str, measure: str, paper_of: str | None) -> Report:
    """Return the table of studies.

    rows, columns: names of parameters, or bits; measure: "val" or "test"; paper_of: the data set of the paper's table,
    None for none. Raises UserError for axes that there are not.
    """
    decides = common_objective(studies)
    check_axes(rows, columns, paper_of, decides)
    paper = paper_cells(paper_of) if paper_of else []
    found = cells(studies, rows, columns, measure)
    best = best_of_columns(found, decides)
    data = [
        {name: value for name in COLUMNS if (value := _field(cell, name, best)) is not None}
        for cell in (*found, *paper)
    ]
    display, bold = _display(found, paper, best, rows, columns, decides)
    what = {"val": "validation", "test": "test"}[measure]
    notes = [
        f"{what} {decides.title} ({decides.unit}), mean ± standard deviation (seeds) of the configuration of the best "
        f"validation {decides.title} in each cell"
    ]
    notes += [f"paper: test accuracy on {paper_of}, selected on the test set, one run each"] if paper else []
    return Report(COLUMNS, data, notes if data else (), display=display, bold=bold, empty=no_points(studies))


def _field(cell: Cell, name: str, best: set[tuple[Any, Any]]) -> Any:
    if name == "is_best":
        return cell.study != "paper" and (cell.row, cell.column) in best
    return getattr(cell, name)


def _display(
    found: Sequence[Cell],
    paper: Sequence[Cell],
    best: set[tuple[Any, Any]],
    rows: str,
    columns: str,
    decides: Objective,
) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Return a row for each value of `rows`, with the paper's below those of its method, and the best cells."""
    keys = dict.fromkeys((cell.row, False) for cell in found)
    in_order = sorted({*keys, *((cell.row, True) for cell in paper)}, key=lambda key: _place(key, list(keys)))
    headings = sorted({cell.column for cell in (*found, *paper)}, key=lambda value: order(columns, value))
    by_key = {(cell.row, cell.study == "paper", cell.column): cell for cell in (*found, *paper)}
    display: list[dict[str, Any]] = []
    bold: list[tuple[int, str]] = []
    for row, is_paper in in_order:
        shown = {rows: f"{heading(rows, row)}{' (paper)' if is_paper else ''}"}
        for column in headings:
            cell = by_key.get((row, is_paper, column))
            shown[heading(columns, column)] = _text(cell, decides) if cell else ""
            if cell and not is_paper and (row, column) in best:
                bold.append((len(display), heading(columns, column)))
        display.append(shown)
    return display, bold


def _place(key: tuple[Any, bool], own: list[tuple[Any, bool]]) -> tuple[int, bool, str]:
    row, is_paper = key
    return (own.index((row, False)) if (row, False) in own else len(own)), is_paper, str(row)


def _text(cell: Cell, decides: Objective) -> str:
    mean = decides.number(cell.mean)
    if cell.study == "paper":
        return mean
    spread = "" if cell.deviation is None else f" ± {decides.number(cell.deviation)}"
    return f"{mean}{spread} ({cell.n})"
