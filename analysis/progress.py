"""How a study went: its hypervolume over trials and epochs, and what its scheduler stopped at which rung."""

from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from analysis.results import Results
from analysis.stored import Trial
from analysis.volumes import Scale, scale
from kdq.bits import FLOAT_BITS
from kdq.errors import UserError
from study.results.front import SeedGroup, content, front_shares
from study.results.status import TrialStatus
from study.schedulers.config import SchedulerConfig
from study.schedulers.registry import SCHEDULERS, stopping
from study.schedulers.scheduler import RungConfig
from study.tracking import schema

if TYPE_CHECKING:
    import pandas


def hypervolume_over_trials(studies: Sequence[Results]) -> "pandas.DataFrame":
    """Return the hypervolume after each finished trial: columns study, finished_trials (from 1), hypervolume.

    It is in percent of the reference model's, see `analysis.volumes`, of the configurations that the study compares in
    the end, each from when all its seeds have finished. So it never falls, and ends with the study's hypervolume.
    """
    import pandas

    rows = [
        {"study": each.name, "finished_trials": finished, "hypervolume": volume}
        for each in studies
        for finished, (_, volume) in enumerate(_growth(each, scale(studies)), 1)
    ]
    return pandas.DataFrame(rows, columns=["study", "finished_trials", "hypervolume"])


def hypervolume_over_epochs(studies: Sequence[Results]) -> "pandas.DataFrame":
    """Return the hypervolume by the epochs that all finished trials have trained: columns study, epochs, hypervolume.

    As `hypervolume_over_trials`, with a row for each finished trial, also for one that was stopped or failed.
    """
    import pandas

    rows = []
    for each in studies:
        grown = _growth(each, scale(studies))
        spent = accumulate(each.trainings[trial.id].epochs for trial, _ in grown)
        rows += [
            {"study": each.name, "epochs": epochs, "hypervolume": volume}
            for epochs, (_, volume) in zip(spent, grown, strict=True)
        ]
    return pandas.DataFrame(rows, columns=["study", "epochs", "hypervolume"])


def finished(results: Results) -> list[Trial]:
    """Return the trials that have ended, in the order of their ends."""
    ended = [trial for trial in results.trials if trial.status.has_ended and trial.ended is not None]
    return sorted(ended, key=lambda trial: (trial.ended or 0, trial.id))


def _growth(results: Results, named: Scale | None) -> list[tuple[Trial, float]]:
    """Return the finished trials in the order of their ends, each with the hypervolume after it."""
    ended = finished(results)
    place = {trial.id: number for number, trial in enumerate(ended)}
    measured: dict[object, int] = {}  # a point, which trials that share a student have in common -> its first trial
    for point in results.points:
        first = place.get(point.trial_id, len(ended))
        measured[content(point)] = min(first, measured.get(content(point), first))
    arriving: dict[int, list[SeedGroup]] = {}
    for group in results.groups:
        arriving.setdefault(max(measured[content(point)] for point in group.points), []).append(group)
    grown, best, volume = [], list[SeedGroup](), 0.0
    for number, trial in enumerate(ended):
        if named and number in arriving:
            best = [group for group, _ in front_shares([*best, *arriving[number]], named.sizes)]
            volume = named.percent(best)
        grown.append((trial, volume))
    return grown


def rungs(studies: Sequence[Results]) -> "pandas.DataFrame":
    """Return what every trial had at every rung that it reached: columns study, trial, rung, value, survived, final.

    rung: an epoch; value: the accuracy in percent after it that the scheduler compares, on validation images: of the
    float student, or the mean over its widths; final: the same of a completed trial's points, NaN of others. Raises
    UserError if a study has no scheduler that stops trials.
    """
    import pandas

    rows = [row for each in studies for row in _rung_rows(each)]
    return pandas.DataFrame(rows, columns=["study", "trial", "rung", "value", "survived", "final"])


def rung_summary(table: "pandas.DataFrame") -> list[dict[str, Any]]:
    """Return a row for each rung of `rungs`, with the rank correlation of its values with the final ones.

    trials: that reached it; stopped: there; completed: of the trials, those with a final value, of which the
    correlations are: kendall (τ_b, with ties) and spearman (ρ), None for fewer than three or constant values.
    """
    from scipy.stats import kendalltau, spearmanr

    found: list[dict[str, Any]] = []
    for (study, _), here in sorted(table.groupby(["study", "rung"]), key=itemgetter(0)):
        done = here.dropna(subset=["final"])
        rung, stopped = int(here["rung"].iloc[0]), int((~here["survived"]).sum())
        row = {"study": study, "rung": rung, "trials": len(here), "stopped": stopped}
        is_ranked = len(done) > 2 and done["value"].nunique() > 1 and done["final"].nunique() > 1
        ranks = {
            name: float(rank(done["value"], done["final"]).statistic) if is_ranked else None
            for name, rank in (("kendall", kendalltau), ("spearman", spearmanr))
        }
        found.append({**row, "completed": len(done), **ranks})
    return found


def _rung_rows(results: Results) -> list[dict[str, Any]]:
    levels, is_float = _levels(results)
    widths = [bits for bits in _PROBES if bits != FLOAT_BITS]
    metrics = ("val_top1",) if is_float else tuple(_PROBES[bits] for bits in widths)
    logged = results.store.epochs(results.study, metrics)
    rows = []
    for trial in results.trials:
        reached = [
            level for level in levels if _mean(logged[trial.id][name].get(level) for name in metrics) is not None
        ]
        for level in reached:
            lost = trial.status is TrialStatus.STOPPED and level == reached[-1]
            value = _mean(logged[trial.id][name].get(level) for name in metrics)
            accuracies = {b: a for b, a in trial.accuracies.items() if (b == FLOAT_BITS) == is_float}
            final = _mean(accuracies.values()) if trial.status is TrialStatus.COMPLETED else None
            row = {"study": results.name, "trial": trial.name or trial.id, "rung": level, "value": value}
            rows.append({**row, "survived": not lost, "final": final})
    return rows


_PROBES = {bits: schema.probe_metric(bits) for bits in (*range(1, 9), FLOAT_BITS)}


def _levels(results: Results) -> tuple[tuple[int, ...], bool]:
    """Return the rungs of a study's scheduler, and whether it compares float accuracies."""
    settings = results.study.document.get("settings", {}).get("space", {}).get("scheduler")
    epochs = results.study.workload.get("train", {}).get("epochs")
    if not settings or settings["name"] not in stopping() or not epochs:
        raise UserError(
            f"study {results.name!r} has no scheduler that stops trials, so it has no rungs: see --scheduler of a study"
        )
    config = SchedulerConfig(**settings)
    factor, first = config.reduction_factor, config.first_rung(epochs)
    return RungConfig(epochs, 1, first, factor).levels, SCHEDULERS[config.name].priority == "float"


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
