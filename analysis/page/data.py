"""What the pictures draw, as columns of JSON: trials, configurations, and what was measured at each width."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis.importance import HYPERVOLUME, evaluator_for, importances
from analysis.page.answers import answers
from analysis.progress import finished, hypervolume_over_trials
from analysis.results import Results, label
from analysis.stored import Trial
from analysis.volumes import common_objective, scale
from kdq.bits import Bits, bits_name, display_order
from study.results.front import SeedGroup, largest, seed_groups
from study.results.objective import TOP1, Objective

Json = Any
Columns = Mapping[str, Sequence[Json]]
Key = tuple[int, str, tuple[int, ...]]  # of a configuration: the numbers of its study and its trials, its label


def data(studies: Sequence[Results], rungs: Columns) -> dict[str, Json]:
    """Return what the pictures draw. rungs: the columns of `analysis.progress.rungs`, empty without any.

    Tables refer to rows of others by their numbers. `measured` has a row for each configuration at each of `widths`,
    empty if it was not measured; `shared` has the accuracies of trials that are in no configuration, since another
    trial has the same student.
    """
    widths = sorted({point.bits for each in studies for point in each.points}, key=display_order)
    trials = [(n, trial) for n, each in enumerate(studies) for trial in each.trials]
    numbers = {(n, trial.id): number for number, (n, trial) in enumerate(trials)}
    groups = _groups(studies, numbers)
    rows = {(key, bits): k * len(widths) + w for k, key in enumerate(groups) for w, bits in enumerate(widths)}
    places = [
        {group: rows[key, bits] for key, own in groups.items() for bits, group in own.items() if key[0] == n}
        for n in range(len(studies))
    ]
    named = scale(studies)
    return {
        "studies": [
            {"name": each.name, "teacher": _teacher(each), **answers(each, own)}
            for each, own in zip(studies, places, strict=True)
        ],
        "objective": _objective(common_objective(studies)),
        "widths": [bits_name(bits) for bits in widths],
        "settings": (settings := _settings(studies)),
        "trials": _columns(_trial(n, trial, settings) for n, trial in trials),
        "configurations": _columns({"study": n, "label": name, "trials": own} for n, name, own in groups),
        "measured": _columns(
            _measured(studies[key[0]], own.get(bits)) for key, own in groups.items() for bits in widths
        ),
        "shared": _columns(_shared(studies, numbers, groups, widths)),
        "growth": _columns(_growth(studies, numbers)),
        "scale": named.definition if named else "",
        "rungs": _rungs(rungs, studies, trials),
        **_importance(studies),
    }


def _objective(decides: Objective) -> dict[str, Json]:
    own = {"title": decides.title, "unit": decides.unit, "digits": decides.decimals, "steps": decides.steps}
    return {**own, "higher": decides.is_higher_better, "resolution": decides.resolution}


def _teacher(results: Results) -> float | None:
    """Return the teacher's value of the objective, which is known if that is the accuracy."""
    return results.study.teacher if results.decides.name == TOP1 else None


def _groups(studies: Sequence[Results], numbers: Mapping[tuple[int, str], int]) -> dict[Key, dict[Bits, SeedGroup]]:
    """Return the configurations, also those with fewer seeds than others: what was measured at each width."""
    found: dict[Key, dict[Bits, SeedGroup]] = {}
    for n, each in enumerate(studies):
        for group in seed_groups(each.points):
            points = sorted(group.points, key=lambda point: point.seed)
            key = n, label(group), tuple(numbers[n, point.trial_id] for point in points)
            found.setdefault(key, {})[group.bits] = group
    return found


def _settings(studies: Sequence[Results]) -> list[str]:
    """Return the parameters of which trials have several values, the method first."""
    values: dict[str, set[object]] = {"method": set()}
    trials = [trial for each in studies for trial in each.trials]
    for name in dict.fromkeys(name for trial in trials for name in trial.parameters):
        values[name] = {trial.parameters[name] for trial in trials if trial.parameters.get(name)}
    return [name for name, found in values.items() if len(found) > 1]


def _trial(study: int, trial: Trial, settings: Iterable[str]) -> dict[str, Json]:
    own = {f"p_{name}": trial.parameters.get(name) for name in ("method", *settings)}
    ends = {"name": trial.name or trial.id, "status": trial.status.replace("_", " ")}
    return {"study": study, **ends, "seed": trial.seed, **own}


def _measured(results: Results, group: SeedGroup | None) -> dict[str, Json]:
    if group is None:
        return {"size": None}
    own = results.interval(group)
    points = sorted(group.points, key=lambda point: point.seed)
    digits = group.decides.decimals
    return {
        "size": largest(group, "total_bits"),
        "bytes": largest(group, "packed_bytes"),
        "val": round(group.value, digits),
        "test": round(group.mean(group.decides.test_column), digits),
        "low": round(own.low, digits) if own else None,
        "high": round(own.high, digits) if own else None,
        "front": int(group.on_front),
        "lacks": int(group.n < results.groups[0].n),  # seeds, so that it is not compared
        "seeds": [round(point.value, digits) for point in points] if group.n > 1 else None,
    }


def _shared(
    studies: Sequence[Results],
    numbers: Mapping[tuple[int, str], int],
    groups: Mapping[Key, Mapping[Bits, SeedGroup]],
    widths: Sequence[Bits],
) -> Iterable[dict[str, Json]]:
    known = {(trial, bits) for key, own in groups.items() for bits in own for trial in key[2]}
    for n, each in enumerate(studies):
        for point in each.points:
            trial = numbers[n, point.trial_id]
            if (trial, point.bits) not in known:
                yield {
                    "trial": trial,
                    "width": widths.index(point.bits),
                    "val": round(point.value, each.decides.decimals),
                }


def _growth(studies: Sequence[Results], numbers: Mapping[tuple[int, str], int]) -> Iterable[dict[str, Json]]:
    """Yield the trials in the order of their ends, each with the hypervolume of its study after it."""
    volumes = hypervolume_over_trials(studies)["hypervolume"].tolist()
    order = [(n, numbers[n, trial.id]) for n, each in enumerate(studies) for trial in finished(each)]
    for (study, trial), volume in zip(order, volumes, strict=True):
        yield {"study": study, "trial": trial, "hypervolume": round(volume, 3)}


def _rungs(rungs: Columns, studies: Sequence[Results], trials: Sequence[tuple[int, Trial]]) -> Columns:
    if not rungs:
        return {}
    names = {(studies[n].name, trial.name or trial.id): number for number, (n, trial) in enumerate(trials)}
    own = [names[key] for key in zip(rungs["study"], rungs["trial"], strict=True)]
    values = [round(value, 2) for value in rungs["value"]]
    survived = [int(value) for value in rungs["survived"]]
    return {"trial": own, "rung": _coded(rungs["rung"]), "value": values, "survived": survived}


def _importance(studies: Sequence[Results]) -> dict[str, Json]:
    """Return the importances, and a line on what they are; of large studies by a faster evaluator."""
    evaluator = evaluator_for(studies)
    rows = [
        {
            "study": n,
            "measure": bits_name(each.bits) if each.bits != HYPERVOLUME else HYPERVOLUME,
            "parameter": each.parameter,
            "within": each.within,
            "importance": round(float(each.importance), 3),
        }
        for n, results in enumerate(studies)
        for each in importances([results], evaluator)
    ]
    line = (
        f"Share of what varies that a parameter explains (Optuna, see analysis importance --evaluator {evaluator}). In "
        f"parentheses: the methods that have the parameter, among whose trials it is measured."
    )
    return {"importance": _columns(rows), "evaluator": line}


def _columns(rows: Iterable[Mapping[str, Json]]) -> dict[str, Json]:
    """Return name -> values, without names of which there are none; a value that rows do not have is None."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: _coded(values) for name, values in columns.items() if set(map(type, values)) != {type(None)}}


def _coded(values: Sequence[Json]) -> Json:
    """Return values that repeat as `levels` and their numbers, if that is shorter, else as they are."""
    if any(isinstance(value, list | tuple) for value in values):
        return list(values)
    counts = Counter(values)
    plain = sum(len(repr(value)) * count for value, count in counts.items())
    coded = sum(len(repr(value)) + len(str(n)) * count for n, (value, count) in enumerate(counts.items()))
    if plain <= coded + 24:
        return list(values)
    codes = {value: n for n, value in enumerate(counts)}
    return {"levels": list(counts), "codes": [codes[value] for value in values]}
