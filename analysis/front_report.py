"""The Pareto front of studies as a table, with their hypervolumes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from analysis.formats import Report, records
from analysis.results import Results, no_points
from analysis.volumes import common_objective, scale
from study.results.front import SeedGroup, missing_seeds, on_front
from study.results.tables import front_columns

TOGETHER = "all together"


def report(studies: Sequence[Results], figure: Path | None = None) -> Report:
    """Return the configurations on the front, smallest first. figure: the file it was drawn in, which a note names."""
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
    lines = {each.name: missing_seeds(each.points, each.study.seeds) for each in studies}
    notes += [f"{name}: {line}" if several else line for name, line in lines.items() if line]
    document = {
        "studies": [each.name for each in studies],
        "hypervolume": volumes,
        "scale": {"reference": asdict(named.reference), "sizes": named.sizes} if named else None,
        "front": records(rows),
    }
    notes += [f"figure {figure}"] if figure else []
    return Report((*several, *front_columns(common_objective(studies))), rows, notes, document, no_points(studies))


def _size(pair: tuple[str, SeedGroup]) -> float:
    return pair[1].mean("total_bits")
