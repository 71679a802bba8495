"""The formats of the command line: one report, printed as an aligned table, CSV, JSON, Markdown or LaTeX."""

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FORMATS = ("table", "csv", "json", "markdown", "latex")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """What a command prints. A cell is text, a number, a Boolean, or None (empty); text and numbers show as they are.

    rows: column -> cell, exact, for CSV and JSON; columns: of the rows, in order; display: the rows as people read
    them, by default the same, with the columns of the first; bold: cells of these to stress, as (row, column); head and
    notes: lines above and below a table; document: what JSON has, by default the rows without empty cells; empty: what
    is printed without rows; text: what the formats "text" and "html" have; formats: column -> how its numbers show, if
    not as usual.
    """

    columns: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    document: object = None
    empty: str = "nothing yet"
    text: str = ""
    head: str = ""
    display: Sequence[Row] = ()
    bold: Collection[tuple[int, str]] = ()
    formats: Mapping[str, str] = field(default_factory=dict)


def render(report: Report, form: str) -> str:
    """Return a report in one of `FORMATS`, or as its text if it has one (forms "text" and "html")."""
    return _RENDER[form](report)


def shown(name: str, value: object, formats: Mapping[str, str]) -> str:
    """Return a cell as text: accuracies with two decimals, sizes whole, parameters with the digits that they need."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:{formats.get(name) or _USUAL.get(name) or ('d' if isinstance(value, int) else '.2f')}}"


_USUAL = {
    **dict.fromkeys(("alpha", "beta", "temperature", "mixup_alpha"), "g"),
    **dict.fromkeys(("total_bits", "packed_bytes", "exported_bytes"), ",.0f"),
    **dict.fromkeys(("val_nll", "test_nll"), ".3f"),
}


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return rows without empty cells."""
    return [{name: value for name, value in row.items() if value is not None and value == value} for row in rows]


def to_json(document: object) -> str:
    """Return a document as JSON; infinite and missing numbers must not be in it."""
    return json.dumps(document, indent=2, allow_nan=False)


def _json(report: Report) -> str:
    return to_json(records(report.rows) if report.document is None else report.document)


def _csv(report: Report) -> str:
    """Return the rows with a header line; floats are exact, None and NaN are empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(report.columns)
    for row in report.rows:
        cells = [row.get(name) for name in report.columns]
        writer.writerow(["" if cell != cell else cell for cell in cells])
    return text.getvalue()


def _cells(report: Report, stress: str, escape: Callable[[str], str]) -> tuple[list[str], list[list[str]]]:
    """Return the columns that are not empty, and the cells of each row as text. stress: "**{}**", for example."""
    rows = report.display or report.rows
    columns = [name for name in _columns(report) if any(row.get(name) not in (None, "") for row in rows)]
    texts = []
    for number, row in enumerate(rows):
        cells = [(name, escape(shown(name, row.get(name), report.formats))) for name in columns]
        texts.append([stress.format(cell) if (number, name) in report.bold else cell for name, cell in cells])
    return columns, texts


def _columns(report: Report) -> Sequence[str]:
    return list(report.display[0]) if report.display else report.columns


def _kinds(report: Report, columns: Sequence[str], right: str, left: str) -> list[str]:
    """Return `right` for the columns of numbers, also with their deviations, and `left` for those of words."""
    rows = report.display or report.rows
    words = {
        name for row in rows for name in columns if isinstance(cell := row.get(name), str) and not _NUMBER.match(cell)
    }
    return [left if name in words else right for name in columns]


_NUMBER = re.compile(r"[-−+]?\d|$")


def _table(report: Report) -> str:
    columns, rows = _cells(report, "{} *", str)
    starred = {name for _, name in report.bold}
    for row in rows:  # a cell without a star keeps its place, so that numbers stay below each other
        row[:] = [
            cell if name not in starred or cell.endswith("*") else f"{cell}  "
            for name, cell in zip(columns, row, strict=True)
        ]
    lines = [columns, *rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    kinds = _kinds(report, columns, ">", "<")
    table = [
        " ".join(f"{cell:{kind}{width}}" for cell, kind, width in zip(line, kinds, widths, strict=True)).rstrip()
        for line in lines
    ]
    head = [report.head, ""] if report.head else []
    notes = ["", *report.notes] if report.notes else []
    return "\n".join([*head, *(table or [report.empty]), *notes])


def _text(report: Report) -> str:
    return report.text or _table(report)


def _markdown(report: Report) -> str:
    columns, rows = _cells(report, "**{}**", _escape_markdown)
    rules = _kinds(report, columns, "---:", "---")
    lines = ["| " + " | ".join(line) + " |" for line in (map(_escape_markdown, columns), rules, *rows)]
    table = "\n".join(lines) if rows else report.empty
    return "\n\n".join(
        [*map(_escape_markdown, filter(None, [report.head])), table, *map(_escape_markdown, report.notes)]
    )


def _escape_markdown(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|$#" else letter for letter in " ".join(text.split()))


def _latex(report: Report) -> str:
    """Return a tabular of the package booktabs; head and notes are comments above it."""
    columns, rows = _cells(report, "\\textbf{{{}}}", _escape_latex)
    comments = [f"% {line}" for note in (report.head, *report.notes) for line in textwrap.wrap(note, 110)]
    if not rows:
        return "\n".join([f"% {report.empty}", *comments])
    kinds = "".join(_kinds(report, columns, "r", "l"))
    lines = [" & ".join(line) + r" \\" for line in (map(_escape_latex, columns), *rows)]
    head = [*comments, f"\\begin{{tabular}}{{{kinds}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*head, *lines[1:], r"\bottomrule", r"\end{tabular}"])


_LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "×": r"$\times$", "−": "$-$", "<": "$<$", ">": "$>$", "…": r"\dots{}", "→": r"$\to$"},
}

_SIGN = re.compile(r"(?<![\w.])-(?=\d)")  # of a number, which LaTeX would print as a hyphen


def _escape_latex(text: str) -> str:
    signed = _SIGN.sub("−", " ".join(text.split()))
    return "".join(_LATEX.get(letter, letter) for letter in signed)


_RENDER: Mapping[str, Callable[[Report], str]] = {
    "text": _text,
    "html": _text,
    "table": _table,
    "csv": _csv,
    "json": _json,
    "markdown": _markdown,
    "latex": _latex,
}
