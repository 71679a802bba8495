"""What all figures share: colours, how a figure begins, the frame of its axes, and how it is written."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdq.bits import FLOAT_BITS, Bits
from kdq.store.files import publish

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FORMATS = (".png", ".svg", ".pdf")
INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
MARKERS = "osD^PX*phd"  # without v, which says that a mark is below the axis
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
# Categories, distinct for colour-blind readers too (Okabe and Ito 2008), without the yellow, too pale on white.
CATEGORIES = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000")


def colour(bits: Bits) -> str:
    """Return the colour of a width; all mixed allocations share one."""
    return MIXED if isinstance(bits, str) else COLOURS[bits]


def new_figure(title: str, inches: tuple[float, float], margin: float = 0.15) -> "Figure":
    """Return an empty figure of 100 pixels an inch, with a title that is drawn literally; "" for none.

    inches: width and height; margin: beside the axes, in inches.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=inches, dpi=100, layout=ConstrainedLayoutEngine(w_pad=margin, h_pad=0.12))
    if title:
        text = shorten(title, round(inches[0] * 8))
        figure.suptitle(text, x=0.15 / inches[0], ha="left", fontsize=16, color=INK, parse_math=False)
    return figure


def frame(axes: "Axes") -> None:
    """Give axes a light grid below the data, and no spines."""
    axes.grid(color=GRID, linewidth=1)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=12, colors=MUTED, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def symbol(shade: str, marker: str = "", line: Any = "", **style: str | float) -> "Line2D":
    """Return what a legend shows beside a text: a marker, or a line of this style."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **{"color": shade, "marker": marker, "linestyle": line, "markersize": 9, **style})


def draw_legend(of: "Axes | Figure", entries: Sequence[tuple[str, "Artist"]], **place: Any) -> None:
    """Draw a legend without a frame of texts, literally, and what is beside them. place: options of matplotlib's."""
    legend = of.legend([artist for _, artist in entries], ["x"] * len(entries), frameon=False, **place)
    for entry, (text, _) in zip(legend.get_texts(), entries, strict=True):
        entry.set(text=text, parse_math=False, fontsize=11)  # set here, as a label that begins with _ is left out


def shorten(text: str, length: int) -> str:
    """Return a text of at most this many characters, cut in the middle."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def literal(text: str) -> str:
    """Return what matplotlib draws as this text where it offers no `parse_math`, such as in tick labels."""
    return text.replace("$", r"\$")


def write_nothing(figure: "Figure", text: str) -> None:
    """Write a line into the middle of a figure without data."""
    figure.text(0.5, 0.5, text, ha="center", color=MUTED, fontsize=14, parse_math=False)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in the format that the path's suffix names, one of `FORMATS`; equal figures give equal files."""
    from matplotlib import rc_context

    kind = path.suffix[1:].lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "kdq"}):
        figure.savefig(content, format=kind, metadata=undated.get(kind))
    publish(path, content.getvalue())
