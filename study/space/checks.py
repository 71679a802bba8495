"""What is wrong with a space as a whole: conditions that contradict, values a method refuses, searches without end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from math import inf, prod
from typing import TYPE_CHECKING

from kdq.bits import FLOAT_BITS
from kdq.distill.methods import METHODS
from kdq.params import Interval, Switch
from study.schedulers.registry import SCHEDULERS, Scheduler
from study.space.declaration import METHOD, TEACHER, WHEN, Declaration, Value
from study.space.documents import Problems
from study.space.domains import Domain, Listed, Reals
from study.space.space import LARGEST
from study.units import show

if TYPE_CHECKING:
    from study.space.space import Space

Params = Mapping[str, tuple[Declaration, ...]]
DECIDABLE = 100_000  # combinations of values that conditions may look at
DECISIONS = 2_000_000  # such combinations times declarations


def in_order(params: Params, problems: Problems) -> dict[str, tuple[Declaration, ...]]:
    """The parameters, each after those that its conditions look at, otherwise as in the file.

    One that looks at itself, at a range or at a parameter that has a mistake is noted and left out.
    """
    waiting = dict(params)
    for circle in _circles(waiting):
        path = f"params.{circle[0]}.{WHEN}"
        problems.add(path, f"{' → '.join(circle)}: each waits for the next, so none is ever decided; drop a condition")
    for name, several in params.items():
        if _undecidable(several, params, problems):
            del waiting[name]
    placed: dict[str, tuple[Declaration, ...]] = {}
    while ready := next((name for name in waiting if _looks_at(name, waiting[name]) <= placed.keys()), None):
        placed[ready] = waiting.pop(ready)
    return placed if _decidable(placed, problems) else {}


def _decidable(params: Params, problems: Problems) -> bool:
    """Note if conditions look at so many values that working them out would take for ever; whether they do not."""
    looked_at = {key for several in params.values() for one in several for key in one.when}
    combinations = prod(sum(one.domain.size for one in params[name]) for name in looked_at)
    most = min(DECIDABLE, DECISIONS // max(1, sum(map(len, params.values()))))
    if combinations > most:
        rule = f"conditions look at {combinations} combinations of values, and at most {most} are worked out"
        problems.add("params", f"{rule}; list fewer values where they look: {', '.join(sorted(looked_at))}")
    return combinations <= most


def _looks_at(name: str, several: Iterable[Declaration]) -> set[str]:
    """What must be decided before a parameter: which parameters there are at all depends on the method."""
    return {key for one in several for key in one.when} | ({METHOD} - {name})


def _circles(params: Params) -> list[list[str]]:
    """Parameters that look at each other in a circle, the first named again at the end."""
    graph = {name: _looks_at(name, several) for name, several in params.items()}
    circles = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle = list(reversed(error.args[1]))
            circles.append(circle)
            graph = {name: looks for name, looks in graph.items() if name not in circle}
        else:
            return circles


def _undecidable(several: Iterable[Declaration], params: Params, problems: Problems) -> bool:
    """Note the conditions that look at a range; whether there are any."""
    looks = [
        (f"params.{one.label}.{WHEN}.{key}", other.path)
        for one in several
        for key in one.when
        for other in params.get(key, ())
        if isinstance(other.domain, Reals)
    ]
    for path, other in looks:
        problems.add(
            path, f"looks at {other}, and no range hits one value; give the other a grid, or drop the condition"
        )
    return bool(looks)


@dataclass(slots=True)
class Usage:
    """What became of the declarations over all cases, by their labels.

    values: those that a parameter that conditions look at ever has; held: conditions hold; open: and the method
    has the parameter; taken: the methods under which the declaration is the first of these.
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
    """Note every value that a method refuses under which it is taken."""
    for name, one in _declarations(space):
        for method in sorted(found.taken.get(one.label, ())) if name != METHOD else ():
            allowed = METHODS[method].params[name][1]
            rule = f"for method {method!r} it must be a number {allowed}; choose others, or declare it for that method"
            for refused in _refused(one.domain, allowed):
                problems.add(f"{one.path} = {refused}", rule)


def _refused(domain: Domain, allowed: Interval | Switch) -> list[str]:
    """What is not allowed of a domain, as the document has it: single values of a list, or a range as a whole."""
    broken = [show(value) for value in domain.limits if value not in allowed]
    if isinstance(domain, Listed):
        return broken
    between = isinstance(domain, Reals) and isinstance(allowed, Switch)  # a switch has nothing between its ends
    return [f"[{show(domain.limits[0])}, {show(domain.limits[1])}]"] if broken or between else []


def check_conditions(space: Space, found: Usage, problems: Problems) -> None:
    """Note conditions that can never hold, and declarations that no configuration takes."""
    for name, one in _declarations(space):
        values = {key: found.values.get(key, set()) for key in one.when}
        never = [(key, value) for key, allowed in one.when.items() for value in allowed if value not in values[key]]
        for key, value in never:
            has = ", ".join(show(known) for known in sorted(values[key], key=str)) or "no value at all"
            problems.add(
                f"params.{one.label}.{WHEN}.{key} = {show(value)}",
                f"can never hold: in this space {key} has {has}; change the condition, or leave it out",
            )
        if not never and one.label not in found.taken and (one.when or len(space.params[name]) > 1):
            rule = f"is never taken: {_why_never(name, one, found)}; leave it out, or change the conditions"
            problems.add(f"params.{one.label}", rule)


def _why_never(name: str, one: Declaration, found: Usage) -> str:
    if one.label not in found.held:
        return "its conditions never hold together"
    if one.label not in found.open:
        return f"no method for which its conditions hold has a parameter {name!r}"
    return "wherever its conditions hold, those of an earlier declaration do"


def check_search(space: Space, found: Usage, problems: Problems) -> None:
    """Note what the searcher or the scheduler cannot do in this space."""
    endless = [one.path for _, one in _declarations(space) if one.label in found.taken and one.domain.size == inf]
    if space.searcher == "grid" and endless:
        problems.add(
            "searcher",
            f"'grid', the default, tries every value, and {endless[0]} has no end of them; "
            f"use random, tpe or nsga2 with a number of trials, or declare a grid",
        )
    if space.searcher != "grid" and space.trials is None:
        problems.add(
            "trials",
            f"is required, and is missing: searcher {space.searcher!r} draws configurations until told to stop; "
            f"give a number such as 20",
        )
    if space.searcher == "random" and (space.trials or 0) > space.size and not problems.lines:
        problems.add(f"trials = {space.trials}", space.too_many)
    if LARGEST < space.count < inf:
        rule = f"the grid has {int(space.count):,} configurations, and a study at most {LARGEST:,} trials"
        problems.add("params", f"{rule}; list fewer values, or set trials")
    if space.scheduler.kind.needs_epochs:
        _check_scheduler(space, found, problems)


def _check_scheduler(space: Space, found: Usage, problems: Problems) -> None:
    name, scheduler = space.scheduler.name, space.scheduler.kind
    if found.values[METHOD] == {TEACHER}:
        problems.add("scheduler", f"{name!r} looks at trainings, and method 'teacher' trains nothing; use none")
    if scheduler.priority == "quantized":
        if any(set(widths) == {FLOAT_BITS} for widths in space.bits):
            problems.add("scheduler", f"{name!r} compares quantized students; give bits a width below 32")
        if len(space.bits) > 1:
            better = _with_pareto(scheduler)
            rule = f"{name!r} cannot compare students at different bits, which are searched; {better} can"
            problems.add("scheduler", rule)
    if scheduler.promotion == "synchronous" and space.searcher in ("tpe", "nsga2"):
        problems.add(
            "scheduler",
            f"{name!r} lets a rung wait for all trials, so none would end before {space.searcher} has chosen the last; "
            f"use asha, or the searcher grid or random",
        )


def _with_pareto(scheduler: Scheduler) -> str:
    """The scheduler that decides at the same moments, by accuracies and total bits."""
    alike = (name for name, other in SCHEDULERS.items() if other.promotion == scheduler.promotion)
    return next(name for name in alike if SCHEDULERS[name].priority == "pareto")


def _declarations(space: Space) -> Iterable[tuple[str, Declaration]]:
    return ((name, one) for name, several in space.params.items() for one in several)
