"""A study under its old name with another space: what can be kept of it, and what its trials are now.

Trials are what they do, so those that both spaces have are kept as they are; the journal is replayed for them, and
what it says of others is passed over. That is sound as long as no decision depended on those others.
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
from study.searchers.optuna_searcher import population
from study.space.declaration import TEACHER

MAY_CHANGE = ("seeds", "space.", "workload.train.epochs", "workload.train.milestones")
"""Settings that may differ under one name, by how their keys begin; all others are what makes its trials one study."""


def check(study: str, before: Mapping[str, Any], now: Plan, *, extend: bool) -> None:
    """Raise UserError if a study is not what it was, unless it is to be extended and can be; before: its document."""
    changed = differences(before, now.document())
    if not changed:
        return
    if versions := [line for key, line in changed.items() if key.startswith("versions.")]:
        raise UserError(
            f"study {study!r} was begun by another version of this program ({'; '.join(versions)}), and results of "
            f"different versions are not comparable: choose another --name, where stages of the same version are used "
            f"again"
        )
    told = f"study {study!r} exists with other settings: {'; '.join(changed.values())}"
    others = "choose another --name, where what is finished is used again, or give the settings that it had"
    if why := _obstacle(before, now, changed):
        raise UserError(f"{told}; {why}: {others}")
    if not extend:
        raise UserError(f"{told}; give --extend to keep what is common and run the rest; or {others}")


def _obstacle(before: Mapping[str, Any], now: Plan, changed: Collection[str]) -> str:
    """Why a study cannot be extended, or nothing."""
    scheduler = now.space.scheduler.name
    if fixed := [key for key in changed if not key.startswith(MAY_CHANGE)]:
        return f"a study cannot be extended to other {', '.join(fixed)}"
    if any(key.startswith("space.scheduler") for key in changed):
        return "it cannot be extended, since its trials went on or were stopped by another scheduler"
    if now.space.scheduler.kind.promotion == "synchronous":
        return f"it cannot be extended, since {scheduler} decides a rung once, and would stop what comes later unheard"
    return _obstacle_of_searcher(before["space"], now, changed) if now.is_adaptive else ""


def _obstacle_of_searcher(space: Mapping[str, Any], now: Plan, changed: Collection[str]) -> str:
    """An adaptive searcher's history is that of its space: it can go on for longer, and nothing else."""
    searcher, trials, before = now.space.searcher, now.space.trials or 0, space["trials"]
    if others := [key for key in changed if key != "space.trials"]:
        return f"it cannot be extended, since {searcher} would have proposed other trials under other {others[0]}"
    if trials < before:
        return f"it cannot be extended to fewer trials, since {searcher} may have proposed {before} already"
    if searcher == "nsga2" and population(trials) != population(before):
        return (
            f"it cannot be extended so far, since nsga2 would have bred generations of {population(trials)} instead "
            f"of {population(before)}"
        )
    return ""


def check_rungs(study: str, journal: Journal, trials: Collection[str]) -> None:
    """Raise UserError if trials that others were compared with are not among those of the extended study."""
    compared = {record.trial for record in journal.read() if isinstance(record, Reported | Left)}
    if gone := compared - set(trials):
        raise UserError(
            f"study {study!r} cannot be extended: {len(gone)} of the trials that its scheduler has compared others "
            f"with would not be in it any more; keep all that its space had, or choose another --name"
        )


def lengthened(before: Mapping[str, Any], now: Plan) -> list[str]:
    """What becomes of the students of a study whose trainings have another length now."""
    train, old = now.workload.train, planned(before).workload.train
    if train.epochs == old.epochs:
        return []
    students = {c.student: MethodConfig(c.method, c.parameters) for c in now.configurations if c.method != TEACHER}
    fates = Counter(_fate(old, train, method) for method in students.values())
    return [
        f"epochs {old.epochs} -> {train.epochs}: {count} of {len(students)} kinds of students {fate}"
        for fate, count in fates.items()
    ]


def _fate(old: TrainConfig, now: TrainConfig, method: MethodConfig) -> str:
    anew = "are trained anew, since"
    if now.looks_ahead:
        return f"{anew} the schedule {now.schedule!r} differs from the first epoch on (`step` would not)"
    if method.looks_ahead:
        return (
            f"{anew} {method.method.by_share} of {method.name} is a share of the training (with 0 it would not matter)"
        )
    if now.epochs < old.epochs:
        return f"{anew} what is trained cannot be made shorter"
    if now.start(old.epochs) != old.start(old.epochs):
        return f"{anew} the milestones are at other epochs now (--set train.milestones says at which shares)"
    return f"go on from epoch {old.epochs}"
