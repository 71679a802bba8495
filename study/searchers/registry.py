"""The searcher of a plan."""

from study.plan.plan import Plan
from study.searchers.optuna_searcher import OptunaSearcher
from study.searchers.searcher import ListSearcher, Searcher


def make_searcher(plan: Plan) -> Searcher:
    """Return the searcher of a plan's space. Random draws and Optuna are seeded by the first of the study's seeds."""
    return OptunaSearcher(plan.space, plan.seeds[0]) if plan.is_adaptive else ListSearcher(plan.expected)
