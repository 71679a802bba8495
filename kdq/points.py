"""Points: what a study measures, how they are stored as text, and which of them are worth taking."""

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from kdq.errors import UserError
from kdq.methods import options
from kdq.pareto import front, hypervolume

if TYPE_CHECKING:
    import pandas

FLOAT_BITS = 32
BIT_WIDTHS = (*range(1, 9), FLOAT_BITS)
PARAMETERS = ("method", "alpha", "beta", "temperature", "mixup_alpha", "options", "student")

# 0 % and 2^30 bits (128 MiB, more than a float32 ResNet-50): the same for every study, so that all compare.
REFERENCE = (0.0, 30.0)


@dataclass(frozen=True, slots=True)
class Point:
    """One student at one bit allocation. The fields are the columns of a points table, in order.

    Accuracies are percent, `total_bits` counts everything stored, `bits` is 1 to 8, or 32 for float. A
    parameter that the method does not have is None. `options` names the parameters without a column that are
    not at their defaults, as in `handover=1 label_smoothing=0.1`. Raises ValueError for a value outside these.
    """

    trial_id: str
    method: str
    alpha: float | None
    beta: float | None
    temperature: float | None
    mixup_alpha: float | None
    seed: int
    student: str
    bits: int
    avg_bits: float
    total_bits: int
    packed_bytes: int
    val_top1: float
    test_top1: float
    on_front: bool = False
    options: str = ""

    def __post_init__(self) -> None:
        for name in ("trial_id", "method", "student", "options"):
            if not getattr(self, name).isprintable():
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be printable, on one line")
        if self.bits not in BIT_WIDTHS:
            raise ValueError(f"bits = {self.bits}: must be 1 to 8, or 32 for float")
        for name in ("avg_bits", "total_bits", "packed_bytes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: must be positive and finite")
        for name in ("val_top1", "test_top1"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} = {getattr(self, name)}: must be a percentage, 0 to 100")
        for name in ("alpha", "beta", "temperature", "mixup_alpha"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"{name} = {getattr(self, name)}: must be finite, or None")


COLUMNS = tuple(field.name for field in fields(Point))


@dataclass(frozen=True, slots=True)
class Configuration:
    """The points that differ in nothing but their seeds; accuracies and sizes are means over them."""

    points: tuple[Point, ...]

    @property
    def n(self) -> int:
        return len(self.points)

    @property
    def bits(self) -> int:
        return self.points[0].bits

    @property
    def on_front(self) -> bool:
        return self.points[0].on_front

    @property
    def parameters(self) -> dict[str, str | float]:
        """The active parameters by name: method, alpha, …, options, student."""
        values = {name: getattr(self.points[0], name) for name in PARAMETERS}
        return {name: value for name, value in values.items() if value not in (None, "")}

    def mean(self, column: str) -> float:
        """The mean of a numeric column over the seeds; exact sums, so the order of points is irrelevant."""
        return statistics.fmean(getattr(point, column) for point in self.points)

    def deviation(self, column: str) -> float | None:
        """The sample standard deviation of a column over the seeds; None for one seed."""
        return statistics.stdev(getattr(point, column) for point in self.points) if self.n > 1 else None

    def row(self) -> dict[str, Any]:
        """One row of a front table, without the inactive parameters."""
        row: dict[str, Any] = {**self.parameters, "bits": self.bits}
        row |= {name: self.mean(name) for name in ("avg_bits", "total_bits", "packed_bytes")}
        for name in ("val_top1", "test_top1"):
            row |= {name: self.mean(name), f"{name}_std": self.deviation(name)}
        return {**row, "n": self.n}


def configurations(points: Iterable[Point]) -> list[Configuration]:
    """The points grouped by all they were asked for except the seed, in order of first appearance.

    Points that are equal but for their trial are one (where bits are searched, trials share students and so their
    float points). Others that share the parameters, the bits *and* the seed differ in something that the columns
    do not show; they are no repetitions of each other, so each of such a group stands alone.
    """
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in {_content(point): point for point in points}.values():
        key = (*(getattr(point, name) for name in PARAMETERS), point.bits)
        groups.setdefault(key, []).append(point)
    return [configuration for group in groups.values() for configuration in _repetitions(group)]


def _content(point: Point) -> Point:
    return replace(point, trial_id="", on_front=False)


def _repetitions(group: Sequence[Point]) -> list[Configuration]:
    if len({point.seed for point in group}) == len(group):
        return [Configuration(tuple(group))]
    return [Configuration((point,)) for point in group]


def with_front(points: Iterable[Point]) -> list[Point]:
    """The same points in the same order, `on_front` decided on validation accuracy and total bits.

    The front is over configurations' means, so a lucky seed does not put its configuration there; all points
    of a configuration on the front are marked.
    """
    points = list(points)
    groups = configurations(points)
    on_front = front(_pairs(groups))
    chosen = {_content(p) for group, is_on in zip(groups, on_front, strict=True) if is_on for p in group.points}
    return [replace(point, on_front=_content(point) in chosen) for point in points]


def front_hypervolume(points: Iterable[Point]) -> float:
    """The hypervolume of the configurations' mean validation accuracies, in percent × octaves.

    Bits count on a log2 scale; the reference is `REFERENCE` for every study.
    """
    pairs = [(accuracy, math.log2(bits)) for accuracy, bits in _pairs(configurations(points))]
    return hypervolume(pairs, REFERENCE)


def _pairs(groups: Iterable[Configuration]) -> list[tuple[float, float]]:
    return [(group.mean("val_top1"), group.mean("total_bits")) for group in groups]


def best(points: Iterable[Point], max_bits: float) -> Configuration:
    """The configuration of the highest mean validation accuracy whose models all fit into `max_bits`.

    Ties go to the smaller one. Raises UserError if nothing fits.
    """
    sizes = {group: max(point.total_bits for point in group.points) for group in configurations(points)}
    fitting = [group for group, size in sizes.items() if size <= max_bits]
    if not fitting:
        smallest = f"the smallest has {min(sizes.values())}" if sizes else "there are no points at all"
        raise UserError(f"no point has at most {max_bits:.10g} total bits: {smallest}")
    return max(fitting, key=lambda group: (group.mean("val_top1"), -sizes[group]))


def as_table(points: Iterable[Point]) -> "pandas.DataFrame":
    """One row a point, the columns of `Point`; an inactive parameter is NaN, and no options are None."""
    return _table([asdict(point) for point in points], COLUMNS)


def front_table(points: Iterable[Point]) -> "pandas.DataFrame":
    """The configurations on the front, smallest first: parameters, means, deviations (`_std`), seeds `n`."""
    rows = [group.row() for group in configurations(with_front(points)) if group.on_front]
    return _table(sorted(rows, key=lambda row: float(row["total_bits"])), FRONT_COLUMNS)


FRONT_COLUMNS = (
    *PARAMETERS,
    *("bits", "avg_bits", "total_bits", "packed_bytes"),
    *("val_top1", "val_top1_std", "test_top1", "test_top1_std", "n"),
)


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> "pandas.DataFrame":
    import pandas

    optional = ("alpha", "beta", "temperature", "mixup_alpha", "val_top1_std", "test_top1_std")
    told = [{**row, "options": row.get("options") or None} for row in rows]
    table = pandas.DataFrame(told, columns=list(columns))
    return table.astype({name: float for name in optional if name in table})


def as_text(table: "pandas.DataFrame") -> str:
    """A table for the terminal: empty columns left out, sizes as whole numbers, accuracies to 0.01."""
    if table.empty:
        return "no points"
    shown = table.dropna(axis="columns", how="all")
    return shown.to_string(index=False, na_rep="", formatters=[_FORMATS.get(str(name), str) for name in shown])


_FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("alpha", "beta", "temperature", "mixup_alpha"), "{:g}".format),
    **dict.fromkeys(("total_bits", "packed_bytes"), "{:,.0f}".format),
    **dict.fromkeys(("avg_bits", "val_top1", "val_top1_std", "test_top1", "test_top1_std"), "{:.2f}".format),
}


def to_csv(points: Iterable[Point]) -> str:
    """The points as CSV with a header line; floats so that they come back bit for bit, None as nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(point, name) for name in COLUMNS] for point in points)
    return text.getvalue()


def from_csv(text: str) -> list[Point]:
    """The points of a CSV text. Raises UserError naming the line."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(f"header {reader.fieldnames}: a points table has the columns {', '.join(COLUMNS)}")
    points = []
    for row in reader:
        try:
            points.append(from_row(row))
        except UserError as error:
            raise UserError(f"line {reader.line_num}: {error}") from None
    return points


def to_json(points: Iterable[Point]) -> str:
    """The points as a JSON array of objects, one a line."""
    return "[" + ",\n ".join(json.dumps(asdict(point), allow_nan=False) for point in points) + "]"


def from_json(text: str) -> list[Point]:
    """The points of a JSON array. Raises UserError for what is not one."""
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError("not a points table: must be a JSON array of objects")
    return [from_row(row) for row in rows]


def from_row(row: Mapping[str, object]) -> Point:
    """A point from values by column name, as text or numbers.

    A parameter that is absent or empty is None. Without a value of that name, `options` is put together from the
    parameters that are among the other keys. Raises UserError naming the column that is missing or wrong.
    """
    values: dict[str, Any] = {}
    if row.get("options") is None:
        row = {**row, "options": _options(row)}
    for field in fields(Point):
        parse = _PARSERS[field.type]
        try:
            values[field.name] = parse(row.get(field.name))
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{field.name} = {row.get(field.name)!r}: must be {parse.__doc__}") from None
    try:
        return Point(**values)
    except ValueError as error:
        raise UserError(str(error)) from None


def _options(row: Mapping[str, object]) -> str:
    return " ".join(f"{name}={exact(value)}" for name, value in options(str(row.get("method")), row).items())


def exact(value: float) -> str:
    """A number as the shortest text that reads back as the same number."""
    return repr(float(value)).removesuffix(".0")


def _text(value: Any) -> str:
    """text"""
    if not isinstance(value, str):
        raise TypeError
    return value


def _integer(value: Any) -> int:
    """a whole number"""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    """a number"""
    return float(value)


def _optional(value: Any) -> float | None:
    """a number, or empty"""
    return None if value is None or value == "" else float(value)


def _boolean(value: Any) -> bool:
    """True or False"""
    if value not in (None, True, False, "True", "False"):
        raise ValueError
    return value is True or value == "True"


_PARSERS: dict[object, Callable[[Any], object]] = {
    str: _text,
    int: _integer,
    float: _float,
    float | None: _optional,
    bool: _boolean,
}
