"""The table of searchers. `--help` reads it, so nothing heavy is imported; `study.searchers` implements them."""

SEARCHERS: dict[str, str] = {
    "grid": "every configuration, in order",
    "random": "configurations drawn at random, each once",
    "tpe": "Optuna's TPE on accuracy and total bits: the next configuration depends on the results so far",
    "nsga2": "Optuna's NSGA-II on the same two, by an evolving population",
}
"""Name -> description."""

LISTED = ("grid", "random")
"""Searchers whose configurations are known before the first result."""


def is_adaptive(name: str) -> bool:
    """Return whether a searcher chooses the next configuration by earlier results.

    Each of these has a sampler in `study.searchers.optuna_searcher.SAMPLERS`.
    """
    return name in SEARCHERS and name not in LISTED


def adaptive() -> list[str]:
    """Return the searchers that choose the next configuration by earlier results."""
    return [name for name in SEARCHERS if is_adaptive(name)]
