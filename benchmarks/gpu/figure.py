"""The points that a GPU made, as a picture: test accuracy against bits a weight, beside the paper's best student.

    python -m benchmarks.gpu.figure

Reads `gpu-cifar10.csv` and `gpu-cifar100.csv` in docs/results, and writes `gpu.png` there.
"""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.gpu.settings import TEACHER
from benchmarks.paper.cells import TEACHER as PAPER_TEACHER
from benchmarks.paper.cells import paper
from benchmarks.paper.figures import FLOAT_AT
from benchmarks.report import RESULTS
from kdq.bits import FLOAT_BITS
from study.results.style import CATEGORIES, INK, MARKERS, MUTED, frame, new_figure, save, symbol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
METHODS = ("ce", "vkd", "mixup", "dkd", "dkd + mixup", "dist", "wttm", "dml")
PAPER = {"color": MUTED, "marker": "o", "markerfacecolor": "white", "markersize": 7, "linestyle": ":"}

Accuracies = dict[int, float]
"""Bits -> test accuracy in percent."""


def main() -> None:
    """Draw the picture."""
    figure = new_figure("A ResNet-50 teaches ResNet-18s on an H100: test accuracy against bits a weight", (16, 12))
    grid = figure.subplots(len(TITLES), 2)
    found = {name: read(RESULTS / f"gpu-{name}.csv") for name in TITLES}
    for row, (name, ours) in zip(grid, found.items(), strict=True):
        best = paper_best(name)
        for axes, what in zip(row, ("beside the best student of the study paper", "ours alone"), strict=True):
            _draw(axes, ours)
            axes.set_title(f"{TITLES[name]}: {what}", loc="left", fontsize=14, color=INK)
        row[0].plot(_positions(best), list(best.values()), **PAPER)
    shown = [method for method in (TEACHER, *METHODS) if any(method in ours for ours in found.values())]
    handles = [symbol(*_style(method), "-", label=method) for method in shown]
    handles.append(symbol(MUTED, "o", ":", markerfacecolor="white", label="the paper's best student"))
    grid[0][1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=12)
    save(figure, RESULTS / "gpu.png")
    print(RESULTS / "gpu.png")


def read(path: Path) -> dict[str, Accuracies]:
    """The accuracies of each row of a file of points, by the name of its method."""
    found: dict[str, Accuracies] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(_method(row["row"]), {})[int(row["bits"])] = float(row["test_top1"])
    return found


def _method(row: str) -> str:
    """The method of a row such as `dkd alpha=1 beta=8 mixup_alpha=1`, and whether it mixes images as well."""
    method, *parameters = row.split()
    mixes = method != "mixup" and any(each.startswith("mixup_alpha=") for each in parameters)
    return f"{method} + mixup" if mixes else method


def paper_best(name: str) -> Accuracies:
    """The accuracy of the paper's best student at each width."""
    best: Accuracies = {}
    for (row, bits), accuracy in paper(name).items():
        if row != PAPER_TEACHER:
            best[bits] = max(accuracy, best.get(bits, 0.0))
    return dict(sorted(best.items()))


def _draw(axes: "Axes", ours: dict[str, Accuracies]) -> None:
    for method, accuracies in ours.items():
        colour, marker = _style(method)
        shown = dict(sorted(accuracies.items()))
        axes.plot(_positions(shown), list(shown.values()), color=colour, marker=marker, markersize=7, linewidth=1.6)
    axes.set_xticks([*range(1, 9), FLOAT_AT], [*map(str, range(1, 9)), "float"])
    axes.set_xlabel("bits", fontsize=13, color=INK)
    axes.set_ylabel("test accuracy (%)", fontsize=13, color=INK)
    frame(axes)


def _style(method: str) -> tuple[str, str]:
    if method == TEACHER:
        return MUTED, "s"
    number = METHODS.index(method)
    return CATEGORIES[number % len(CATEGORIES)], MARKERS[number]


def _positions(accuracies: Accuracies) -> list[float]:
    return [FLOAT_AT if bits == FLOAT_BITS else float(bits) for bits in accuracies]


if __name__ == "__main__":
    main()
