"""The answers of a study that the picker offers, each as `analysis best` gives it."""

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.answer import Answer, Budget, Rival, answer
from analysis.answer_report import command
from analysis.results import Results
from study.results.compare import Interval
from study.results.front import SeedGroup, largest

Json = Any
STEPS = 40  # limits at most that the picker offers
LISTED = 12  # configurations at most that it lists as no different from the best


def answers(results: Results, rows: Mapping[SeedGroup, int]) -> dict[str, Json]:
    """Return the answers within total bits, and for accuracies as targets. rows: the number of each configuration.

    There is one at the size of every configuration, so that any budget has the answer of the largest size within it; of
    the front's and the largest, if those are too many; and one for the objective of every configuration on the front.
    """
    front = [group for group in results.groups if group.on_front]
    sizes: list[float] = sorted({largest(group, "total_bits") for group in results.groups})
    if len(sizes) > STEPS:
        sizes = _thinned(sorted({*(largest(group, "total_bits") for group in front), sizes[-1]}))
    targets = _thinned(sorted({group.value for group in front}, key=results.decides.score))
    return {
        "budgets": [{"limit": size, **_answer(results, rows, Budget(max_bits=size))} for size in sizes],
        "targets": [{"limit": target, **_answer(results, rows, Budget(target=target))} for target in targets],
    }


def _thinned(values: Sequence[float]) -> list[float]:
    """Return at most `STEPS` of these, evenly spread, with the first and the last."""
    if len(values) <= STEPS:
        return list(values)
    return [values[round(step * (len(values) - 1) / (STEPS - 1))] for step in range(STEPS)]


def _answer(results: Results, rows: Mapping[SeedGroup, int], budget: Budget) -> dict[str, Json]:
    found = answer(results, budget)
    alike = found.alike
    chosen = found.recommended
    return {
        "best": rows[found.best],
        "interval": _ends(found.interval),
        "runner_up": _rival(rows, found.runner_up) if found.runner_up else None,
        "compared": len(found.rivals),
        "alike": len(alike),
        "listed": [_rival(rows, each) for each in alike[:LISTED]],
        "recommended": rows[chosen] if chosen else None,
        "change": _change(found, chosen) if chosen else None,
        "command": command(results, found.best),
        "recommended_command": command(results, chosen) if chosen else None,
    }


def _change(found: Answer, chosen: SeedGroup) -> Json:
    """Return the percent by which the recommended one is larger than the best, and its difference in accuracy."""
    size = 100 * (chosen.mean("total_bits") / found.best.mean("total_bits") - 1)
    interval = next((rival.difference for rival in found.rivals if rival.group == chosen), None)
    return [round(size), _ends(interval)]


def _rival(rows: Mapping[SeedGroup, int], rival: Rival) -> Json:
    return [rows[rival.group], _ends(rival.difference)]


def _ends(interval: Interval | None) -> Json:
    return interval and [round(value, 3) for value in (interval.value, interval.low, interval.high)]
