"""Figures of how studies went: the hypervolume as trials finished, and what a scheduler stopped at which rung."""

import math
import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from study.results.style import (
    CATEGORIES,
    INK,
    MUTED,
    draw_legend,
    frame,
    new_figure,
    save,
    shorten,
    symbol,
    write_nothing,
)

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

LINES = ("-", (0, (5, 1.5)), (0, (1, 1.5)))  # of the studies after the first 7, and after the first 14
LABELLED = 18  # studies in the legend; the others share one entry
PANELS = 4  # in a row
AT_MOST = 12  # panels of rungs
LINED = 300  # trials of a study that are drawn as lines; more would be one blot
STOPPED, GOES_ON = CATEGORIES[3], CATEGORIES[0]
COUNTED = {"finished_trials": "finished trials", "epochs": "epochs trained by all finished trials together"}


def draw_hypervolume(table: "pandas.DataFrame", path: Path, title: str) -> None:
    """Write a figure (a PNG has 1200 × 700 pixels): a step line for each study, and a dot wherever it rises.

    table: columns study, hypervolume in percent, and finished_trials or epochs, which only grow within a study. The
    axis resolves the upper part of the lines: what lies far below the best is cut off. Raises KeyError for a table
    without these columns.
    """
    counted = next((name for name in COUNTED if name in table), "epochs")
    table = table[["study", counted, "hypervolume"]].dropna()
    figure = new_figure(title, (12, 7))
    if table.empty:
        write_nothing(figure, "no finished trials")
    else:
        axes = figure.add_subplot()
        names = list(dict.fromkeys(table["study"]))
        for number, name in enumerate(names):
            _draw_growth(axes, table[table["study"] == name], counted, *_line(number))
        _set_limits(axes, table["hypervolume"].tolist(), int(table[counted].max()))
        axes.set_xlabel(COUNTED[counted], fontsize=13, color=INK)
        axes.set_ylabel("hypervolume (% of the reference model's)", fontsize=13, color=INK)
        frame(axes)
        if len(names) > 1:
            _draw_legend(axes, names)
    save(figure, path)


def draw_rungs(table: "pandas.DataFrame", path: Path, title: str) -> None:
    """Write a figure with a panel for each study: every trial's accuracy from rung to rung, and at its end.

    table: columns study, trial, rung (an epoch), value and final in percent (final is NaN for a trial that did not
    complete), survived (bool). A line is a trial, which ends in a cross, left of the rung, where the scheduler stopped
    it. At most `AT_MOST` studies are drawn, as the title then says, and lines of about `LINED` trials of each, as the
    legend then says. Raises KeyError for a table without these columns.
    """
    names = list(dict.fromkeys(table["study"]))
    table = table.dropna(subset=["value"]).sort_values("rung", kind="stable")
    shown = names[:AT_MOST]
    if len(names) > len(shown):
        title = f"{shorten(title, 50)} (the first {len(shown)} of {len(names)} studies)"
    columns, rows = min(PANELS, max(len(shown), 1)), -(-len(shown) // PANELS) or 1
    figure = new_figure(title, (max(10.0, 5.0 * columns), 1.3 + 5.2 * rows))
    if not shown:
        write_nothing(figure, "no trial has reached a rung")
    else:
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
        step = -(-max(table.groupby("study")["trial"].nunique()) // LINED)
        for axes, name in zip(panels.flat, shown, strict=False):
            _draw_panel(axes, table[table["study"] == name], step)
            if len(names) > 1:
                axes.set_title(shorten(name, 40), loc="left", fontsize=12, color=INK, pad=32, parse_math=False)
        for axes in panels.flat[len(shown) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("validation accuracy compared (%)", fontsize=12, color=INK)
        _draw_rungs_legend(figure, step)
    save(figure, path)


def _line(number: int) -> tuple[str, object]:
    """Return the colour and the line style of the study of this number."""
    return CATEGORIES[number % len(CATEGORIES)], LINES[number // len(CATEGORIES) % len(LINES)]


def _draw_growth(axes: "Axes", table: "pandas.DataFrame", counted: str, colour: str, line: object) -> None:
    counts, volumes = table[counted].to_numpy(), table["hypervolume"].to_numpy()
    axes.step(counts, volumes, where="post", color=colour, linestyle=line, linewidth=2)
    rises = [number for number, volume in enumerate(volumes) if volume > (volumes[number - 1] if number else 0)]
    axes.scatter(counts[rises], volumes[rises], s=26, color=colour, zorder=3)
    axes.scatter(counts[-1:], volumes[-1:], s=60, color=colour, edgecolors="white", linewidths=1, zorder=4)


def _set_limits(axes: "Axes", volumes: list[float], last: int) -> None:
    """Show the lines down to six times the median distance of their steps from the best, and no less than 5 %.

    Where a line is 0, its study has no configuration with all seeds yet.
    """
    volumes = [volume for volume in volumes if volume > 0] or volumes
    top = max(volumes)
    span = max(5.0, 6 * statistics.median(top - volume for volume in set(volumes)))
    low = max(min(volumes), top - span)
    margin = max(0.06 * (top - low), 0.5)
    axes.set_ylim(low - margin, top + margin)
    axes.set_xlim(0, last * 1.03 if last > 1 else 2)
    axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]


def _draw_legend(axes: "Axes", names: list[str]) -> None:
    entries = []
    for number, name in enumerate(names[:LABELLED]):
        colour, line = _line(number)
        entries.append((shorten(name, 36), symbol(colour, line=line, linewidth=2)))
    if len(names) > LABELLED:
        entries.append((f"and {len(names) - LABELLED} more", symbol(MUTED)))
    draw_legend(axes, entries, loc="upper left", bbox_to_anchor=(1.01, 1))


def _draw_panel(axes: "Axes", table: "pandas.DataFrame", step: int) -> None:
    """Draw the trials of one study: rungs side by side, then the end; lines of every `step`-th trial."""
    from matplotlib.collections import LineCollection

    rungs = sorted(set(table["rung"]))
    place = {rung: number for number, rung in enumerate(rungs)}
    is_stopped = ~table["survived"].to_numpy(dtype=bool)
    places, values = table["rung"].map(place).to_numpy(dtype=float), table["value"].to_numpy()
    places[is_stopped] -= _spread(places[is_stopped], values[is_stopped])
    paths: dict[str, list[tuple[float, float]]] = {}
    finals: dict[str, tuple[float, float]] = {}
    for trial, at, value, final in zip(table["trial"], places, values, table["final"], strict=True):
        paths.setdefault(trial, []).append((at, value))
        if not math.isnan(final):
            finals[trial] = (len(rungs), final)
    stopped = set(table["trial"][is_stopped])
    lines = [(trial, [*paths[trial], *([finals[trial]] if trial in finals else [])]) for trial in sorted(paths)[::step]]
    pale = max(0.15, min(0.6, 6 / len(lines) ** 0.6)) if lines else 1.0
    colours = [STOPPED if trial in stopped else GOES_ON for trial, _ in lines]
    axes.add_collection(LineCollection([line for _, line in lines], colors=colours, linewidths=1.2, alpha=pale))
    size = 30 if len(table) < 300 else 10
    axes.scatter(places[~is_stopped], values[~is_stopped], s=size, color=GOES_ON, zorder=3)
    axes.scatter([x for x, _ in finals.values()], [y for _, y in finals.values()], s=size, color=GOES_ON, zorder=3)
    axes.scatter(places[is_stopped], values[is_stopped], s=size, color=STOPPED, marker="x", zorder=3)
    _label_rungs(axes, table, rungs, len(finals))


def _spread(places: "NDArray[np.float64]", values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return how far left of its rung each cross is drawn: crosses of about the same height lie side by side."""
    height = (values.max() - values.min()) / 60 if len(values) else 0.0
    counts: Counter[tuple[float, int]] = Counter()
    order = np.zeros(len(values))
    for number, (place, value) in enumerate(zip(places, values, strict=True)):
        level = (float(place), round(value / height) if height else 0)
        counts[level] += 1
        order[number] = counts[level]
    return order * min(0.03, 0.4 / max(counts.values(), default=1))


def _label_rungs(axes: "Axes", table: "pandas.DataFrame", rungs: list[int], completed: int) -> None:
    """Name each rung below the axis, and above it how many trials reached it and were stopped."""
    names = [f"epoch {rung}" for rung in rungs]
    counts = []
    for rung in rungs:
        here = table[table["rung"] == rung]
        lost = len(here) - int(here["survived"].sum())
        counts.append(f"{len(here):,} {'trial' if len(here) == 1 else 'trials'}\n{lost:,} stopped")
    axes.set_xticks(range(len(rungs) + 1), [*names, "end"])
    axes.set_xlim(-0.5, len(rungs) + 0.4)
    for place, count in enumerate([*counts, f"{completed:,}\ncompleted"]):
        axes.text(
            *(place, 1.01, count),
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=9 if len(rungs) < 5 else 7,
            color=MUTED,
        )
    axes.autoscale_view(scalex=False)
    frame(axes)


def _draw_rungs_legend(figure: "Figure", step: int) -> None:
    entries = [
        ("goes on, or completed", symbol(GOES_ON, "o", "-", linewidth=1.2, markersize=6)),
        ("stopped at this rung", symbol(STOPPED, "x", "-", linewidth=1.2, markersize=6)),
    ]
    if step > 1:
        entries.append((f"lines: one trial in {step}", symbol(MUTED, line="-", linewidth=1.2)))
    draw_legend(figure, entries, loc="outside lower right", ncols=3)
