"""The command `predict`: predictions as a table or as CSV."""

import csv
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from typing import TextIO

from rich.cells import cell_len

from kdq.errors import printable
from kdq.pack.file import load
from kdq.predict.classify import Prediction, Unreadable, predict_files
from kdq.predict.files import find_files

HEAD = ("file", "class", "probability", "next best", "")
CSV_HEAD = ("file", "class", "probability", "next_class", "next_probability")


def run(options: Namespace) -> int:
    """Print predictions, then a line for every unreadable file; return the exit status, 2 if there are any."""
    model = load(options.model, options.code)
    files, others = find_files(options.images)
    found = predict_files(model, files, resize=options.resize, size=options.image_size)
    unreadable: list[Unreadable] = []
    is_csv = options.format == "csv"
    if isinstance(sys.stdout, TextIOWrapper):  # names of files may be in any encoding, those of classes in any script
        encoding = ("utf-8", "surrogateescape") if is_csv else (None, "replace")
        sys.stdout.reconfigure(encoding=encoding[0], errors=encoding[1])
    (_write_csv if is_csv else _write_table)(_readable(found, unreadable), sys.stdout)
    if others:
        print(f"skipped: {others} other than image files in the folders, by their names", file=sys.stderr)
    for one in unreadable:
        print(f"error: {printable(str(one.file))}: {printable(one.reason)}", file=sys.stderr)
    return 2 if unreadable else 0


def _readable(found: Iterable[Prediction | Unreadable], unreadable: list[Unreadable]) -> Iterator[Prediction]:
    """Yield the predictions; the others are appended to `unreadable`."""
    for one in found:
        if isinstance(one, Unreadable):
            unreadable.append(one)
        else:
            yield one


def _write_csv(predictions: Iterable[Prediction], output: TextIO) -> None:
    """Write a row as soon as it is known, names byte for byte as they are."""
    rows = csv.writer(output, lineterminator="\n")
    rows.writerow(CSV_HEAD)
    for one in predictions:
        chance, second = (None if p is None else f"{p:.6f}" for p in (one.probability, one.next_probability))
        rows.writerow((one.file, one.class_name, chance, one.next_class, second))


def _write_table(predictions: Iterable[Prediction], output: TextIO) -> None:
    rows = [HEAD, *map(_row, predictions)]
    widths = [max(cell_len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows if len(rows) > 1 else ():
        cells = (text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True))
        output.write("  ".join(cells).rstrip() + "\n")


def _row(one: Prediction) -> tuple[str, ...]:
    second = () if one.next_class is None else (one.next_class, _percent(one.next_probability or 0.0))
    texts = (str(one.file), one.class_name, _percent(one.probability), *second)
    return tuple(map(printable, (*texts, *("",) * (len(HEAD) - len(texts)))))


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"
