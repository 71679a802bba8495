"""The figure of a heatmap: a panel for each study, with the same colours in all."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.heatmap import Cell, Grid
from analysis.optuna_study import Value
from study.results.objective import Objective
from study.results.style import INK, MUTED, literal, new_figure, save, shorten, write_nothing
from study.units import exact

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

PANELS = 3  # in a row
AT_MOST = 12  # panels
LABELS = 24  # of a row or a column of cells
WRITTEN = 150  # cells of a panel up to which each has its mean and n


def draw_heatmap(
    grid: Grid, names: tuple[str, str], shown: Objective, path: Path, title: str, measure: str, nothing: str
) -> None:
    """Write a figure: light cells have good means, cells without points are blank.

    names: of the parameters of rows and columns; shown: what is better, and its digits; measure: what the means are of,
    in words. At most `AT_MOST` studies are drawn, as the title then says. nothing: the text of a figure without cells.
    """
    from matplotlib.colors import Normalize

    studies = list(dict.fromkeys(cell.study for cell in grid.cells))
    drawn = studies[:AT_MOST]
    if len(studies) > AT_MOST:
        title = f"{shorten(title, 50)} (the first {AT_MOST} of {len(studies)} studies)"
    across, down = min(PANELS, len(drawn)) or 1, -(-len(drawn) // PANELS) or 1
    width = min(max(6.0, 2.2 + len(grid.columns)), 12.0)
    height = min(max(4.0, 2.2 + 0.7 * len(grid.rows)), 12.0)
    figure = new_figure(title, (width * across + 1.5, height * down + 1.2))
    if drawn:
        means = [cell.mean for cell in grid.cells]
        scale = Normalize(min(means), max(max(means), min(means) + 10.0**-shown.decimals))
        panels = figure.subplots(down, across, squeeze=False)
        for axes, study in zip(panels.flat, drawn, strict=False):
            own = [cell for cell in grid.cells if cell.study == study]
            image = _draw_panel(axes, grid, own, scale, shown)
            _label(axes, grid, names)
            if len(studies) > 1:
                axes.set_title(shorten(study, 40), loc="left", fontsize=12, color=INK, parse_math=False)
        for axes in panels.flat[len(drawn) :]:
            axes.set_axis_off()
        bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.02)
        bar.set_label(f"mean {measure}", fontsize=12, color=INK)
        bar.ax.tick_params(labelsize=11, colors=MUTED, length=0)
        bar.outline.set_visible(False)
    else:
        write_nothing(figure, nothing)
    save(figure, path)


def _draw_panel(axes: "Axes", grid: Grid, cells: Sequence[Cell], scale: "Normalize", shown: Objective) -> "AxesImage":
    rows, columns = ({value: n for n, value in enumerate(of)} for of in (grid.rows, grid.columns))
    means = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        means[rows[cell.row], columns[cell.column]] = cell.mean
    image = axes.imshow(
        np.ma.masked_invalid(means),
        cmap="viridis" if shown.is_higher_better else "viridis_r",
        norm=scale,
        aspect="auto",
    )
    for cell in cells if means.size <= WRITTEN else ():
        where = columns[cell.column], rows[cell.row]
        ink = "black" if (scale(cell.mean) > 0.5) == shown.is_higher_better else "white"
        axes.text(*where, f"{shown.number(cell.mean)}\nn = {cell.n}", ha="center", va="center", fontsize=10, color=ink)
    return image


def _label(axes: "Axes", grid: Grid, names: tuple[str, str]) -> None:
    for axis, values, name in ((axes.yaxis, grid.rows, names[0]), (axes.xaxis, grid.columns, names[1])):
        shown = range(0, len(values), math.ceil(len(values) / LABELS))
        axis.set_ticks(shown, [_text(values[place]) for place in shown])
        axis.set_label_text(shorten(name, 40), fontsize=13, color=INK, parse_math=False)
    if sum(len(_text(value)) for value in grid.columns) > 8 * len(grid.columns):
        axes.tick_params(axis="x", rotation=30)
    axes.tick_params(labelsize=11, colors=MUTED, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _text(value: Value) -> str:
    return literal(shorten(value, 20)) if isinstance(value, str) else exact(value)
