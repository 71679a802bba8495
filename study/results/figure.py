"""The figure of the front: accuracy against size, of one study or several."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdq.bits import bits_name
from study.results.front import SeedGroup, on_front
from study.results.hues import Hues, hues
from study.results.marks import Drawn, Line, Mark, caption, front_of, marks_of, reference_lines
from study.results.objective import Objective
from study.results.point import Point
from study.results.style import (
    INK,
    MARKERS,
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
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

LABELLED = 60  # labels of widths that are tried
SHAPED = 300  # configurations up to which shapes show methods; more are dots, so that no method hides another
PALE = 0.35


def draw_front(points: Iterable[Point], path: Path, title: str, teacher: float | None = None) -> None:
    """Write the figure of one study; see `draw_fronts`. teacher: its objective, None if unknown."""
    draw_fronts([Drawn("", list(points), teacher)], path, title)


def draw_fronts(
    studies: Sequence[Drawn], path: Path, title: str, by: str | None = None, nothing: str = "no points yet"
) -> None:
    """Write a figure (a PNG has 1200 × 800 pixels) of the objective against total bits, with the front.

    Heights are scores, so that up is better; the axis shows the objective, such as validation accuracy.

    A mark is a configuration's mean over seeds, shaped by its method; pale dots are its seeds; hollow marks lack seeds.
    by: what the colour shows, one of `study.results.hues.COLUMNS`, by default the method, or the study if there are
    several. The front of all studies together is a step line through means, which alone have 95 % intervals, and
    crosses for test images. The vertical axis resolves the front: what lies below is a caret at the lower
    border. nothing: the text of a figure without points. Raises UserError for another column.
    """
    shown = by or ("study" if len(studies) > 1 else "method")
    colours = hues(shown, ((each.name, point) for each in studies for point in each.points))
    figure = new_figure(title, (12, 8))
    marks = marks_of(studies)
    if marks:
        axes = figure.add_subplot()
        lines = reference_lines(studies, marks)
        _set_limits(axes, marks, [line.score for line in lines])
        shapes = _shapes(marks)
        _draw_marks(axes, marks, shapes, colours)
        _draw_front(axes, marks, shapes, colours)
        for line in lines:
            axes.axhline(line.score, color=MUTED, linestyle=line.style, linewidth=1.4, zorder=1)
        if colours.bar:
            figure.colorbar(colours.bar, ax=axes, shrink=0.5, anchor=(0, 0), pad=0.02).set_label(shown, color=INK)
        _draw_legend(axes, marks, shapes, colours, lines)
        _dress(axes, marks[0].group.decides)
        figure.supxlabel(caption(marks), x=0.02, ha="left", fontsize=11, color=MUTED)
        _label_widths(axes, marks)
    else:
        write_nothing(figure, nothing)
    save(figure, path)


def accuracy_limits(front: Sequence[SeedGroup], lowest_point: float) -> tuple[float, float]:
    """Return the range of scores, such as accuracies in percent, that resolves a front.

    It reaches down from the best by six times the median distance of the front to its best, at least by the objective's
    resolution, of accuracies five percentage points, but not below the lowest point: a front of 12, 55, 85, 89, 90,
    90.3, 90.4 is shown from 82.
    """
    decides = front[0].decides
    top = max(group.score for group in front)
    span = max(decides.resolution, 6 * statistics.median(top - group.score for group in front))
    lowest = max(top - span, lowest_point)
    shown = [lowest, top]
    shown += [decides.score(group.mean(decides.test_column)) for group in front if group.score >= lowest]
    margin = max(0.08 * (max(shown) - min(shown)), decides.resolution / 10)
    return max(min(shown) - margin, -2.0), max(shown) + margin


def _set_limits(axes: "Axes", marks: Sequence[Mark], heights: Iterable[float]) -> None:
    """heights: of horizontal lines, which are shown unless they lie far above."""
    sizes = [mark.bits for mark in marks]
    smallest, largest = min(sizes), max(sizes)
    margin = max((largest / smallest) ** 0.06, 1.5 if largest == smallest else 1.08)
    axes.set_xscale("log")
    axes.set_xlim(smallest / margin, largest * margin)
    low, high = accuracy_limits([mark.group for mark in front_of(marks)], min(mark.score for mark in marks))
    room = high - low
    ends = [mark.ends[1] for mark in front_of(marks) if mark.ends]
    above = [point.score for mark in marks for point in mark.group.points]  # a seed above its mean
    lines = [height for height in heights if height < high + room]
    axes.set_ylim(low, max([high, *(min(top + 0.06 * room, 103.0) for top in (*ends, max(above), *lines))]))


def _draw_marks(axes: "Axes", marks: Sequence[Mark], shapes: dict[str, str], colours: Hues) -> None:
    """Draw seeds as pale dots, means as marks, hollow if seeds are missing; those below the axis as carets."""
    lowest = axes.get_ylim()[0]
    seeds = [(mark.study.name, point) for mark in marks if mark.group.n > 1 for point in mark.group.points]
    shades = [colours.colour(*seed) for seed in seeds]
    pale = 0.9 if colours.column == "seed" else PALE
    where = [point.total_bits for _, point in seeds], [point.score for _, point in seeds]
    axes.scatter(*where, s=14, color=shades, alpha=pale, linewidths=0, zorder=2)
    size, alpha = (70, 0.75) if len(marks) <= 60 else (40, 0.75) if len(marks) <= SHAPED else (22, 0.5)
    kinds: dict[tuple[str, bool], list[Mark]] = defaultdict(list)
    for mark in marks:
        if not mark.is_on_front and mark.score >= lowest:
            kinds[shapes[mark.method], mark.is_compared].append(mark)
    for (shape, is_compared), alike in kinds.items():
        shades = [_colour(mark, colours) for mark in alike]
        faces, widths = (shades, 0.0) if is_compared else ("white", 1.4)
        axes.scatter(
            [mark.bits for mark in alike], [mark.score for mark in alike], s=size, marker=shape,
            facecolors=faces, edgecolors=shades, linewidths=widths, alpha=alpha, zorder=3,
        )  # fmt: skip
    below = [mark for mark in marks if mark.score < lowest]
    axes.scatter(
        [mark.bits for mark in below], [0.012] * len(below), s=64, marker="v", linewidths=0, zorder=3,
        color=[_colour(mark, colours) for mark in below], transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def _colour(mark: Mark, colours: Hues) -> str:
    """Return a mark's colour; a mean over seeds is grey where colours show seeds."""
    if colours.column == "seed" and mark.group.n > 1:
        return MUTED
    return colours.colour(mark.study.name, mark.group.points[0])


def _draw_front(axes: "Axes", marks: Sequence[Mark], shapes: dict[str, str], colours: Hues) -> None:
    """Draw the front of all studies together, with intervals and test accuracies, and thin lines for their own."""
    studies = {mark.study.name: mark.study for mark in marks}
    for name, study in studies.items() if len(studies) > 1 and colours.column == "study" else ():
        own = [mark for mark in marks if mark.study is study and mark.is_compared]
        chosen = on_front(mark.group for mark in own)
        _step(
            axes,
            [mark for mark, is_on in zip(own, chosen, strict=True) if is_on],
            colours.colours.get(name, MUTED),
            1.0,
        )
    front = front_of(marks)
    _step(axes, front, INK, 1.6)
    shown = [mark for mark in front if mark.score >= axes.get_ylim()[0]]
    bars = [(mark, *ends) for mark in shown if (ends := mark.ends)]
    lows, highs = [low for _, low, _ in bars], [high for _, _, high in bars]
    shades = [_colour(mark, colours) for mark, _, _ in bars]
    axes.vlines([mark.bits for mark, _, _ in bars], lows, highs, colors=shades, linewidth=5, alpha=PALE, zorder=2)
    tests = [mark.test_score for mark in shown]
    axes.scatter([mark.bits for mark in shown], tests, s=60, marker="x", color=INK, linewidths=1.8, zorder=6)
    for shape in dict.fromkeys(shapes.values()):
        alike = [mark for mark in shown if shapes[mark.method] == shape]
        where, shades = [mark.bits for mark in alike], [_colour(mark, colours) for mark in alike]
        style = {"marker": shape, "color": shades, "edgecolors": INK, "linewidths": 1.2, "zorder": 5}
        axes.scatter(where, [mark.score for mark in alike], s=80, **style)  # type: ignore[arg-type]


def _step(axes: "Axes", marks: Iterable[Mark], shade: str, width: float) -> None:
    """Draw a front as a step line that goes on to the right border."""
    ordered = sorted(marks, key=lambda mark: mark.bits)
    bits, accuracies = [mark.bits for mark in ordered], [mark.score for mark in ordered]
    edge = axes.get_xlim()[1]
    axes.step([*bits, edge], [*accuracies, accuracies[-1]], where="post", color=shade, linewidth=width, zorder=2)


def _label_widths(axes: "Axes", marks: Sequence[Mark]) -> None:
    """Label the front from its best end down, then the best mark of other widths, where no label is in the way."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # a Figure; this settles the layout
    front, lowest = front_of(marks), axes.get_ylim()[0]
    best: dict[tuple[str, object], Mark] = {}
    for mark in sorted(marks, key=lambda mark: mark.score):
        best[mark.group.points[0].student, mark.group.bits] = mark
    labelled = {(mark.group.points[0].student, mark.group.bits) for mark in front}
    others = [mark for kind, mark in best.items() if kind not in labelled and mark.score >= lowest]
    distinct = {(mark.bits, mark.score): mark for mark in reversed(front)}
    placed: list[Bbox] = []
    for mark in [*distinct.values(), *reversed(others)][:LABELLED]:
        text = _label(axes, mark)
        box = text.get_window_extent().padded(2)
        if any(box.overlaps(other) for other in placed):
            text.remove()
        else:
            placed.append(box)


def _label(axes: "Axes", mark: Mark) -> "Annotation":
    """Write the width above what is drawn of a mark; above a caret, the accuracy too."""
    from matplotlib.patheffects import withStroke

    name, lowest = bits_name(mark.group.bits), axes.get_ylim()[0]
    shown = mark.score >= lowest
    tops = [mark.score, *(point.score for point in mark.group.points)]
    if mark.is_on_front:
        tops += [mark.test_score, *(mark.ends or ())]
    return axes.annotate(
        name if shown else f"{name}: {mark.group.decides.show(mark.group.value)}",
        (mark.bits, min(max(tops), axes.get_ylim()[1]) if shown else lowest),
        xytext=(0, 8) if shown else (-4, 17),
        textcoords="offset points",
        ha="center" if shown else "left",
        fontsize=11,
        color=INK if mark.is_on_front else MUTED,
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=6,
        annotation_clip=False,
    )


def _draw_legend(
    axes: "Axes", marks: Sequence[Mark], shapes: dict[str, str], colours: Hues, lines: Iterable[Line]
) -> None:
    blank = ("", symbol(MUTED))
    entries = [(name, symbol(shade, shapes.get(name, "o"))) for name, shade in colours.legend.items()]
    if len(set(shapes.values())) > 1 and colours.column != "method":
        entries += [blank, *((method, symbol(MUTED, shape)) for method, shape in shapes.items())]
    entries += [blank, ("front of the means", symbol(INK, line="-", linewidth=1.6))]
    decides = marks[0].group.decides
    if any(each.ends for each in front_of(marks)):
        entries.append(("95 % interval", symbol(MUTED, line="-", linewidth=5, alpha=PALE)))
    entries.append((f"test {decides.title}", symbol(INK, "x", markeredgewidth=1.8)))
    if any(each.group.n > 1 for each in marks):
        entries.append(("single seeds", symbol(MUTED, "o", markersize=4, alpha=PALE)))
    if missing := sum(not each.is_compared for each in marks):
        hollow = symbol(MUTED, "o", markerfacecolor="white", markeredgewidth=1.4)
        entries.append((f"seeds missing ({missing:,}), not compared", hollow))
    low, high = axes.get_ylim()
    if below := sum(each.score < low for each in marks):
        entries.append((f"below the axis ({below:,})", symbol(MUTED, "v")))
    for name, score, style in lines:
        where = " (above)" if score > high else " (below)" if score < low else ""
        entries.append(
            (f"{name}: {decides.show(decides.value(score))}{where}", symbol(MUTED, line=style, linewidth=1.4))
        )
    draw_legend(axes, [(shorten(text, 36), each) for text, each in entries], loc="upper left", bbox_to_anchor=(1.01, 1))


def _dress(axes: "Axes", decides: Objective) -> None:
    """Give the axes readable units: bits below, bytes above, the objective on the left."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    bytes_axis = axes.secondary_xaxis("top", functions=(_bits_to_bytes, _bytes_to_bits))
    low, high = axes.get_xlim()
    ratio = high / low
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if ratio < 10 else (1.0, 2.0, 5.0) if ratio < 1000 else (1.0,)
    for axis, unit in ((axes.xaxis, "bit"), (bytes_axis.xaxis, "B")):
        axis.set_major_locator(LogLocator(base=10, subs=steps))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(EngFormatter(unit=unit))
    axes.set_xlabel("total bits of the model as stored", fontsize=13, color=INK)
    better = "" if decides.is_higher_better else ", lower is better"
    axes.set_ylabel(f"validation {decides.title} ({decides.unit}{better})", fontsize=13, color=INK)
    if not decides.is_higher_better:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{decides.value(score):.4g}"))
    frame(axes)
    bytes_axis.tick_params(labelsize=11, colors=MUTED, length=3)
    for spine in bytes_axis.spines.values():
        spine.set_visible(False)


def _bits_to_bytes(bits: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(bits, dtype=np.float64) / 8


def _bytes_to_bits(size: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(size, dtype=np.float64) * 8


def _shapes(marks: Sequence[Mark]) -> dict[str, str]:
    methods = sorted({mark.method for mark in marks})
    return {method: MARKERS[i % len(MARKERS)] if len(marks) <= SHAPED else "o" for i, method in enumerate(methods)}
