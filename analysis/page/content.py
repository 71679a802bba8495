"""What the page shows, as plain data: for the pictures as columns, for the reader as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.answer import Answer, Budget, Rival, answer
from analysis.answer_report import command, report
from analysis.formats import Report
from analysis.method_report import report as method_report
from analysis.progress import hypervolume_over_trials, rungs
from analysis.results import Results, label, settings
from analysis.stored import Trial
from analysis.volumes import scale
from kdq.bits import bits_name, display_order
from kdq.errors import UserError
from study.results.compare import Interval, accuracy
from study.results.front import SeedGroup, largest
from study.results.status import TrialStatus

Json = Any
STEPS = 40  # budgets at most that the picker offers for a study
ALIKE = 12  # configurations at most that it lists as no different from the best


@dataclass(frozen=True)
class Section:
    """A table with a title and a line on what it shows."""

    title: str
    purpose: str
    report: Report


def data(studies: Sequence[Results]) -> dict[str, Json]:
    """Return what the pictures draw; a list has an entry for each trial, point or configuration."""
    named = scale(studies)
    return {
        "studies": [_study(each) for each in studies],
        "trials": _columns([_trial(n, each, trial) for n, each in enumerate(studies) for trial in each.trials]),
        "groups": _columns([_group(n, each, group) for n, each in enumerate(studies) for group in each.groups]),
        "points": _columns([_point(n, each, point) for n, each in enumerate(studies) for point in each.points]),
        "parameters": _parameters(studies),
        "growth": _frame(hypervolume_over_trials(studies)),
        "scale": named.definition if named else "",
        "rungs": _rungs(studies),
    }


def sections(studies: Sequence[Results]) -> list[Section]:
    """Return the tables below the pictures."""
    found = [
        Section(
            "Methods and widths",
            "The best configuration of each method at each width.",
            method_report(studies, "method", "bits", "val", None),
        ),
        Section("Hypervolume", "How much of the area under a lossless model each study covers.", _volumes(studies)),
        Section(
            "What failed, and why", "Trials that ended without a result, or before the last epoch.", _failed(studies)
        ),
        Section("Provenance", "What made these numbers.", _provenance(studies)),
    ]
    return [section for section in found if section.report.rows]


def headline(results: Results) -> str:
    """Return the answer of a study without a limit of bits, as `analysis best` prints it; why not, if there is none."""
    try:
        budget = Budget(max_bits=_largest_budget(results))
        return report(results, budget, answer(results, budget)).text
    except UserError as error:
        return str(error)


def _largest_budget(results: Results) -> float:
    return max((largest(group, "total_bits") for group in results.groups), default=1)


def _study(results: Results) -> dict[str, Json]:
    return {"name": results.name, "teacher": results.study.teacher, "answers": _answers(results)}


def _answers(results: Results) -> list[Json]:
    """Return the answer at each budget that the picker offers: at every size, or at those of the front if too many."""
    index = {group: n for n, group in enumerate(results.groups)}
    sizes = sorted({largest(group, "total_bits") for group in results.groups})
    if len(sizes) > STEPS:
        sizes = sorted({largest(group, "total_bits") for group in results.groups if group.on_front})
    return [_answer(results, index, size, answer(results, Budget(max_bits=size))) for size in sizes[:STEPS]]


def _answer(results: Results, index: Mapping[SeedGroup, int], size: int, found: Answer) -> Json:
    chosen = found.recommended
    return {
        "bits": size,
        "best": index[found.best],
        "interval": _ends(found.accuracy),
        "runner_up": _rival(index, found.runner_up) if found.runner_up else None,
        "compared": len(found.rivals),
        "alike": len(found.alike),
        "listed": [_rival(index, each) for each in found.alike[:ALIKE]],
        "recommended": index[chosen] if chosen else None,
        "command": command(results, found.best),
        "recommended_command": command(results, chosen) if chosen else None,
    }


def _rival(index: Mapping[SeedGroup, int], rival: Rival) -> Json:
    return {"group": index[rival.group], "difference": _ends(rival.difference)}


def _ends(interval: Interval | None) -> Json:
    return None if interval is None else [_short(value) for value in (interval.value, interval.low, interval.high)]


def _trial(study: int, results: Results, trial: Trial) -> dict[str, Json]:
    epochs, seconds = results.trainings[trial.id]
    widths = {f"val_{bits}": _short(value) for bits, value in trial.accuracies.items()}
    ends = {"id": trial.id, "name": trial.name, "status": str(trial.status), "reason": trial.reason}
    own = {f"p_{name}": _number(value) for name, value in trial.parameters.items() if name in _PARAMETERS}
    return {"study": study, **ends, "seed": trial.seed, "epochs": epochs, "seconds": round(seconds, 1), **own, **widths}


_PARAMETERS = ("method", "alpha", "beta", "temperature", "mixup_alpha", "student")


def _group(study: int, results: Results, group: SeedGroup) -> dict[str, Json]:
    sample = results.sample(group)
    own = accuracy(sample, results.noise) if sample is not None else None
    parameters = {f"p_{name}": value for name, value in group.parameters.items() if name != "options"}
    return {
        "study": study,
        "label": label(group),
        "short": " ".join(each for each in settings(group) if not each.startswith("student=")).removeprefix("method="),
        "bits": bits_name(group.bits),
        "size": largest(group, "total_bits"),
        "bytes": largest(group, "packed_bytes"),
        "val": _short(group.mean("val_top1")),
        "low": _short(own.low) if own else None,
        "high": _short(own.high) if own else None,
        "test": _short(group.mean("test_top1")),
        "n": group.n,
        "front": int(group.on_front),
        "trials": [point.trial_id for point in group.points],
        **parameters,
    }


def _point(study: int, results: Results, point: Any) -> dict[str, Json]:
    sizes = {"bits": bits_name(point.bits), "size": point.total_bits}
    return {"study": study, "trial": point.trial_id, **sizes, "val": _short(point.val_top1), "seed": point.seed}


def _short(value: float) -> float:
    return round(value, 3)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _columns(rows: Sequence[Mapping[str, Json]]) -> dict[str, list[Json]]:
    """Return column -> values; a name that all rows share is not repeated for each."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _parameters(studies: Sequence[Results]) -> list[str]:
    """Return the parameters, the method included, that differ between configurations."""
    values: dict[str, set[object]] = {name: set() for name in _PARAMETERS}
    for group in (group for each in studies for group in each.groups):
        for name, found in values.items():
            found.add(group.parameters.get(name))
    return [name for name, found in values.items() if len(found) > 1]


def _frame(frame: Any) -> dict[str, list[Json]]:
    return {str(name): [_plain(value) for value in frame[name].tolist()] for name in frame}


def _plain(value: Json) -> Json:
    return None if value != value else _short(value) if isinstance(value, float) else value


def _rungs(studies: Sequence[Results]) -> dict[str, list[Json]]:
    stopping = [each for each in studies if _has_rungs(each)]
    return _frame(rungs(stopping)) if stopping else {}


def _has_rungs(results: Results) -> bool:
    try:
        rungs([results])
    except UserError:
        return False
    return True


def _volumes(studies: Sequence[Results]) -> Report:
    named = scale(studies)
    rows = [{"study": each.name, "hypervolume": named.percent(each.groups)} for each in studies] if named else []
    return Report(("study", "hypervolume"), rows, [named.definition] if named else [])


def _failed(studies: Sequence[Results]) -> Report:
    rows = [
        {"study": each.name, "trial": trial.name, "status": str(trial.status), "reason": trial.reason}
        for each in studies
        for trial in each.trials
        if trial.status is not TrialStatus.COMPLETED
    ]
    return Report(("study", "trial", "status", "reason"), rows)


def _provenance(studies: Sequence[Results]) -> Report:
    rows = []
    for each in studies:
        inputs = each.study.document.get("inputs", {})
        facts = {
            "command": each.study.command,
            "state": str(each.study.status),
            "data": each.study.workload.get("dataset"),
            "data fingerprint": inputs.get("data"),
            **each.store.provenance(each.study),
        }
        rows += [{"study": each.name, "what": what, "value": value} for what, value in facts.items() if value]
    return Report(("study", "what", "value"), rows)


def widths(studies: Sequence[Results]) -> list[int]:
    """Return the widths at which trials were measured."""
    return sorted({bits for each in studies for trial in each.trials for bits in trial.accuracies}, key=display_order)
