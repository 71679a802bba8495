"""The table of searchers. `--help` reads it, so nothing heavy is imported; `study.searchers` implements them."""

SEARCHERS = {
    "grid": "every configuration, in order",
    "random": "configurations drawn at random, each once",
    "tpe": "Optuna's TPE on accuracy and total bits: the next configuration depends on the results so far",
    "nsga2": "Optuna's NSGA-II on the same two, by an evolving population",
}
"""Name -> description."""

ADAPTIVE = ("tpe", "nsga2")
"""Searchers that choose the next configuration by earlier results; each has a sampler in
`study.searchers.optuna_searcher.SAMPLERS`."""
