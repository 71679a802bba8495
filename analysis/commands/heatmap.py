"""`heatmap`: means over a grid of two parameters."""

import argparse
from typing import TYPE_CHECKING, Any

from analysis.commands.command import add_studies, draw, figure, read_studies, whole

if TYPE_CHECKING:
    from analysis.formats import Report
    from analysis.heatmap import Grid
    from study.results.objective import Objective

NAME, PURPOSE = "heatmap", "print the mean hypervolume, or objective at a width, over a grid of two parameters"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("bits", "row", "column", "mean", "deviation", "n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", metavar="ROWS", help="parameter of the rows, such as alpha")
    parser.add_argument("columns", metavar="COLUMNS", help="parameter of the columns, such as beta")
    add_studies(parser)
    help_ = "the objective, accuracy by default, at this width, 32 for float (default: the hypervolume of all widths)"
    parser.add_argument("--bits", type=whole, metavar="BITS", help=help_)
    parser.add_argument("--figure", type=figure, metavar="FILE", help="draw it in this .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> "Report":
    from dataclasses import asdict

    from analysis.figures.heatmap import draw_heatmap
    from analysis.formats import Report
    from analysis.heatmap import heatmap
    from analysis.results import no_points
    from analysis.volumes import common_objective, scale
    from kdq.bits import bits_name
    from study.results.objective import OBJECTIVES, TOP1

    studies = read_studies(options)
    grid = heatmap(studies, options.rows, options.columns, options.bits)
    named, empty = scale(studies), no_points(studies)
    # A hypervolume is in percent, and the higher the better, as an accuracy is.
    shown = OBJECTIVES[TOP1] if options.bits is None else common_objective(studies)
    at = "" if options.bits is None else f"validation {shown.title} at {bits_name(options.bits)}"
    measure = f"{at or 'hypervolume'} ({shown.unit})"
    if options.figure:
        title = f"{', '.join(options.studies)}: mean {measure}"
        names = (options.rows, options.columns)
        draw(lambda: draw_heatmap(grid, names, shown, options.figure, title, measure, empty), options.figure)
    what = "trials" if options.bits is None else "points"
    notes = [f"{measure}: mean ± standard deviation over n {what}, (n) in parentheses; the best is marked"]
    notes += [f"hypervolume: {named.definition}"] if named and options.bits is None else []
    drawn = [f"figure {options.figure}"] if options.figure else []
    several = ("study",) if len(studies) > 1 else ()
    display, bold = _display(grid, options.rows, options.columns, bool(several), shown)
    rows = [asdict(cell) for cell in grid.cells]
    notes = [*(notes if rows else ()), *drawn]
    return Report((*several, *COLUMNS), rows, notes, display=display, bold=bold, empty=empty)


def _display(
    grid: "Grid", rows: str, columns: str, several: bool, shown: "Objective"
) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """Return a row for each study and value of `rows`, and the place of the best cell of each study."""
    headings = {column: f"{columns}={_text(column)}" for column in grid.columns}
    best: dict[str, float] = {}
    for cell in grid.cells:
        best[cell.study] = max(cell.mean, best.get(cell.study, cell.mean), key=shown.score)
    display: dict[tuple[str, Any], dict[str, Any]] = {}
    bold = []
    for cell in grid.cells:
        blank = {**({"study": cell.study} if several else {}), rows: _text(cell.row)}
        line = display.setdefault((cell.study, cell.row), blank | dict.fromkeys(headings.values(), ""))
        spread = "" if cell.deviation is None else f" ± {shown.number(cell.deviation)}"
        line[headings[cell.column]] = f"{shown.number(cell.mean)}{spread} ({cell.n})"
        if cell.mean == best[cell.study]:
            bold.append((len(display) - 1, headings[cell.column]))
    return list(display.values()), bold


def _text(value: str | float) -> str:
    from study.units import exact

    return value if isinstance(value, str) else exact(value)
