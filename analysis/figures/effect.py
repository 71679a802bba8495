"""The figure of a parameter's effect: slices of the objective by its values, a panel for each width."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.effect import Dot, Effect, value_order
from analysis.optuna_study import Value
from kdq.bits import bits_name
from study.results.objective import Objective
from study.results.style import (
    CATEGORIES,
    INK,
    MUTED,
    colour,
    draw_legend,
    frame,
    literal,
    new_figure,
    save,
    shorten,
    symbol,
    write_nothing,
)
from study.units import exact

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 4  # in a row
LABELLED = 8  # studies in the legend
MEANS = 12  # values up to which means are drawn; where every trial has its own, they would be the points
TICKS = 6  # values of a number that are all named on the axis
APART = 0.1  # of the axis, at least between two numbers that are written
LOGARITHMIC = 30.0  # ratio of the largest and the smallest number from which the axis is logarithmic


def draw_effect(
    found: Sequence[Effect],
    dots: Sequence[Dot],
    parameter: str,
    decides: Objective,
    path: Path,
    title: str,
    nothing: str,
) -> None:
    """Write a figure with a panel for each uniform width: pale dots are points, marks their means with 95 % intervals.

    The colour shows the width, or the study if there are several. The axis of a number is logarithmic if its values
    span orders of magnitude; names have a place each. nothing: the text of a figure without points.
    """
    widths = list(dict.fromkeys(dot.bits for dot in dots if isinstance(dot.bits, int)))
    widths.sort()
    columns, rows = min(PANELS, len(widths)) or 1, -(-len(widths) // PANELS) or 1
    figure = new_figure(title, (max(9.0, 1 + 3.6 * columns), 2.0 + 3.4 * rows))
    if widths:
        names = list(dict.fromkeys(dot.study for dot in dots))
        order = sorted({dot.value for dot in dots}, key=value_order)
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes, bits in zip(panels.flat, widths, strict=False):
            for number, name in enumerate(names):
                places = _places(order, (number - (len(names) - 1) / 2) * 0.6 / len(names))
                shade = CATEGORIES[number % len(CATEGORIES)] if len(names) > 1 else colour(bits)
                own = [each for each in found if (each.study, each.bits) == (name, bits)]
                _draw_slice(axes, own, [dot for dot in dots if (dot.study, dot.bits) == (name, bits)], shade, places)
            _dress(axes, [dot.height for dot in dots if dot.bits == bits], order, bits_name(bits), decides.resolution)
            axes.set_xlabel(shorten(parameter, 40), fontsize=12, color=INK, parse_math=False)
        for axes in panels.flat[len(widths) :]:
            axes.set_axis_off()
        mean = ("mean and 95 % interval", symbol(MUTED, "o", "-", markerfacecolor="white", linewidth=1.2))
        entries = [("a point: one seed at one width", symbol(MUTED, "o", markersize=5, alpha=0.4))]
        entries += [mean] if len(order) <= MEANS else []
        entries += [
            (name, symbol(CATEGORIES[n % len(CATEGORIES)], "o"))
            for n, name in enumerate(names[:LABELLED])
            if len(names) > 1
        ]
        draw_legend(figure, entries, loc="outside lower right", ncols=min(len(entries), 5))
        figure.supylabel(f"validation {decides.title} ({decides.unit})", fontsize=13, color=INK)
    else:
        write_nothing(figure, nothing)
    save(figure, path)


def _draw_slice(
    axes: "Axes", found: Sequence[Effect], dots: Sequence[Dot], shade: str, places: Mapping[Value, float]
) -> None:
    where, heights = [places[dot.value] for dot in dots], [dot.height for dot in dots]
    axes.scatter(where, heights, s=22, color=shade, alpha=0.4, linewidths=0, zorder=2)
    if len(places) <= MEANS:
        below = [0.0 if each.low is None else each.mean - each.low for each in found]
        above = [0.0 if each.high is None else each.high - each.mean for each in found]
        axes.errorbar(
            [places[each.value] for each in found], [each.mean for each in found], [below, above],
            fmt="o" if _has_names(places) else "o-", color=shade, elinewidth=1, capsize=4, markersize=8,
            markerfacecolor="white", markeredgewidth=1.8, linewidth=1.2, zorder=3,
        )  # fmt: skip


def _dress(axes: "Axes", heights: Sequence[float], order: Sequence[Value], name: str, resolution: float) -> None:
    """Resolve the points: the interval of two of them may reach far beyond."""
    low, high = min(heights), max(heights)
    margin = max(0.12 * (high - low), 0.1 * resolution)
    axes.set_ylim(low - margin, high + margin)
    axes.set_title(name, fontsize=12, color=INK, loc="left", parse_math=False)
    frame(axes)
    numbers = [value for value in order if not isinstance(value, str)]
    if _has_names(order):
        texts = [literal(shorten(str(value), 20)) for value in order]
        axes.set_xticks(range(len(order)), texts, rotation=90 if sum(map(len, texts)) > 30 else 0)
        axes.set_xlim(-0.6, len(order) - 0.4)
        return
    is_logarithmic = min(numbers) > 0 and max(numbers) / min(numbers) >= LOGARITHMIC
    if is_logarithmic:
        axes.set_xscale("log")
    if len(numbers) <= TICKS:
        axes.set_xticks(numbers, _apart(numbers, math.log if is_logarithmic else float))
        axes.minorticks_off()
    if len(numbers) == 1:
        axes.set_xlim(numbers[0] - 1, numbers[0] + 1)


def _apart(numbers: Sequence[float], place: Callable[[float], float]) -> list[str]:
    """Return the texts of an axis' numbers, in order; empty where one would touch that of the number before it."""
    span, texts, last = place(numbers[-1]) - place(numbers[0]), list[str](), -math.inf
    for number in numbers:
        touches = place(number) - last < APART * span
        texts.append("" if touches else exact(number))
        last = last if touches else place(number)
    return texts


def _places(order: Sequence[Value], shift: float) -> dict[Value, float]:
    """Return where each value is on the axis: numbers at themselves, names side by side, where studies are shifted."""
    if not _has_names(order):
        return {value: float(value) for value in order}
    return {value: rank + shift for rank, value in enumerate(order)}


def _has_names(order: Iterable[Value]) -> bool:
    return any(isinstance(value, str) for value in order)
