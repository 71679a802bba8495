"""`front`: the Pareto front of a study, or of several together, and its hypervolume."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, draw, figure, read_studies
from kdq.errors import UserError

if TYPE_CHECKING:
    from analysis.formats import Report
    from analysis.results import Results
    from study.results.front import SeedGroup

NAME, PURPOSE = "front", "print the Pareto front and its hypervolume; of several studies, the front of all together"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
TOGETHER = "all together"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)
    parser.add_argument("--figure", type=figure, metavar="FILE", help="draw the front in this .png, .svg or .pdf file")


def run(options: argparse.Namespace) -> "Report":
    from study.results.figure import draw_front

    studies = read_studies(options)
    if options.figure:
        if len(studies) > 1:
            raise UserError(f"--figure {options.figure}: draws one study; give one --study")
        title = f"{studies[0].name}: accuracy against total bits"
        draw(lambda: draw_front(studies[0].points, options.figure, title), options.figure)
    return _report(studies, options.figure)


def _report(studies: "Sequence[Results]", figure: Path | None) -> "Report":
    from dataclasses import asdict

    from analysis.formats import Report, records
    from analysis.volumes import scale
    from study.results.front import missing_seeds, on_front
    from study.results.tables import FRONT_COLUMNS

    several = ["study"] if len(studies) > 1 else []
    owned = [(each.name, group) for each in studies for group in each.groups]
    marks = on_front(group for _, group in owned)
    front = sorted((pair for pair, is_on in zip(owned, marks, strict=True) if is_on), key=_size)
    rows = [{**dict.fromkeys(several, name), **group.row()} for name, group in front]
    named = scale(studies)
    volumes = {each.name: named.percent(each.groups) if named else None for each in studies}
    if named and several:
        volumes[TOGETHER] = named.percent([group for _, group in owned])
    notes = []
    if named and several:
        notes = [f"hypervolume of {name}: {volume:.2f} %" for name, volume in volumes.items()]
        notes.append(f"hypervolume: {named.definition}")
    elif named:
        notes = [f"hypervolume {volumes[studies[0].name]:.2f} {named.definition}"]
    lines = {each.name: missing_seeds(each.points) for each in studies}
    notes += [f"{name}: {line}" if several else line for name, line in lines.items() if line]
    document = {
        "studies": [each.name for each in studies],
        "hypervolume": volumes,
        "scale": asdict(named) if named else None,
        "front": records(rows),
    }
    notes += [f"figure {figure}"] if figure else []
    return Report((*several, *FRONT_COLUMNS), rows, notes, document, "no points")


def _size(pair: "tuple[str, SeedGroup]") -> float:
    return pair[1].mean("total_bits")
