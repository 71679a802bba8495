"""The figure of importances: bars, a panel for each width of each study."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from analysis.importance import HYPERVOLUME, Importance
from kdq.bits import bits_name
from study.results.style import CATEGORIES, INK, MUTED, frame, literal, new_figure, save, shorten, write_nothing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 5  # in a row
AT_MOST = 8  # rows of panels
Key = tuple[str, str]  # the methods that have a parameter, "" for all, and its name
Panel = tuple[int | str, dict[Key, float]]  # a width, and the importances at it


def draw_importance(found: Sequence[Importance], path: Path, title: str, nothing: str) -> None:
    """Write a figure with a panel of bars for each width, in rows of a study each, at most `AT_MOST` of them.

    The parameters of a study have the same order in every panel, by their mean importance. Pale bars are of parameters
    that only some methods have, named below them: shares among the trials of these methods alone. nothing: the text of
    a figure without importances.
    """
    panels: dict[str, dict[int | str, dict[Key, float]]] = defaultdict(lambda: defaultdict(dict))
    for each in found:
        panels[each.study][each.bits][each.within, each.parameter] = each.importance
    rows = [(study, row) for study, own in panels.items() for row in _rows(list(own.items()))]
    shown = rows[:AT_MOST]
    if len(rows) > AT_MOST:
        title = f"{shorten(title, 50)} (the first {AT_MOST} of {len(rows)} rows)"
    orders = {study: _order(own.values()) for study, own in panels.items()}
    columns = max((len(row) for _, row in shown), default=1)
    heights = [1.0 + 0.42 * len(orders[study]) for study, _ in shown]
    figure = new_figure(title, (max(9.0, 3 + 2.6 * columns), 1.8 + max(sum(heights), 2.0)))
    if shown:
        grid = figure.subplots(len(shown), columns, sharex=True, sharey="row", squeeze=False, height_ratios=heights)
        for line, (study, row) in zip(grid, shown, strict=True):
            for axes, (bits, own) in zip(line, row, strict=False):
                name = HYPERVOLUME if bits == HYPERVOLUME else f"accuracy, {bits_name(bits)}"
                _draw_panel(axes, own, f"{shorten(study, 24)}: {name}" if len(panels) > 1 else name, orders[study])
            for axes in line[len(row) :]:
                axes.set_axis_off()
        figure.supxlabel("importance: the share of what varies that the parameter explains", fontsize=12, color=INK)
    else:
        write_nothing(figure, nothing)
    save(figure, path)


def _rows(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    return [panels[begin : begin + PANELS] for begin in range(0, len(panels), PANELS)]


def _order(panels: Iterable[Mapping[Key, float]]) -> list[Key]:
    """Return the parameters by their mean importance, those that only some methods have last."""
    shares: dict[Key, list[float]] = defaultdict(list)
    for own in panels:
        for key, share in own.items():
            shares[key].append(share)
    return sorted(shares, key=lambda key: (key[0] != "", -fmean(shares[key]), key))


def _draw_panel(axes: "Axes", own: Mapping[Key, float], name: str, order: Sequence[Key]) -> None:
    for height, key in enumerate(order):
        if key in own:
            axes.barh(height, own[key], height=0.62, color="white")  # hides the grid below a pale bar
            axes.barh(height, own[key], height=0.62, color=CATEGORIES[0], alpha=0.5 if key[0] else 1.0)
            axes.text(own[key] + 0.02, height, f"{own[key]:.2f}", va="center", fontsize=10, color=MUTED)
    axes.set_title(name, fontsize=12, color=INK, loc="left", parse_math=False)
    axes.set_yticks(range(len(order)), [_label(*key) for key in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlim(0, 1.22)
    axes.set_xticks([0, 0.5, 1])
    frame(axes)
    axes.grid(visible=False, axis="y")


def _label(within: str, parameter: str) -> str:
    return literal(f"{parameter}\n({shorten(within, 26)})" if within else parameter)
