"""Checks of a space as a whole: contradicting conditions, values that a method rejects, searches without an end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from math import inf, prod
from typing import TYPE_CHECKING

from kdq.bits import FLOAT_BITS
from kdq.distill.methods import METHODS
from kdq.params import Interval, Switch
from study.results.objective import TOP1
from study.results.point import TEACHER
from study.schedulers.registry import SCHEDULERS, SchedulerKind, stopping
from study.space.declaration import METHOD, WHEN, Declaration, Value
from study.space.documents import Problems
from study.space.domains import Domain, Listed, Reals
from study.space.space import LARGEST
from study.units import show

if TYPE_CHECKING:
    from study.space.space import Space

Params = Mapping[str, tuple[Declaration, ...]]
DECIDABLE = 100_000  # combinations of values that conditions may depend on
DECISIONS = 2_000_000  # such combinations times declarations


def in_order(params: Params, problems: Problems) -> dict[str, tuple[Declaration, ...]]:
    """Return the parameters, each after those that its conditions depend on, otherwise as in the file.

    A parameter that depends on itself, on a range or on an invalid parameter is reported and left out.
    """
    waiting = dict(params)
    for cycle in _cycles(waiting):
        path = f"params.{cycle[0]}.{WHEN}"
        problems.add(path, f"{' → '.join(cycle)}: each depends on the next, a cycle; remove a condition")
    for name, several in params.items():
        if _undecidable(several, params, problems):
            del waiting[name]
    placed: dict[str, tuple[Declaration, ...]] = {}
    while ready := next((name for name in waiting if _dependencies(name, waiting[name]) <= placed.keys()), None):
        placed[ready] = waiting.pop(ready)
    return placed if _decidable(placed, problems) else {}


def _decidable(params: Params, problems: Problems) -> bool:
    """Return whether conditions depend on few enough combinations of values to check all; report it if not."""
    keys = {key for several in params.values() for one in several for key in one.when}
    combinations = prod(sum(one.domain.size for one in params[name]) for name in keys)
    most = min(DECIDABLE, DECISIONS // max(1, sum(map(len, params.values()))))
    if combinations > most:
        rule = f"conditions depend on {combinations} combinations of values, and at most {most} are checked"
        problems.add("params", f"{rule}; list fewer values of {', '.join(sorted(keys))}")
    return combinations <= most


def _dependencies(name: str, several: Iterable[Declaration]) -> set[str]:
    """Return the parameters to decide before this one; the method is one, since it defines which parameters exist."""
    return {key for one in several for key in one.when} | ({METHOD} - {name})


def _cycles(params: Params) -> list[list[str]]:
    """Return the cycles of parameters that depend on each other; the first is repeated at the end."""
    graph = {name: _dependencies(name, several) for name, several in params.items()}
    cycles = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            cycle = list(reversed(error.args[1]))
            cycles.append(cycle)
            graph = {name: keys for name, keys in graph.items() if name not in cycle}
        else:
            return cycles


def _undecidable(several: Iterable[Declaration], params: Params, problems: Problems) -> bool:
    """Report the conditions that depend on a range, and return whether there are any."""
    found = [
        (f"params.{one.label}.{WHEN}.{key}", other.path)
        for one in several
        for key in one.when
        for other in params.get(key, ())
        if isinstance(other.domain, Reals)
    ]
    for path, other in found:
        problems.add(
            path, f"depends on {other}, a range, where no single value recurs; use a grid there, or remove this"
        )
    return bool(found)


@dataclass(slots=True)
class Usage:
    """How the declarations are used over all cases, by their labels.

    values: by parameter that conditions depend on, all its values; held: declarations whose conditions hold
    somewhere; open: under a method that has the parameter, too; taken: the methods under which it is the first such
    declaration.
    """

    values: dict[str, set[Value]] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    taken: dict[str, set[str]] = field(default_factory=dict)


def usage(space: Space) -> Usage:
    found = Usage()
    for values in space.cases():
        method = str(values[METHOD])
        for name, value in values.items():
            found.values.setdefault(name, set()).add(value)
        for name, several in space.params.items():
            holding = {one.label for one in several if one.holds(values)}
            found.held |= holding
            if taken := space.declaration(name, values):
                found.open |= holding
                found.taken.setdefault(taken.label, set()).add(method)
    return found


def check_values(space: Space, found: Usage, problems: Problems) -> None:
    """Report every value that a method rejects under which it is used."""
    for name, one in _declarations(space):
        for method in sorted(found.taken.get(one.label, ())) if name != METHOD else ():
            allowed = METHODS[method].params[name][1]
            rule = f"for method {method!r} it must be a number {allowed}; choose others, or declare it for that method"
            for value in _rejected(one.domain, allowed):
                problems.add(f"{one.path} = {value}", rule)


def _rejected(domain: Domain, allowed: Interval | Switch) -> list[str]:
    """Return what of a domain is not allowed, as written: single values of a list, or a range as a whole."""
    broken = [show(value) for value in domain.limits if value not in allowed]
    if isinstance(domain, Listed):
        return broken
    between = isinstance(domain, Reals) and isinstance(allowed, Switch)  # a switch has nothing between its ends
    return [f"[{show(domain.limits[0])}, {show(domain.limits[1])}]"] if broken or between else []


def check_conditions(space: Space, found: Usage, problems: Problems) -> None:
    """Report conditions that can never hold, and declarations that no configuration uses."""
    for name, one in _declarations(space):
        values = {key: found.values.get(key, set()) for key in one.when}
        never = [(key, value) for key, allowed in one.when.items() for value in allowed if value not in values[key]]
        for key, value in never:
            has = ", ".join(show(known) for known in sorted(values[key], key=str)) or "no value at all"
            problems.add(
                f"params.{one.label}.{WHEN}.{key} = {show(value)}",
                f"can never hold: in this space {key} has {has}; change or remove the condition",
            )
        if not never and one.label not in found.taken and (one.when or len(space.params[name]) > 1):
            rule = f"is never used: {_why_never(name, one, found)}; remove it, or change the conditions"
            problems.add(f"params.{one.label}", rule)


def _why_never(name: str, one: Declaration, found: Usage) -> str:
    if one.label not in found.held:
        return "its conditions never hold together"
    if one.label not in found.open:
        return f"no method for which its conditions hold has a parameter {name!r}"
    return "an earlier declaration applies wherever its conditions hold"


def check_search(space: Space, found: Usage, problems: Problems) -> None:
    """Report what the searcher or the scheduler cannot do in this space."""
    endless = [one.path for _, one in _declarations(space) if one.label in found.taken and one.domain.size == inf]
    if space.searcher == "grid" and endless:
        problems.add(
            "searcher",
            f"'grid', the default, tries every value, and {endless[0]} has infinitely many; "
            f"use random, tpe or nsga2 with a number of trials, or declare a grid",
        )
    if space.searcher != "grid" and space.trials is None:
        problems.add(
            "trials",
            f"is required but missing: searcher {space.searcher!r} draws configurations without end; "
            f"give a number such as 20",
        )
    if space.searcher == "random" and (space.trials or 0) > space.size and not problems.lines:
        problems.add(f"trials = {space.trials}", space.too_many)
    if LARGEST < space.count < inf:
        rule = f"the grid has {int(space.count):,} configurations, and a study at most {LARGEST:,} trials"
        problems.add("params", f"{rule}; list fewer values, or set trials")
    if space.scheduler.kind.needs_epochs:
        _check_scheduler(space, found, problems)
    if space.objective != TOP1:
        _check_objective(space, found, problems)


def _check_objective(space: Space, found: Usage, problems: Problems) -> None:
    if space.scheduler.name in stopping():
        problems.add(
            "objective",
            f"{space.objective!r} is measured of finished students, and scheduler {space.scheduler.name!r} compares "
            f"accuracies while they train; use scheduler none, or objective {TOP1}",
        )
    methods = map(str, found.values[METHOD])
    if space.objective == "agreement" and not any(m == TEACHER or METHODS[m].needs_teacher for m in methods):
        problems.add(
            "objective", f"'agreement' is with a teacher, and no method has one; use {TOP1}, or add such as vkd"
        )


def _check_scheduler(space: Space, found: Usage, problems: Problems) -> None:
    name, scheduler = space.scheduler.name, space.scheduler.kind
    if found.values[METHOD] == {TEACHER}:
        problems.add("scheduler", f"{name!r} acts after epochs, and method 'teacher' trains nothing; use none")
    if scheduler.priority == "quantized":
        if any(set(widths) == {FLOAT_BITS} for widths in space.bits):
            problems.add("scheduler", f"{name!r} compares quantized students; add a width below 32 to bits")
        if len(space.bits) > 1:
            better = _with_pareto(scheduler)
            rule = f"{name!r} cannot compare students at different bits, which are searched; {better} can"
            problems.add("scheduler", rule)
    if scheduler.promotion == "synchronous" and space.is_adaptive:
        problems.add(
            "scheduler",
            f"with {name!r} each rung waits for all trials, so none ends before {space.searcher} suggests the last; "
            f"use asha, or the searcher grid or random",
        )


def _with_pareto(scheduler: SchedulerKind) -> str:
    """Return the scheduler with the same promotion that compares accuracies and total bits."""
    alike = (name for name, other in SCHEDULERS.items() if other.promotion == scheduler.promotion)
    return next(name for name in alike if SCHEDULERS[name].priority == "pareto")


def _declarations(space: Space) -> Iterable[tuple[str, Declaration]]:
    return ((name, one) for name, several in space.params.items() for one in several)
