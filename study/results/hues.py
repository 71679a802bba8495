"""What the colours of points show: the values of a column, as entries of a legend or, of many numbers, as a bar."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdq.bits import bits_name, display_order
from kdq.errors import unknown
from study.results.point import PARAMETERS, Point
from study.results.style import CATEGORIES, MUTED, colour
from study.units import exact

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable

Value = str | float
COLUMNS = ("method", *(name for name in PARAMETERS if name != "method"), "bits", "seed", "study")
"""What points can be coloured by."""
NUMBERS = 8  # values of a number in a legend; more have a bar
LOGARITHMIC = 30.0  # ratio of the largest and the smallest number from which a bar has a log scale


@dataclass(frozen=True, slots=True)
class Hues:
    """The colours of a column's values; other values are grey. legend: text -> colour; bar: of numbers, instead."""

    column: str
    colours: Mapping[Value, str]
    legend: Mapping[str, str]
    bar: "ScalarMappable | None" = None

    def colour(self, study: str, point: Point) -> str:
        value = value_of(study, point, self.column)
        return MUTED if value is None else self.colours.get(value, MUTED)


def value_of(study: str, point: Point, column: str) -> Value | None:
    """Return the value of a point of a study in one of `COLUMNS`; None for a parameter that its method lacks."""
    value: Value | None = study if column == "study" else getattr(point, column)
    return None if value == "" else value


def hues(column: str, points: Iterable[tuple[str, Point]]) -> Hues:
    """Return the colours of a column for points of studies, by name. Raises UserError for an unknown column."""
    if column not in COLUMNS:
        raise unknown("column to colour by", column, COLUMNS)
    counts = Counter(value_of(study, point, column) for study, point in points)
    present = {value: count for value, count in counts.items() if value is not None}
    none = {f"no {column}": MUTED} if None in counts else {}
    if column == "bits":
        return _widths(present)
    if column == "seed" or any(isinstance(value, str) for value in present):
        return _categories(column, present, none)
    return _numbers(column, sorted(float(value) for value in present), none)


def _widths(present: Iterable[Value]) -> Hues:
    widths = sorted((value if isinstance(value, str) else int(value) for value in present), key=display_order)
    legend = {"mixed" if isinstance(bits, str) else bits_name(bits): colour(bits) for bits in widths}
    return Hues("bits", {bits: colour(bits) for bits in widths}, legend)


def _categories(column: str, present: Mapping[Value, int], none: Mapping[str, str]) -> Hues:
    """Give the most frequent values a colour each; the others share grey, which has the name of one that is alone.

    Studies keep their order.
    """
    shades = (*CATEGORIES, MUTED) if len(present) == len(CATEGORIES) + 1 and not none else CATEGORIES
    ordered = list(present) if column == "study" else sorted(present)
    frequent = set(sorted(ordered, key=lambda value: -present[value])[: len(shades)])
    colours = dict(zip((value for value in ordered if value in frequent), shades, strict=False))
    named = {f"seed {value}" if column == "seed" else str(value): shade for value, shade in colours.items()}
    left = len(present) - len(colours)
    return Hues(column, colours, named | ({f"{left} others": MUTED} if left else {}) | dict(none))


def _numbers(column: str, present: list[float], none: Mapping[str, str]) -> Hues:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize, to_hex

    shades = colormaps["viridis"]
    if len(present) <= NUMBERS:
        places = [0.9 * i / max(len(present) - 1, 1) for i in range(len(present))]
        colours: dict[Value, str] = {value: to_hex(shades(place)) for value, place in zip(present, places, strict=True)}
        return Hues(
            column, colours, {f"{column} {exact(float(v))}": shade for v, shade in colours.items()} | dict(none)
        )
    low, high = present[0], present[-1]
    scale = LogNorm(low, high) if low > 0 and high / low >= LOGARITHMIC else Normalize(low, high)
    found: dict[Value, str] = {value: to_hex(shades(float(scale(value)))) for value in present}
    return Hues(column, found, dict(none), ScalarMappable(scale, shades))
