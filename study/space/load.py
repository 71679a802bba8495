"""Loads a space from its YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdq.errors import UserError, unknown
from kdq.params import is_count, is_number
from study.results.objective import OBJECTIVES, TOP1
from study.schedulers.config import SchedulerConfig
from study.schedulers.registry import stopping
from study.space.checks import check_conditions, check_search, check_values, in_order, usage
from study.space.declaration import METHOD
from study.space.documents import Problems, locate, read
from study.space.read import read_bits, read_params, read_scheduler
from study.space.searchers import SEARCHERS
from study.space.space import DEFAULT_BITS, LARGEST, Space

FOLDER = Path(__file__).parents[2] / "search_spaces"
SEARCH_KEYS = ("bits", "searcher", "trials", "scheduler", "ema_epochs", "objective")
KEYS = ("description", "params", *SEARCH_KEYS)


def load_space(name: str, overrides: Mapping[str, Any]) -> Space:
    """Load a shipped space by name or a user's own by path.

    overrides: one of SEARCH_KEYS, `scheduler.` and one of its keys, or a parameter by name, each as in the file.
    Conditions may become unsatisfiable by an override, but not in the file itself. Overriding the searcher by `grid`
    searches the whole grid: the file's `trials` were meant for another searcher. A scheduler's name alone keeps the
    file's rungs, if it compares trials.
    Raises UserError with a line for every error.
    """
    path = locate("space", name, FOLDER)
    document = read(path)
    if overrides.get("searcher") == "grid":
        document.pop("trials", None)
    params = {key: value for key, value in overrides.items() if key.partition(".")[0] not in SEARCH_KEYS}
    if params and not isinstance(document.get("params"), dict):
        raise UserError(f"{path}: params: must be a mapping of parameters to values")
    scheduler = _scheduler(document.get("scheduler"), overrides)
    document |= {key: value for key, value in overrides.items() if key in SEARCH_KEYS} | scheduler
    if params:
        document["params"] = document["params"] | params
    source = f"{path}{' with the options given' if overrides else ''}"
    return read_space(document, source, conditions_must_hold=not params)


def _scheduler(before: Any, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scheduler with its overrides, as an entry of the document; none without overrides."""
    given = {key.partition(".")[2]: value for key, value in overrides.items() if key.startswith("scheduler.")}
    chosen = overrides.get("scheduler", before)
    name = given.get("name", chosen)
    if isinstance(before, dict) and isinstance(name, str):
        chosen = (before if name in stopping() else {}) | {"name": name}
    if given:
        chosen = (chosen if isinstance(chosen, dict) else {"name": chosen or "none"}) | given
    return {"scheduler": chosen} if "scheduler" in overrides or given else {}


def read_space(document: Mapping[str, Any], source: str, *, conditions_must_hold: bool = True) -> Space:
    """Return the space that a document describes. Raises UserError with a line for every error: source, path, rule."""
    problems = Problems(source)
    problems.add_unknown("", document, KEYS)
    if not isinstance(document.get("description"), str):
        problems.add("description", "is required, and must be a text that describes the space")
    params = in_order(read_params(document.get("params"), problems), problems)
    space = Space(
        description=str(document.get("description")),
        params=params,
        bits=read_bits(document["bits"], problems) if "bits" in document else (DEFAULT_BITS,),
        searcher=_read_searcher(document, problems),
        trials=_read_trials(document, problems),
        scheduler=read_scheduler(document["scheduler"], problems) if "scheduler" in document else SchedulerConfig(),
        ema_epochs=_read_ema(document, problems),
        objective=_read_objective(document, problems),
    )
    if METHOD in params:
        found = usage(space)
        check_values(space, found, problems)
        if conditions_must_hold:
            check_conditions(space, found, problems)
        if space.searcher:
            check_search(space, found, problems)
    problems.raise_all()
    return space


def _read_searcher(document: Mapping[str, Any], problems: Problems) -> str:
    searcher = document.get("searcher", "grid")
    if not isinstance(searcher, str) or searcher not in SEARCHERS:
        problems.add("searcher", str(unknown("searcher", str(searcher), SEARCHERS)))
        return ""
    return searcher


def _read_objective(document: Mapping[str, Any], problems: Problems) -> str:
    objective = document.get("objective", TOP1)
    if not isinstance(objective, str) or objective not in OBJECTIVES:
        problems.add("objective", str(unknown("objective", str(objective), OBJECTIVES)))
        return TOP1
    return objective


def _read_ema(document: Mapping[str, Any], problems: Problems) -> float | None:
    epochs = document.get("ema_epochs")
    if epochs is None or (is_number(epochs) and epochs > 0):
        return epochs
    problems.add_value("ema_epochs", epochs, "must be a number of epochs, above 0, over which weights are averaged")
    return None


def _read_trials(document: Mapping[str, Any], problems: Problems) -> int | None:
    trials = document.get("trials")
    if "trials" in document and not is_count(trials):
        problems.add_value("trials", trials, "must be a whole number, at least 1")
        return 1
    if trials and trials > LARGEST:
        problems.add_value("trials", trials, f"must be at most {LARGEST:,}, the most trials of a study")
        return 1
    return trials
