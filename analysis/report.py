"""The output of the command line, as text, CSV or JSON."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.record import StudyRecord
from analysis.replay import EQUAL_BUDGET, on_front
from analysis.store import Store, StoredStudy
from kdq.bits import bits_name
from study.results.front import SeedGroup, best, comparable, front_hypervolume, missing_seeds
from study.results.point import Point
from study.results.status import TrialStatus
from study.results.tables import as_table, as_text, front_table, to_csv, to_json
from study.units import exact

if TYPE_CHECKING:
    import pandas


def points_report(points: Iterable[Point], form: str) -> str:
    """Return every point. form: csv, json or table."""
    if form == "table":
        return as_text(as_table(points))
    return to_csv(points) if form == "csv" else to_json(points)


def front_report(study: StoredStudy, points: Iterable[Point], form: str, figure: Path | None) -> str:
    """Return the front and its hypervolume. form: csv (the front only), json or table."""
    points = list(points)
    table, volume = front_table(points), front_hypervolume(points)
    if form == "csv":
        return table.to_csv(index=False)
    if form == "json":
        return _json({"study": study.name, "hypervolume": volume, "front": _records(table)})
    lines = [
        as_text(table),
        f"hypervolume {volume:.2f} percent × octaves (reference 0 %, 2^30 bits; validation)",
        *filter(None, [missing_seeds(points)]),
    ]
    return "\n".join([*lines, *([f"figure {figure}"] if figure else [])])


def best_report(store: Store, study: StoredStudy, max_bits: float, form: str) -> str:
    """Return the configuration with the best validation accuracy within a budget. form: json or text."""
    points = store.points(study)
    chosen = best(points, max_bits)
    winner = max(chosen.points, key=lambda point: point.val_top1)
    document = {
        "study": study.name,
        "max_bits": max_bits,
        **chosen.row(),
        "points": [{"trial_id": p.trial_id, "seed": p.seed, "run_id": points[p]} for p in chosen.points],
        "artifacts": store.artifacts(points[winner]),
        "command": f"{study.command} {_flags(chosen)}" if study.command else None,
    }
    if form == "json":
        return _json(document)
    return "\n".join(filter(None, [_best_text(document, chosen), missing_seeds(points)]))


def _flags(chosen: SeedGroup) -> str:
    """Return the options that narrow the study's command to this configuration."""
    seeds = ",".join(str(seed) for seed in sorted(point.seed for point in chosen.points))
    fixed = [f"--set {setting}" for setting in _settings(chosen) if not setting.startswith("student=")]
    widths = [] if isinstance(chosen.bits, str) else [f"--bits {chosen.bits}"]  # no option names a mixed allocation
    return " ".join([f"--seeds {seeds}", *widths, *fixed])


def _settings(chosen: SeedGroup) -> list[str]:
    """Return the settings of a configuration, such as `alpha=0.5`."""
    parameters = {name: value for name, value in chosen.parameters.items() if name != "options"}
    settings = [f"{k}={v if isinstance(v, str) else exact(v)}" for k, v in parameters.items()]
    return settings + chosen.points[0].options.split()


def _best_text(document: Mapping[str, Any], chosen: SeedGroup) -> str:
    lines = {
        "configuration": " ".join(_settings(chosen)),
        "width": f"{bits_name(chosen.bits)}, {chosen.mean('avg_bits'):.2f} on average",
        "size": "{total_bits:,.0f} total bits, {packed_bytes:,.0f} bytes packed".format_map(document),
        "validation": _accuracy(chosen, "val_top1"),
        "test": _accuracy(chosen, "test_top1"),
        "trials": ", ".join(f"{point.trial_id} (seed {point.seed})" for point in chosen.points),
        "files": "\n               ".join(document["artifacts"]) or "none logged with the point",
        "command": document["command"] or "not logged by the study",
    }
    head = f"best of {document['study']} within {document['max_bits']:,.0f} total bits, chosen on validation"
    return "\n".join([head, *(f"{name:<15}{text}" for name, text in lines.items())])


def _accuracy(chosen: SeedGroup, column: str) -> str:
    deviation = chosen.deviation(column)
    spread = "one seed" if deviation is None else f"± {deviation:.2f} over {chosen.n} seeds"
    return f"{chosen.mean(column):.2f} % ({spread})"


def studies_report(store: Store, form: str) -> str:
    """Return one line per study. form: json or table."""
    import pandas

    rows = [_study_row(store, study) for study in store.studies()]
    if form == "json":
        return _json(rows)
    if not rows:
        return "no studies yet"
    return pandas.DataFrame(rows).to_string(index=False, na_rep="", float_format="{:.2f}".format)


def trials_report(store: Store, study: StoredStudy, form: str) -> str:
    """Return one line per trial: how it ended, and why. form: csv, json or table."""
    import pandas

    rows = store.trials(study)
    if form == "json":
        return _json(rows)
    if not rows:
        return "no trials yet"
    table = pandas.DataFrame(rows)
    return table.to_csv(index=False) if form == "csv" else table.to_string(index=False)


def replay_report(record: StudyRecord, table: "pandas.DataFrame", form: str, figure: Path | None) -> str:
    """Return what every strategy spent, found and lost on a record. form: csv, json or table."""
    if form == "csv":
        return table.to_csv(index=False)
    if form == "json":
        return _json(_records(table))
    best = on_front(record)
    lines = [
        f"{len(record.curves)} trials of {record.epochs} epochs, {len(best)} of them on the true front: "
        f"{_ranked(record)}; means ± deviations over {table['n'].iloc[0]} orders",
        "",
        _replay_table(table).to_string(index=False),
        "",
        "saved: % of the grid's epochs. front lost: % of the true front's trials that were not completed.",
        f"hypervolume: % × octaves (reference 0 %, 2^30 bits; validation), at the end and with {EQUAL_BUDGET:.0%} "
        f"of the grid's epochs.",
    ]
    return "\n".join([*lines, *([f"figure {figure}"] if figure else [])])


def _ranked(record: StudyRecord) -> str:
    """Return what the true front is made of."""
    if not record.configurations:
        return "of single trials as probed after the last epoch, since the record has no points"
    seeds = max(len(target.trials) for target in record.configurations)
    return "the study's own, of its points" + (f" averaged over {seeds} seeds" if seeds > 1 else "")


def _replay_table(table: "pandas.DataFrame") -> "pandas.DataFrame":
    import pandas

    named = {"epochs": "epochs", "saved": "saved", "front_lost": "front lost", "hypervolume": "hypervolume"}
    named["equal_budget"] = f"hypervolume at {EQUAL_BUDGET:.0%}"
    shown = {"strategy": table["strategy"]}
    for column, name in named.items():
        pairs = zip(table[column], table[f"{column}_std"], strict=True)
        shown[name] = pandas.Series([_spread(mean, deviation) for mean, deviation in pairs])
    return pandas.DataFrame(shown)


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.1f}" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def _study_row(store: Store, study: StoredStudy) -> dict[str, Any]:
    states, points = store.trial_states(study), store.points(study)
    return {
        "study": study.name,
        "state": study.status,
        "trials": states.total(),
        "completed": states[TrialStatus.COMPLETED],
        "points": len(points),
        "best_val_top1": max((group.mean("val_top1") for group in comparable(points)), default=None),
    }


def _records(table: "pandas.DataFrame") -> list[dict[str, Any]]:
    """Return the rows of a table without empty cells."""
    return [{str(name): value for name, value in row.dropna().items()} for _, row in table.astype(object).iterrows()]


def _json(document: object) -> str:
    return json.dumps(document, indent=2, allow_nan=False)
