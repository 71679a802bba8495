"""Figures of replays: what early stopping finds and what it costs."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from study.results.style import COLOURS, INK, MIXED, MUTED, frame, new_figure, save
from study.schedulers.registry import SCHEDULERS

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

AIM = {"saved": 40.0, "front_lost": 5.0}  # percent: a good rule saves more and loses less

LABEL = (30.0, 4.0)  # the size of a label in units of both axes

# The colour shows what trials are compared by, the line style when.
_COLOURS = {"float": COLOURS[1], "quantized": COLOURS[5], "pareto": MIXED}
_LINES = {"asynchronous": "-", "synchronous": (0, (5, 1.5))}
_MARKERS = {"asynchronous": "o", "synchronous": "s"}
_OTHERS = {"grid": (MUTED, "-", "o"), "random": ("#b7791f", (0, (1, 1.5)), "o")}


def draw_replay(curves: "pandas.DataFrame", table: "pandas.DataFrame", path: Path, title: str) -> None:
    """Write a figure (a PNG has 1600 × 800 pixels): hypervolume against epochs, and trials lost against epochs saved.

    curves: from `analysis.replay.mean_curves`; table: from `analysis.replay.summary`. Bars are one sample deviation
    over the orders, cut at what no order can exceed: the hypervolume of the full grid, 0 and 100 %.
    """
    figure = new_figure(title, (16, 8), 0.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    _draw_curves(left, curves, table)
    _draw_costs(right, table)
    for axes in (left, right):
        frame(axes)
    save(figure, path)


def _style(strategy: str) -> tuple[str, object, str]:
    """Return the colour, line style and marker of a strategy."""
    if strategy in _OTHERS:
        return _OTHERS[strategy]
    kind = SCHEDULERS[strategy]
    assert kind.priority
    assert kind.promotion
    return _COLOURS[kind.priority], _LINES[kind.promotion], _MARKERS[kind.promotion]


def _draw_curves(axes: "Axes", curves: "pandas.DataFrame", table: "pandas.DataFrame") -> None:
    for strategy, drawn in curves.groupby("strategy", sort=False):
        colour, line, _ = _style(str(strategy))
        axes.plot(drawn["epochs"], drawn["mean"], color=colour, linestyle=line, linewidth=1.6, label=str(strategy))
    best, worst = table["hypervolume"].max(), table["hypervolume"].min()
    for strategy, drawn in curves.groupby("strategy", sort=False):
        colour, _, marker = _style(str(strategy))
        epochs, mean, deviation = (drawn[name].iloc[-1] for name in ("epochs", "mean", "deviation"))
        bar = _bar(mean, deviation, highest=best)
        axes.errorbar(epochs, mean, bar, marker=marker, color=colour, markersize=6, elinewidth=1, capsize=4, zorder=3)
    span = max(2.5 * (best - worst), 0.05 * best)
    axes.set_ylim(best - span, best + 0.06 * span)
    axes.set_xlim(0, None)
    axes.set_xlabel("epochs trained by all trials together", fontsize=13, color=INK)
    axes.set_ylabel("hypervolume of the completed trials (% × octaves)", fontsize=13, color=INK)
    axes.legend(loc="lower right", frameon=False, fontsize=12)


def _bar(mean: float, deviation: float, lowest: float = -math.inf, highest: float = math.inf) -> list[list[float]]:
    """Return how far a bar reaches below and above its mean, as matplotlib takes it; NaN for one order."""
    room = max(mean - lowest, 0.0), max(highest - mean, 0.0)
    return [[deviation if math.isnan(deviation) else min(deviation, limit)] for limit in room]


def _draw_costs(axes: "Axes", table: "pandas.DataFrame") -> None:
    axes.fill_between([AIM["saved"], 102], -3, AIM["front_lost"], color=COLOURS[7], alpha=0.2, linewidth=0)
    axes.text(100, AIM["front_lost"] + 0.8, "the aim", ha="right", fontsize=11, color=MUTED)
    labels: list[tuple[float, float]] = []
    for row in table.sort_values("front_lost", kind="stable").to_dict(orient="records"):
        name, x, y = row["strategy"], row["saved"], row["front_lost"]
        colour, _, marker = _style(name)
        bar = _bar(y, row["front_lost_std"], lowest=0, highest=100)
        axes.errorbar(x, y, bar, row["saved_std"], color=colour, elinewidth=1, capsize=3, alpha=0.5)
        axes.plot(x, y, marker=marker, markersize=9, color=colour)
        height = y
        while any(abs(x - at) < LABEL[0] and abs(height - other) < LABEL[1] for at, other in labels):
            height += 0.1
        labels.append((x, height))
        leader = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5}
        axes.annotate(name, (x, y), (x + 5, height), arrowprops=leader, va="center", fontsize=11, color=INK)
    axes.set_xlim(-3, 112)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("epochs saved (%)", fontsize=13, color=INK)
    axes.set_ylabel("trials of the true front that were lost (%)", fontsize=13, color=INK)
