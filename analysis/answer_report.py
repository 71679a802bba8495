"""The answer of a study as text, as a table and as JSON."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from analysis.answer import Answer, Budget, Missing, Rival, missing, reaches
from analysis.formats import Report, records
from analysis.results import Results, by_seed, label
from kdq.bits import bits_name
from study.results.compare import Interval
from study.results.front import SeedGroup, largest
from study.results.objective import OBJECTIVES, TOP1, Objective
from study.results.status import TrialStatus

LISTED = 8  # configurations that cannot be told from the best
EXPLAINED = 3  # configurations that lack seeds


def report(results: Results, budget: Budget, found: Answer) -> Report:
    """Return the answer. Its table has the best, the recommended and all others that cannot be told from the best."""
    rows = [_row(found, Rival(found.best, None)), *(_row(found, rival) for rival in found.alike)]
    if found.recommended and found.recommended not in (found.best, *(rival.group for rival in found.alike)):
        rows.append(_row(found, Rival(found.recommended, None)))
    limits = {"max_bits": budget.max_bits, "max_bytes": budget.max_bytes, "target_accuracy": budget.target}
    document = {
        "study": results.name,
        **{name: value for name, value in limits.items() if value is not None},
        **_described(results, found.best),
        "images": found.images,
        "interval": _ends(found.interval),
        "runner_up": _compared(found.runner_up) if found.runner_up else None,
        "compared": len(found.rivals),
        "cannot_be_told_from_best": [_compared(rival) for rival in found.alike],
        "recommended": _described(results, found.recommended) if found.recommended else None,
        "missing": [{"configuration": each.name, "why": each.why} for each in missing(results)],
    }
    return Report(list(rows[0]), rows, document=document, text="\n".join(_lines(results, budget, found)))


def command(results: Results, group: SeedGroup) -> str | None:
    """Return the command that makes a configuration's points again; None if the study logged none."""
    if not results.study.command:
        return None
    seeds = ",".join(str(seed) for seed in sorted(point.seed for point in group.points))
    fixed = [f"--set {setting}" for setting in group.settings if not setting.startswith("student=")]
    widths = [] if isinstance(group.bits, str) else [f"--bits {group.bits}"]  # no option names a mixed allocation
    return " ".join(
        [
            _without(results.study.command, "--seeds", *(["--bits"] if widths else [])),
            f"--seeds {seeds}",
            *widths,
            *fixed,
        ]
    )


def _without(command: str, *options: str) -> str:
    """Return a command without options whose values have no spaces; the rest is not touched, whatever it is."""
    return re.sub(rf" ({'|'.join(options)}) \S+", "", command)


def _row(found: Answer, rival: Rival) -> dict[str, Any]:
    roles = {"best": found.best, "recommended": found.recommended}
    role = " ".join(name for name, group in roles.items() if group is rival.group) or "alike"
    low, high = (rival.difference.low, rival.difference.high) if rival.difference else (None, None)
    own = rival.group.row()
    points = None if rival.group is found.best else rival.group.value - found.best.value
    shown = dict.fromkeys(("bits", "total_bits", "packed_bytes", rival.group.decides.column, *_ACCURACIES, "n"))
    return {"role": role, "configuration": label(rival.group), **{name: own[name] for name in shown}} | {
        "difference": points,
        "low": low,
        "high": high,
    }


_ACCURACIES = ("val_top1", "test_top1")


def _described(results: Results, group: SeedGroup) -> dict[str, Any]:
    """Return all that JSON has of a configuration."""
    points = [{"trial_id": p.trial_id, "seed": p.seed, "run_id": results.runs[p]} for p in by_seed(group)]
    files = results.store.artifacts(results.runs[group.best_point])
    return {**records([group.row()])[0], "points": points, "artifacts": files, "command": command(results, group)}


def _compared(rival: Rival) -> dict[str, Any]:
    return {**records([rival.group.row()])[0], "difference": _ends(rival.difference)}


def _ends(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high, "over_seeds": interval.over_seeds}


def _lines(results: Results, budget: Budget, found: Answer) -> list[str]:
    best = found.best
    if budget.target is not None:
        decides = results.decides
        wanted = f"{decides.at_least} {budget.target:g} {decides.unit} validation {decides.title}"
        title = f"smallest of {results.name} with {wanted}"
    else:
        unit = "bytes packed" if budget.max_bytes is not None else "total bits"
        by = "" if results.decides.name == TOP1 else f" by {results.decides.title}"
        title = f"best of {results.name} within {budget.limit:,.0f} {unit}, chosen on validation{by}"
    lines = [title, *_model(results, best, _unused(budget, best), _own(found))]
    lines += _reach(budget, found) if budget.target is not None else _why(found, results)
    lines += _recommendation(results, budget, found)
    return lines + _left_out(results)


def _model(results: Results, group: SeedGroup, unused: str = "", interval: str = "") -> list[str]:
    files = results.store.artifacts(results.runs[group.best_point])
    size = f"{group.mean('total_bits'):,.0f} total bits, {group.mean('packed_bytes'):,.0f} bytes packed{unused}"
    of_seed = [f"of seed {group.best_point.seed}, the best on validation:"] if group.n > 1 else []
    return [
        _line("configuration", label(group)),
        _line("width", f"{bits_name(group.bits)}, {group.mean('avg_bits'):.2f} on average"),
        _line("size", size),
        *_measures(group, interval),
        _line("trials", ", ".join(f"{point.trial_id} (seed {point.seed})" for point in by_seed(group))),
        _line("files", f"\n{'':15}".join([*of_seed, *files]) if files else "none logged with the point"),
        _line("command", command(results, group) or "not logged by the study"),
    ]


def _measures(group: SeedGroup, interval: str) -> list[str]:
    """Return the objective on validation and test images, then the accuracies, if it is another metric."""
    decides = group.decides
    lines = [f"{_mean(group, decides.column, decides)}{interval}", _mean(group, decides.test_column, decides)]
    if decides.name == TOP1:
        return [_line(part, line) for part, line in zip(("validation", "test"), lines, strict=True)]
    tops = [_mean(group, name, OBJECTIVES[TOP1]) for name in _ACCURACIES]
    named = [f"{decides.name} {line}; accuracy {top}" for line, top in zip(lines, tops, strict=True)]
    return [_line(part, line) for part, line in zip(("validation", "test"), named, strict=True)]


def _line(name: str, text: str) -> str:
    return f"{name:<15}{text}"


def _mean(group: SeedGroup, column: str, metric: Objective) -> str:
    deviation = group.deviation(column)
    spread = "one seed" if deviation is None else f"± {metric.number(deviation)} over {group.n} seeds"
    return f"{metric.show(group.mean(column))} ({spread})"


def _own(found: Answer) -> str:
    decides = found.best.decides
    if found.interval is None:
        return f"; no interval: {_unknown(decides)}"
    ends = f"{decides.number(found.interval.low)} to {decides.show(found.interval.high)}"
    if decides.name != TOP1:
        return f"; 95 % interval {ends} over seeds"
    over = "images and seeds" if found.interval.over_seeds else "images only, since there is one seed"
    return f"; 95 % interval {ends} over {over}; {found.images:,} images"


def _unknown(decides: Objective) -> str:
    if decides.name == TOP1:
        return "which images are classified correctly was not logged"
    return "of this metric it is over seeds, and these are too few or differ"


def _unused(budget: Budget, group: SeedGroup) -> str:
    if budget.limit is None:
        return ""
    left = budget.limit - largest(group, budget.column)
    unit = "bytes" if budget.max_bytes is not None else "bits"
    return f"; {left:,.0f} {unit} ({100 * left / budget.limit:.0f} %) unused"


def _reach(budget: Budget, found: Answer) -> list[str]:
    if found.interval is None:
        return []
    decides = found.best.decides
    is_whole = reaches(found.interval, budget.target or 0, decides)
    text = "its whole interval reaches the target" if is_whole else "its mean reaches the target, its interval does not"
    return [_line("target", f"{budget.target:g} {decides.unit}: {text}")]


def _why(found: Answer, results: Results) -> list[str]:
    """Return the runner-up, the margin, ties, and what cannot be told from the best."""
    if not found.runner_up:
        return [_line("runner-up", "none: no other configuration is within the budget")]
    lines = [_line("runner-up", _short(found.runner_up, found, results)), _line("margin", _margin(found.runner_up))]
    if found.ties:
        names = [f"{_varying(group, results)}" for group in found.ties[:LISTED]]
        lines.append(_line("ties", _some(names, len(found.ties))))
    told = [rival for rival in found.rivals if rival.difference]
    if not told:
        return lines
    head = (
        f"{len(found.alike)} of {len(found.rivals)} others cannot be told from it (paired over the "
        f"{'images' if results.decides.name == TOP1 else 'seeds'}; with 95 % the truly best is it or among them)"
    )
    listed = [f"{'':15}{_short(rival, found, results)}" for rival in found.alike[:LISTED]]
    more = len(found.alike) - len(listed)
    return [*lines, _line("alike", head), *listed, *([f"{'':15}and {more} more"] if more else [])]


def _short(rival: Rival, found: Answer, results: Results) -> str:
    group, decides = rival.group, rival.group.decides
    low, high = (rival.difference.low, rival.difference.high) if rival.difference else (0.0, 0.0)
    ends = f" [{decides.number(low, '+')}, {decides.number(high, '+')}]" if rival.difference else ""
    size = f"{group.mean('total_bits'):,.0f} total bits"
    points = decides.number(group.value - found.best.value, "+")
    return f"{decides.show(group.value)} ({points}{ends}), {size}: {_varying(group, results)}"


def _varying(group: SeedGroup, results: Results) -> str:
    """Return a configuration by the settings in which those of the study differ, and its width."""
    return " ".join([bits_name(group.bits), *(part for part in group.settings if part not in results.common)])


def _margin(rival: Rival) -> str:
    decides = rival.group.decides
    if rival.difference is None:
        return f"unknown: {_unknown(decides)}"
    ends = sorted(-decides.difference(end) for end in (rival.difference.low, rival.difference.high))
    low, high = (decides.number(end, "+") for end in ends)
    verdict = "no difference can be told" if rival.is_alike else "the best is better"
    return f"{decides.number(abs(rival.difference.value))} {decides.steps}, interval {low} to {high}: {verdict}"


def _some(names: Iterable[str], count: int) -> str:
    named = list(names)
    return "; ".join(named) + (f"; and {count - len(named)} more" if count > len(named) else "")


def _recommendation(results: Results, budget: Budget, found: Answer) -> list[str]:
    chosen, best = found.recommended, found.best
    if chosen is None and budget.target is not None and found.interval:
        return [_line("recommended", "none: of no configuration the whole interval reaches the target")]
    if chosen is None:
        return []
    target = budget.target is not None
    if chosen is best:
        why = (
            "its whole interval reaches the target"
            if target
            else "none on the front that cannot be told from it is smaller"
        )
        return [_line("recommended", f"this one: {why}")]
    change = chosen.mean("total_bits") / best.mean("total_bits") - 1
    size = f"{'smaller' if change < 0 else 'larger'} by {100 * abs(change):.0f} %" if change else "of the same size"
    if target:
        why = f"{size}, and its whole interval reaches the target"
    else:
        decides = best.decides
        points = f"{decides.number(best.score - chosen.score)} {decides.steps}"
        why = f"{size}, {points} {'lower' if decides.is_higher_better else 'higher'}, no difference can be told"
    return [_line("recommended", f"choose {_varying(chosen, results)}: {why}"), *_model(results, chosen)]


def _left_out(results: Results) -> list[str]:
    """Return why configurations are not compared: their seeds that are missing."""
    lacking = missing(results)
    if not lacking:
        return []
    ends = Counter(trial.status.replace("_", " ") for each in lacking for trial in each.trials)
    counted = ", ".join(f"{count} {status}" for status, count in ends.items())
    plural = "s" if len(lacking) > 1 else ""
    head = f"{len(lacking)} configuration{plural} without a point for every seed; trials: {counted}"
    first = sorted(lacking, key=_is_stopped)[:EXPLAINED]
    most, seeds = results.groups[0].n, results.study.seeds
    if most < seeds:  # some of those are compared
        rule = f"no configuration has all {seeds} seeds: those with the most, {most}, are compared"
        lines = [_line("seeds", rule), _line("missing", head)]
    else:
        lines = [_line("not compared", head)]
    return [*lines, *(f"{'':15}{each.name}: {each.why}" for each in first)]


def _is_stopped(each: Missing) -> bool:
    return all(trial.status is TrialStatus.STOPPED for trial in each.trials)
