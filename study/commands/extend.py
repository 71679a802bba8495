"""Extends a study to another space under the same name: whether it may, and which students are reused.

A trial's id is the digest of what it does, so trials that both spaces have are kept. The journal is replayed for
them, and its records of other trials are skipped. That is sound as long as no decision depended on those.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.errors import UserError
from study.control.journal import Journal, Left, Reported
from study.control.study_file import planned
from study.plan.plan import Plan, differences
from study.results.point import TEACHER
from study.searchers.optuna_searcher import population

MAY_CHANGE = ("seeds", "space.", "workload.train.epochs", "workload.train.milestones")
"""Prefixes of the settings that an extension may change; the others define the study."""


def check(study: str, before: Mapping[str, Any], now: Plan, *, extend: bool) -> None:
    """Raise UserError if a study's settings changed and it is not, or cannot be, extended. before: its document."""
    changed = differences(before, now.document())
    if not changed:
        return
    if versions := [line for key, line in changed.items() if key.startswith("versions.")]:
        raise UserError(
            f"study {study!r} was started by another version of this program ({'; '.join(versions)}), and results of "
            f"different versions are not comparable: choose another --name, which reuses stages of the same version"
        )
    exists = f"study {study!r} exists with other settings: {'; '.join(changed.values())}"
    others = "choose another --name, which reuses finished results, or restore the former settings"
    if why := _obstacle(before, now, changed):
        raise UserError(f"{exists}; {why}: {others}")
    if not extend:
        raise UserError(f"{exists}; give --extend to keep common trials and run the rest; or {others}")


def check_retry(study: str, journal: Journal) -> None:
    """Raise UserError if a study whose failed trials are to be retried has run none."""
    if not journal.path.exists():
        raise UserError(f"study {study!r} has run no trial here: omit --retry-failed, or fix --name")


def _obstacle(before: Mapping[str, Any], now: Plan, changed: Collection[str]) -> str:
    """Return why a study cannot be extended, or an empty text."""
    scheduler, kind = now.space.scheduler.name, now.space.scheduler.kind
    if fixed := [key for key in changed if not key.startswith(MAY_CHANGE)]:
        return f"an extension cannot change {', '.join(fixed)}"
    if any(key.startswith("space.scheduler") for key in changed):
        return "it cannot be extended, since another scheduler decided which of its trials to stop"
    if kind.promotion == "synchronous":
        return (
            f"it cannot be extended, since {scheduler} decides each rung once, and would stop later trials uncompared"
        )
    if kind.promotion and now.space.scheduler.by == "configuration" and "seeds" in changed:
        return f"it cannot be extended to other seeds, since {scheduler} compares configurations by all their seeds"
    return _obstacle_of_searcher(before["space"], now, changed) if now.is_adaptive else ""


def _obstacle_of_searcher(space: Mapping[str, Any], now: Plan, changed: Collection[str]) -> str:
    """Return why an adaptive searcher cannot continue: its history is that of its space, so only `trials` may grow."""
    searcher, trials, before = now.space.searcher, now.space.trials or 0, space["trials"]
    if others := [key for key in changed if key != "space.trials"]:
        return f"it cannot be extended, since {searcher} would have proposed other trials with another {others[0]}"
    if trials < before:
        return f"it cannot be extended to fewer trials, since {searcher} may already have proposed {before}"
    if searcher == "nsga2" and population(trials) != population(before):
        return (
            f"it cannot be extended this far, since nsga2 would have used generations of {population(trials)} instead "
            f"of {population(before)}"
        )
    return ""


def check_rungs(study: str, journal: Journal, trials: Collection[str]) -> None:
    """Raise UserError unless the extended study has all trials that its scheduler compared."""
    compared = {record.trial for record in journal.read() if isinstance(record, Reported | Left)}
    if missing := compared - set(trials):
        raise UserError(
            f"study {study!r} cannot be extended: the new space lacks {len(missing)} of the trials that its scheduler "
            f"has compared; keep everything that the former space had, or choose another --name"
        )


def lengthened(before: Mapping[str, Any], now: Plan) -> list[str]:
    """Return lines that list which students are resumed or retrained if the number of epochs changed."""
    train, old = now.workload.train, planned(before).workload.train
    if train.epochs == old.epochs:
        return []
    students = {c.student: MethodConfig(c.method, c.parameters) for c in now.configurations if c.method != TEACHER}
    fates = Counter(_fate(old, train, method) for method in students.values())
    return [
        f"epochs {old.epochs} -> {train.epochs}: {count} of {len(students)} student configurations {fate}"
        for fate, count in fates.items()
    ]


def _fate(old: TrainConfig, now: TrainConfig, method: MethodConfig) -> str:
    retrained = "are retrained, since"
    if now.looks_ahead:
        return f"{retrained} the schedule {now.schedule!r} differs from the first epoch on (`step` would not)"
    if method.looks_ahead:
        return f"{retrained} {method.method.by_share} of {method.name} is a share of the training (unless it is 0)"
    if now.epochs < old.epochs:
        return f"{retrained} a finished training cannot be shortened"
    if now.start(old.epochs) != old.start(old.epochs):
        return f"{retrained} the milestones are at other epochs (--set train.milestones gives their shares)"
    return f"are resumed from epoch {old.epochs}"
