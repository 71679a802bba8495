"""Points and fronts as tables, CSV, JSON and text."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdq.errors import UserError
from study.results.front import seed_groups, with_front
from study.results.objective import OBJECTIVES, TOP1, Objective
from study.results.point import COLUMNS, METRICS, PARAMETERS, Point, from_row

if TYPE_CHECKING:
    import pandas


def as_table(points: Iterable[Point]) -> "pandas.DataFrame":
    """Return a row for each point, with the columns of `Point`; inactive parameters are NaN, empty options None."""
    return _table([point.row() for point in points], COLUMNS)


def front_table(points: Iterable[Point]) -> "pandas.DataFrame":
    """Return the configurations on the front, smallest first: parameters, means, deviations (`_std`), seeds `n`.

    The study's objective is before the accuracies, if it is another metric.
    """
    front = [group for group in seed_groups(with_front(points)) if group.on_front]
    columns = front_columns(front[0].decides if front else OBJECTIVES[TOP1])
    return _table(sorted((group.row() for group in front), key=lambda row: float(row["total_bits"])), columns)


def front_columns(decides: Objective) -> tuple[str, ...]:
    """Return the columns of a front table of a study with this objective."""
    measures = dict.fromkeys((decides.column, decides.test_column, "val_top1", "test_top1"))
    means = (name for each in measures for name in (each, f"{each}_std"))
    return (*PARAMETERS, "bits", "avg_bits", "total_bits", "packed_bytes", *means, "n")


DEVIATIONS = tuple(f"{name}_std" for name in ("val_top1", "test_top1", *METRICS))


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> "pandas.DataFrame":
    import pandas

    optional = ("alpha", "beta", "temperature", "mixup_alpha", *METRICS, *DEVIATIONS)
    filled = [{**row, "options": row.get("options") or None} for row in rows]
    table = pandas.DataFrame(filled, columns=list(columns))
    return table.astype({name: float for name in optional if name in table})


def as_text(table: "pandas.DataFrame") -> str:
    """Return a table for the terminal, without empty columns; sizes are whole numbers, accuracies have two decimals."""
    if table.empty:
        return "no points"
    shown = table.dropna(axis="columns", how="all")
    return shown.to_string(index=False, na_rep="", formatters=[_FORMATS.get(str(name), str) for name in shown])


_FORMATS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("alpha", "beta", "temperature", "mixup_alpha"), "{:g}".format),
    **dict.fromkeys(("total_bits", "packed_bytes"), "{:,.0f}".format),
    **dict.fromkeys(("avg_bits", "val_top1", "test_top1"), "{:.2f}".format),
    **dict.fromkeys((*METRICS, *DEVIATIONS), "{:.2f}".format),
    **dict.fromkeys(("val_nll", "test_nll", "val_nll_std", "test_nll_std"), "{:.3f}".format),
}


def to_csv(points: Iterable[Point]) -> str:
    """Return the points as CSV with a header line; floats are exact, None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(point.row().values() for point in points)
    return text.getvalue()


def from_csv(text: str) -> list[Point]:
    """Return the points of a CSV text; one of an earlier version may lack METRICS. Raises UserError for an error."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(reader.fieldnames or ()) not in (COLUMNS, COLUMNS[: -len(METRICS)]):
        raise UserError(f"header {reader.fieldnames}: a points table has the columns {', '.join(COLUMNS)}")
    points = []
    for row in reader:
        try:
            points.append(from_row(row))
        except UserError as error:
            raise UserError(f"line {reader.line_num}: {error}") from None
    return points


def to_json(points: Iterable[Point]) -> str:
    """Return the points as a JSON array of objects, one per line."""
    return "[" + ",\n ".join(json.dumps(point.row(), allow_nan=False) for point in points) + "]"
