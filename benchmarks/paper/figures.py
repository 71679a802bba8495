"""Figures 1 to 6 of the paper, ours filled and the paper's hollow, and one of its question."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from benchmarks.paper import compare
from benchmarks.paper.cells import CE, ROWS, TEACHER, WIDTHS, Cells
from benchmarks.paper.page import DataSet
from kdq.bits import FLOAT_BITS
from kdq.models.classifier import Normalization, build
from study.results.point import Point
from study.results.style import CATEGORIES, INK, MUTED, frame, new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK = CATEGORIES
COLOURS = dict(zip(ROWS, (BLACK, ORANGE, BLUE, VERMILION, GREEN, PURPLE, SKY), strict=True))
MARKERS = dict(zip(ROWS, "sovD^p<", strict=True))
ALPHAS = {0.5: (BLUE, "o"), 1.0: (VERMILION, "s"), 2.0: (GREEN, "^")}
QUANTIZED = tuple(bits for bits in WIDTHS if bits != FLOAT_BITS)
FLOAT_AT = 9.5
"""Where float is on an axis of bits."""


def draw_bits(each: DataSet, cells: Cells, path: Path) -> None:
    """Write figure 3 or 5: test accuracy against bits, with the paper's and without."""
    figure, panels = _panels(f"{each.title}: test accuracy against bits a weight")
    for row in cells.rows:
        for axes in panels:
            _draw_ours(axes, row, cells, _position)
        _draw_paper(panels[0], each, row, _position)
    for axes in panels:
        axes.set_xticks([*QUANTIZED, FLOAT_AT], [*map(str, QUANTIZED), "float"])
        axes.set_xlabel("bits", fontsize=13, color=INK)
    _finish(figure, panels, each, path)


def draw_size(each: DataSet, cells: Cells, path: Path) -> None:
    """Write figure 4 or 6: test accuracy against total bits, with the paper's (parameters × bits) and without."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    figure, panels = _panels(f"{each.title}: test accuracy against total bits")
    for row in cells.rows:
        for axes in panels:
            _draw_ours(axes, row, cells, partial(cells.total_bits, row))
        weights = parameters("resnet50" if row == TEACHER else "resnet18", 100 if each.name == "cifar100" else 10)
        _draw_paper(panels[0], each, row, weights.__mul__)
    for axes, steps in zip(panels, ((1.0,), (1.0, 2.0, 5.0)), strict=True):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=steps))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(EngFormatter(unit="bit"))
        axes.set_xlabel("total bits of the packed file", fontsize=13, color=INK)
    panels[0].set_xlabel("total bits: ours of the packed file, the paper's parameters × bits", fontsize=13, color=INK)
    _finish(figure, panels, each, path)


def draw_question(sets: Sequence[tuple[DataSet, Cells]], path: Path) -> None:
    """Write the loss from float beyond that of CE, with intervals, a panel for each data set."""
    figure = new_figure("", (7.5 * len(sets), 6))
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, (each, cells) in zip(panels, sets, strict=True):
        rows = cells.distilled
        for i, row in enumerate(rows):
            found = {b: compare.difference(compare.extra_drop(cells, CE, row, b)) for b in QUANTIZED}
            shown = {b + 0.12 * (i - (len(rows) - 1) / 2): d for b, d in found.items() if d}
            bars, means = [d.half for d in shown.values()], [d.mean for d in shown.values()]
            style = {"color": COLOURS[row], "marker": MARKERS[row], "label": row}
            axes.errorbar(list(shown), means, bars, linestyle="", markersize=7, elinewidth=1.2, capsize=3, **style)
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_title(f"{each.title}: loss from float beyond that of CE", loc="left", fontsize=14, color=INK)
        axes.set_xlabel("bits", fontsize=13, color=INK)
        axes.set_ylabel("points; above 0: less compressible than CE", fontsize=12, color=INK)
        axes.set_xticks(QUANTIZED)
        if rows:
            axes.legend(frameon=False, fontsize=11)
        frame(axes)
    save(figure, path)


def draw_grid(points: Sequence[Point], quoted: Mapping[tuple[float, float], float], path: Path) -> None:
    """Write figures 1 and 2: validation and test accuracy of float DKD students against β, a line for each α.

    quoted: the paper's test accuracies by (α, β).
    """
    figure = new_figure("", (14, 6))
    floats = [p for p in points if p.bits == FLOAT_BITS]
    for axes, name in zip(figure.subplots(1, 2), ("val_top1", "test_top1"), strict=True):
        kind, number = ("validation", 1) if name == "val_top1" else ("test", 2)
        for alpha in sorted({p.alpha for p in floats if p.alpha is not None}):
            colour, marker = ALPHAS.get(alpha, (MUTED, "D"))
            betas = sorted({p.beta for p in floats if p.alpha == alpha and p.beta is not None})
            cells = [[getattr(p, name) for p in floats if (p.alpha, p.beta) == (alpha, beta)] for beta in betas]
            axes.plot(betas, [fmean(c) for c in cells], color=colour, marker=marker, label=f"α = {alpha:g}")
        for (alpha, beta), accuracy in quoted.items() if number == 2 else ():
            colour, marker = ALPHAS.get(alpha, (MUTED, "D"))
            label = f"the paper's, α = {alpha:g}"
            axes.plot(beta, accuracy, **_hollow(colour, marker), linestyle="", label=label)
        axes.set_title(f"Figure {number}: DKD's {kind} accuracy at float", loc="left", fontsize=14, color=INK)
        axes.set_xlabel("β", fontsize=13, color=INK)
        axes.set_ylabel(f"{kind} accuracy (%)", fontsize=13, color=INK)
        axes.legend(frameon=False, fontsize=11)
        frame(axes)
    save(figure, path)


@cache
def parameters(arch: str, classes: int) -> int:
    """Return the number of parameters of a network for images of 32 × 32."""
    unit = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return sum(part.numel() for part in build(arch, classes=classes, normalization=unit, seed=0).parameters())


def _position(bits: int) -> float:
    return FLOAT_AT if bits == FLOAT_BITS else float(bits)


def _draw_ours(axes: "Axes", row: str, cells: Cells, at: Callable[[int], float]) -> None:
    found = {bits: list(of.values()) for bits in WIDTHS if (of := cells.accuracies(row, bits))}
    means = [fmean(values) for values in found.values()]
    bars = [stdev(values) if len(values) > 1 else 0.0 for values in found.values()]
    style = {"color": COLOURS[row], "marker": MARKERS[row], "label": row}
    axes.errorbar([at(b) for b in found], means, bars, linewidth=1.6, markersize=7, elinewidth=1, capsize=3, **style)  # type: ignore[arg-type]


def _draw_paper(axes: "Axes", each: DataSet, row: str, at: Callable[[int], float]) -> None:
    found = {bits: each.paper[row, bits] for bits in WIDTHS if (row, bits) in each.paper}
    style = {"linestyle": ":", "linewidth": 1, **_hollow(COLOURS[row], MARKERS[row])}
    axes.plot([at(bits) for bits in found], list(found.values()), **style)  # type: ignore[arg-type]


def _hollow(colour: str, marker: str) -> dict[str, object]:
    return {"color": colour, "marker": marker, "markerfacecolor": "white", "markersize": 7, "markeredgewidth": 1.4}


def _panels(title: str) -> tuple["Figure", tuple["Axes", "Axes"]]:
    """Return a figure with two panels: beside the paper, and ours alone, whose axis resolves it."""
    figure = new_figure(title, (16, 7))
    left, right = figure.subplots(1, 2)
    return figure, (left, right)


def _finish(figure: "Figure", panels: tuple["Axes", "Axes"], each: DataSet, path: Path) -> None:
    from matplotlib.lines import Line2D

    handles, _ = panels[0].get_legend_handles_labels()
    hollow = Line2D([], [], linestyle=":", label="the paper's", **_hollow(MUTED, "o"))  # type: ignore[arg-type]
    panels[1].legend(handles=[*handles, hollow], loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=12)
    for axes, name in zip(panels, ("beside the paper", "ours alone"), strict=True):
        axes.set_title(name, loc="left", fontsize=13, color=MUTED)
        axes.set_ylabel("test accuracy (%)", fontsize=13, color=INK)
        frame(axes)
    save(figure, path)
