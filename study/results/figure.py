"""Figures of points: accuracy against size."""

import io
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdq.bits import FLOAT_BITS, Bits, bits_name, display_order
from kdq.store.files import publish
from study.results.front import SeedGroup, seed_groups, with_front
from study.results.point import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

FORMATS = (".png", ".svg", ".pdf")
INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
MARKERS = "osD^PX*vph"
# One colour a bit width, dark for few bits, light for many; grey for float (values of matplotlib's viridis).
COLOURS = {
    1: "#440154",
    2: "#46327e",
    3: "#365c8d",
    4: "#277f8e",
    5: "#1fa187",
    6: "#4ac16d",
    7: "#a0da39",
    8: "#e8c80f",
    FLOAT_BITS: "#9ca3af",
}
MIXED = "#d1495b"  # the colour of all mixed allocations


def draw_front(points: Iterable[Point], path: Path, title: str) -> None:
    """Write a figure (a PNG has 1200 × 800 pixels) of validation accuracy against total bits, with the front.

    Every point is a dot, coloured by its bits and shaped by its method. The front is a step line through the
    means of its configurations, labelled with their bits; hollow markers show their test accuracy. The
    accuracy axis is chosen to resolve the front: points below it are carets at the lower border.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    points = with_front(points)
    front = sorted((c for c in seed_groups(points) if c.on_front), key=lambda c: c.mean("total_bits"))
    figure = Figure(figsize=(12, 8), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=16, color=INK, pad=14, parse_math=False)
    if points:
        _set_limits(axes, points, front)
        shapes = _shapes(points)
        _draw_points(axes, points, shapes)
        _draw_front(axes, front, shapes)
        _draw_legend(axes, points, shapes)
        _dress(axes)
        _label_front(axes, front)
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no points yet", transform=axes.transAxes, ha="center", color=MUTED, fontsize=14)
    save(figure, path)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in the format that the path's suffix names, one of `FORMATS`; equal figures give equal files."""
    from matplotlib import rc_context

    kind = path.suffix[1:].lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "kdq"}):
        figure.savefig(content, format=kind, metadata=undated.get(kind))
    publish(path, content.getvalue())


def accuracy_limits(front: Sequence[SeedGroup], lowest_point: float) -> tuple[float, float]:
    """Return the range of the accuracy axis, in percent, that resolves a front.

    It reaches down from the best by six times the median distance of the front to its best, at least five
    percentage points, but not below the lowest point: a front of 12, 55, 85, 89, 90, 90.3, 90.4 is shown from 82.
    """
    top = max(group.mean("val_top1") for group in front)
    span = max(5.0, 6 * statistics.median(top - group.mean("val_top1") for group in front))
    lowest = max(top - span, lowest_point)
    shown = [lowest, top]
    shown += [group.mean("test_top1") for group in front if group.mean("val_top1") >= lowest]
    margin = max(0.08 * (max(shown) - min(shown)), 0.5)
    return max(min(shown) - margin, -2.0), max(shown) + margin


def _set_limits(axes: "Axes", points: Sequence[Point], front: Sequence[SeedGroup]) -> None:
    smallest, largest = min(p.total_bits for p in points), max(p.total_bits for p in points)
    margin = max((largest / smallest) ** 0.06, 1.5 if largest == smallest else 1.08)
    axes.set_xscale("log")
    axes.set_xlim(smallest / margin, largest * margin)
    low, high = accuracy_limits(front, min(point.val_top1 for point in points))
    highest = max(point.val_top1 for point in points)  # a seed above its configuration's mean
    axes.set_ylim(low, max(high, highest + 0.03 * (highest - low)))


def _draw_points(axes: "Axes", points: Sequence[Point], shapes: dict[str, str]) -> None:
    """Draw the points as dots; those below the axis as carets at the border."""
    lowest = axes.get_ylim()[0]
    size = 70 if len(points) <= 60 else 40 if len(points) <= 300 else 22
    kinds = {(point.method, point.bits) for point in points}
    for method, bits in sorted(kinds, key=lambda kind: (display_order(kind[1]), kind[0]), reverse=True):
        here = [p for p in points if (p.method, p.bits) == (method, bits) and p.val_top1 >= lowest]
        axes.scatter(
            [p.total_bits for p in here],
            [p.val_top1 for p in here],
            s=size,
            marker=shapes[method],
            color=_colour(bits),
            alpha=0.75,
            linewidths=0,
            zorder=3,
        )
    for point in points:
        if point.val_top1 < lowest:
            axes.plot(
                point.total_bits,
                0.012,
                marker="v",
                markersize=8,
                color=_colour(point.bits),
                transform=axes.get_xaxis_transform(),
                zorder=3,
            )


def _draw_front(axes: "Axes", front: Sequence[SeedGroup], shapes: dict[str, str]) -> None:
    bits = [group.mean("total_bits") for group in front]
    val, test = ([group.mean(name) for group in front] for name in ("val_top1", "test_top1"))
    bits_to_edge, val_to_edge = [*bits, axes.get_xlim()[1]], [*val, val[-1]]
    axes.step(bits_to_edge, val_to_edge, where="post", color=INK, linewidth=1.6, zorder=2)
    colours = [_colour(group.bits) for group in front]
    axes.vlines(bits, val, test, colors=colours, linewidth=1, zorder=2)
    axes.scatter(bits, test, s=110, facecolors="white", edgecolors=colours, linewidths=1.8, zorder=4)
    for x, y, group, colour in zip(bits, val, front, colours, strict=True):
        marker = shapes[group.points[0].method]
        axes.scatter(x, y, s=60, marker=marker, color=colour, edgecolors=INK, linewidths=1, zorder=5)


def _label_front(axes: "Axes", front: Sequence[SeedGroup]) -> None:
    """Label the front from its best end down, without the labels that would overlap another."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # a Figure; this settles the layout
    placed: list[Annotation] = []
    for group in reversed(front):
        text = _label(axes, group)
        box = text.get_window_extent().padded(2)
        if any(box.overlaps(other.get_window_extent()) for other in placed):
            text.remove()
        else:
            placed.append(text)


def _label(axes: "Axes", group: SeedGroup) -> "Annotation":
    """Write the bits above the group's highest marker; above a caret, the accuracy too."""
    from matplotlib.patheffects import withStroke

    lowest, accuracy = axes.get_ylim()[0], group.mean("val_top1")
    shown = accuracy >= lowest
    highest = max(group.mean("test_top1"), *(point.val_top1 for point in group.points), accuracy)
    return axes.annotate(
        bits_name(group.bits) if shown else f"{bits_name(group.bits)}: {accuracy:.1f} %",
        (group.mean("total_bits"), highest if shown else lowest),
        xytext=(0, 9) if shown else (-4, 17),
        textcoords="offset points",
        ha="right" if shown else "left",
        fontsize=11,
        color=INK,
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=6,
        annotation_clip=False,
    )


def _draw_legend(axes: "Axes", points: Sequence[Point], shapes: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    def dot(label: str, marker: str, colour: str, **style: str | float) -> Line2D:
        return Line2D([], [], linestyle="", marker=marker, markersize=9, color=colour, label=label, **style)  # type: ignore[arg-type]

    allocations = sorted({p.bits for p in points}, key=display_order)
    entries = {_kind(bits): _colour(bits) for bits in allocations}
    handles = [dot(name, "o", colour) for name, colour in entries.items()]
    if len(shapes) > 1:
        handles += [dot(method, shape, MUTED) for method, shape in shapes.items()]
    handles.append(Line2D([], [], color=INK, linewidth=1.6, label="front (validation)"))
    handles.append(dot("its test accuracy", "o", MUTED, markerfacecolor="white", markeredgewidth=1.8))
    if any(p.val_top1 < axes.get_ylim()[0] for p in points):
        handles.append(dot("below the axis", "v", MUTED))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=12)


def _dress(axes: "Axes") -> None:
    """Give the axes readable units: bits below, bytes above, percent on the left."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    bytes_axis = axes.secondary_xaxis("top", functions=(_bits_to_bytes, _bytes_to_bits))
    low, high = axes.get_xlim()
    ratio = high / low
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if ratio < 10 else (1.0, 2.0, 5.0) if ratio < 1000 else (1.0,)
    for axis, unit in ((axes.xaxis, "bit"), (bytes_axis.xaxis, "B")):
        axis.set_major_locator(LogLocator(base=10, subs=steps))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(EngFormatter(unit=unit))
    axes.set_xlabel("total bits of the model as stored", fontsize=13, color=INK)
    axes.set_ylabel("validation accuracy (%)", fontsize=13, color=INK)
    axes.grid(color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=12, colors=MUTED, length=0)
    bytes_axis.tick_params(labelsize=11, colors=MUTED, length=3)
    for spine in (*axes.spines.values(), *bytes_axis.spines.values()):
        spine.set_visible(False)


def _bits_to_bytes(bits: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(bits, dtype=np.float64) / 8


def _bytes_to_bits(size: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(size, dtype=np.float64) * 8


def _shapes(points: Iterable[Point]) -> dict[str, str]:
    methods = sorted({point.method for point in points})
    return {method: MARKERS[i % len(MARKERS)] for i, method in enumerate(methods)}


def _colour(bits: Bits) -> str:
    return MIXED if isinstance(bits, str) else COLOURS[bits]


def _kind(bits: Bits) -> str:
    """Return the entry of the legend; all mixed allocations share one."""
    return "mixed" if isinstance(bits, str) else bits_name(bits)
