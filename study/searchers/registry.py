"""The searcher of a plan."""

from study.plan.plan import Plan
from study.searchers.optuna_searcher import Adaptive
from study.searchers.searcher import Listed, Search


def make_search(plan: Plan) -> Search:
    """The searcher of a plan's space. A random draw and Optuna depend on the first of the study's seeds."""
    return Adaptive(plan.space, plan.seeds[0]) if plan.is_adaptive else Listed(plan.expected)
