"""Reads the declarations, bits and scheduler of a space from YAML; adds every error with its path to `Problems`."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from kdq.bits import BIT_WIDTHS
from kdq.distill.methods import parameters
from kdq.errors import unknown
from kdq.params import is_number
from study.schedulers.config import KEYS, SchedulerConfig, broken_rule
from study.schedulers.registry import SCHEDULERS
from study.space.declaration import (
    KINDS,
    LISTS,
    METHOD,
    WHEN,
    Declaration,
    Value,
    Widths,
    measured,
    method_names,
)
from study.space.documents import Problems
from study.space.domains import EXACT, Domain, Integers, Listed, Reals
from study.units import show


def read_scheduler(document: Any, problems: Problems) -> SchedulerConfig:
    """Read a scheduler's name or a mapping of its settings; an invalid setting is replaced by its default."""
    if not isinstance(document, Mapping):
        document = {"name": document}
    elif "name" not in document:
        problems.add("scheduler.name", f"is required but missing; known: {', '.join(SCHEDULERS)}")
    problems.add_unknown("scheduler", document, KEYS)
    given = {key: document[key] for key in KEYS if key in document}
    broken = {key: rule for key, value in given.items() if (rule := broken_rule(key, value))}
    problems.lines.extend(f"{problems.source}: scheduler.{rule}" for rule in broken.values())
    config = SchedulerConfig(**{key: value for key, value in given.items() if key not in broken})
    if config.kind.promotion is None and "name" not in broken:
        without = SchedulerConfig(config.name)
        for key in KEYS:
            if getattr(config, key) != getattr(without, key):
                rule = f"has no effect, since {config.name!r} compares no trials; remove it, or choose one that does"
                problems.add_value(f"scheduler.{key}", given[key], rule)
        return without
    return config


T = TypeVar("T")
DECLARATIONS = 100  # of a parameter
CLOSEST = 1e-9  # the relative width of a range; fewer floats than trials may be in a narrower one


def read_params(document: Any, problems: Problems) -> dict[str, tuple[Declaration, ...]]:
    """Return the declarations of every valid parameter, in the order of the file."""
    if not isinstance(document, Mapping):
        problems.add_value("params", document, "must be a mapping of parameters to values")
        return {}
    if METHOD not in document:
        problems.add(f"params.{METHOD}", f"is required but missing; known: {', '.join(method_names())}")
    found = {}
    for name, value in document.items():
        if name not in (METHOD, *parameters()):
            problems.add(f"params.{name}", str(unknown("parameter", str(name), (METHOD, *parameters()))))
        elif declarations := _read_parameter(name, value, document, problems):
            found[name] = declarations
    return found


def _read_parameter(
    name: str, value: Any, declared: Collection[str], problems: Problems
) -> tuple[Declaration, ...] | None:
    """Return all declarations of a parameter, or None if one of them is invalid."""
    if not isinstance(value, list):
        one = _read_declaration(name, name, value, declared, problems)
        return (one,) if one else None
    if not any(isinstance(item, Mapping) for item in value):
        rule = "must be a value, a declaration such as {grid: [1, 2]}, or a list of declarations with conditions"
        problems.add_value(f"params.{name}", value, rule)
        return None
    if len(value) > DECLARATIONS:
        problems.add(f"params.{name}", f"has {len(value):,} declarations, at most {DECLARATIONS} are read; join some")
        return None
    found = [_read_declaration(name, f"{name}.{i}", item, declared, problems) for i, item in enumerate(value)]
    return tuple(one for one in found if one) if all(found) else None


def _read_declaration(
    name: str, label: str, value: Any, declared: Collection[str], problems: Problems
) -> Declaration | None:
    path = f"params.{label}"
    if not isinstance(value, Mapping):
        only = _read_list(name, path, [value], value, problems)
        return Declaration(label, only, path=path) if only else None
    problems.add_unknown(path, value, (*KINDS, WHEN))
    kinds = [kind for kind in KINDS if kind in value]
    if len(kinds) != 1:
        problems.add_value(path, dict(value), f"must have exactly one of {', '.join(KINDS)}")
        return None
    kind = kinds[0]
    domain = _read_domain(name, kind, f"{path}.{kind}", value[kind], problems)
    conditions = _read_when(name, f"{path}.{WHEN}", value[WHEN], declared, problems) if WHEN in value else {}
    return Declaration(label, domain, conditions, f"{path}.{kind}") if domain and conditions is not None else None


def _read_domain(name: str, kind: str, path: str, value: Any, problems: Problems) -> Domain | None:
    if kind == "value":
        return _read_list(name, path, [value], value, problems)
    if kind in LISTS:
        return _read_list(name, path, value, value, problems)
    if name == METHOD:
        problems.add_value(path, value, "names have no range; list the methods, as in {grid: [ce, dkd]}")
        return None
    return _read_range(kind, path, value, problems)


def _read_list(name: str, path: str, values: Any, shown: Any, problems: Problems) -> Listed[Value] | None:
    """Return the values of a parameter. shown: the document's value at `path`, for messages."""
    if not isinstance(values, list) or not values:
        problems.add_value(path, shown, "must be a list of at least one value, such as [1, 2]")
        return None
    found = [_read_value(name, path, value, problems) for value in values]
    valid = [value for value in found if value is not None]
    for value in _repeated(valid):
        problems.add_value(path, shown, f"{show(value)} is duplicated, and would be tried twice; remove one")
    return Listed(tuple(valid)) if len(set(valid)) == len(found) else None


def _read_value(name: str, path: str, value: Any, problems: Problems) -> Value | None:
    """Return a parameter's value: the name of a method, or a number as a float."""
    if name == METHOD:
        if isinstance(value, str) and value in method_names():
            return value
        problems.add(path, str(unknown("method", str(value), method_names())))
        return None
    if is_number(value):
        return float(value)
    problems.add_value(path, value, "must be a finite number; several are written {grid: [1, 2]}")
    return None


def _read_range(kind: str, path: str, value: Any, problems: Problems) -> Domain | None:
    if rule := _range_rule(kind, value):
        problems.add_value(path, value, rule)
        return None
    low, high = value
    return Integers(low, high) if kind == "int" else Reals(float(low), float(high), kind == "loguniform")


def _range_rule(kind: str, value: Any) -> str | None:
    """Return the rule that a range breaks, with the remedy; None if it is valid."""
    if not isinstance(value, list) or len(value) != 2:
        return "must be two numbers, the lowest and the highest, such as [1, 8]"
    if not all(is_number(end) for end in value):
        return "both ends must be finite numbers; write two numbers such as [1, 8]"
    low, high = value
    if kind == "int" and not all(isinstance(end, int) and abs(end) <= EXACT for end in value):
        return "both ends must be whole numbers within ±2^53; use such numbers, or uniform"
    if float(low) >= float(high):
        return "the first must be below the second; swap them, or give a single value"
    if kind != "int" and float(high) - float(low) < CLOSEST * max(abs(low), abs(high)):
        return "the two are equal to 9 digits, with few numbers between them to draw; give a single value or a grid"
    if kind == "loguniform" and low <= 0:
        return "the first must be above 0 to have a logarithm; raise it, or use uniform"
    return None


def _read_when(
    name: str, path: str, value: Any, declared: Collection[str], problems: Problems
) -> dict[str, tuple[Value, ...]] | None:
    """Return the conditions of a declaration, or None if one of them is invalid."""
    if name == METHOD:
        problems.add(path, "the method takes no conditions, since the other parameters depend on it; remove them")
        return None
    if not isinstance(value, Mapping) or not value:
        problems.add_value(path, value, "must map parameters to the values they must have, such as {method: dkd}")
        return None
    found = {key: _read_condition(key, f"{path}.{key}", values, declared, problems) for key, values in value.items()}
    return {key: condition.values for key, condition in found.items() if condition} if all(found.values()) else None


def _read_condition(
    name: Any, path: str, value: Any, declared: Collection[str], problems: Problems
) -> Listed[Value] | None:
    if name not in (METHOD, *parameters()):
        problems.add(path, str(unknown("parameter", str(name), declared)))
        return None
    if name not in declared:
        problems.add(path, f"{name!r} is not declared in this space; declare it under params, or drop the condition")
        return None
    return _read_list(name, path, value if isinstance(value, list) else [value], value, problems)


def read_bits(document: Any, problems: Problems) -> tuple[Widths, ...]:
    """Return the widths at which trials are quantized: one entry for all trials, several if bits are searched."""
    if not isinstance(document, Mapping):
        widths = _read_widths("bits", document, problems)
        return (widths,) if widths else ()
    problems.add_unknown("bits", document, LISTS)
    kinds = [kind for kind in LISTS if kind in document]
    if len(kinds) != 1:
        problems.add_value("bits", dict(document), "must be a list of widths, or exactly one of grid and choice")
        return ()
    path, value = f"bits.{kinds[0]}", document[kinds[0]]
    if not isinstance(value, list) or not value:
        problems.add_value(path, value, "must be a list of widths, or of lists of widths, such as [2, 4, [2, 4]]")
        return ()
    found = [widths for item in value if (widths := _read_widths(path, item, problems))]
    for widths in _repeated([measured(widths) for widths in found]):
        problems.add_value(path, value, f"two entries define the same trial, with points at {show(widths)}; remove one")
    return tuple(found)


def _read_widths(path: str, value: Any, problems: Problems) -> Widths | None:
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        problems.add(path, "at least one width is required, such as [2, 4, 8]")
    for item in values:
        if isinstance(item, bool) or not isinstance(item, int) or item not in BIT_WIDTHS:
            problems.add_value(path, item, "must be 1 to 8, or 32 for float")
            return None
    for item in _repeated(values):
        problems.add_value(path, values, f"{item} is duplicated; remove one")
    return tuple(dict.fromkeys(values)) or None


def _repeated(values: Sequence[T]) -> list[T]:
    return [value for value, times in Counter(values).items() if times > 1]
