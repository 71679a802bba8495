"""Which parameters matter: importances by Optuna's evaluators, for each width and for all widths together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.optuna_study import as_optuna, parameters, quiet
from analysis.results import Results
from analysis.volumes import scale
from kdq.bits import display_order
from study.results.point import Point

if TYPE_CHECKING:
    from optuna.importance import BaseImportanceEvaluator

SEED = 0
LEAST = 4  # points below which an importance would mean nothing
HYPERVOLUME = "hypervolume"
FANOVA = 300  # trials up to which fANOVA takes no more than seconds


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of what varies a parameter explains, 0 to 1; the importances of one `bits` and `within` sum to 1.

    bits: a width, or `hypervolume`: of all widths of a trial together; within: the methods of the trials that have the
    parameter, empty for one that all have; n: of so many points.
    """

    study: str
    bits: int | str
    parameter: str
    importance: float
    within: str
    n: int


def evaluator_for(studies: Sequence[Results]) -> str:
    """Return the evaluator of studies of this size: fANOVA, or PED-ANOVA, which is far faster, for large ones."""
    return "fanova" if sum(len(each.trials) for each in studies) <= FANOVA else "pedanova"


def importances(studies: Sequence[Results], evaluator: str = "fanova") -> list[Importance]:
    """Return the importances in each study.

    evaluator: fanova (Hutter et al. 2014), mdi or pedanova (Watanabe et al. 2023), Optuna's. A parameter that only some
    methods have is compared with the others among the trials of those methods, since it explains nothing elsewhere. A
    width with fewer than LEAST points, or at which nothing varies, has none.
    """
    return [each for results in studies for each in _of_study(results, evaluator)]


def _of_study(results: Results, evaluator: str) -> Iterable[Importance]:
    widths = sorted({p.bits for p in results.points if isinstance(p.bits, int)}, key=display_order)
    for bits in widths:
        own = [point for point in results.points if point.bits == bits]
        yield from _ranked(results.name, bits, own, lambda point: point.score, evaluator)
    named = scale([results])
    if named and len(widths) > 1:
        areas = named.of_trials(results)
        one: dict[str, Point] = {}
        for point in results.points:
            one.setdefault(point.trial_id, point)
        yield from _ranked(
            results.name, HYPERVOLUME, list(one.values()), lambda point: areas[point.trial_id], evaluator
        )


def _ranked(
    study: str, bits: int | str, points: Sequence[Point], value: Callable[[Point], float], evaluator: str
) -> Iterable[Importance]:
    values = [parameters(point) for point in points]
    varying = {name for name in {key for own in values for key in own} if len({own.get(name) for own in values}) > 1}
    for methods, names in _cases(values, varying):
        here = [point for point in points if not methods or point.method in methods]
        if len(here) < LEAST or len({value(point) for point in here}) < 2:
            continue
        found = _evaluate(here, sorted(names | _common(here, varying)), value, evaluator)
        within = " ".join(sorted(methods))
        for name in sorted(names, key=lambda name: -found[name]):
            yield Importance(study, bits, name, found[name], within, len(here))


def _cases(values: Sequence[Mapping[str, Any]], varying: set[str]) -> list[tuple[frozenset[str], set[str]]]:
    """Return the parameters by the methods that have them; the empty set stands for all methods."""
    everyone = frozenset(str(own["method"]) for own in values)
    cases: dict[frozenset[str], set[str]] = {}
    for name in varying:
        having = frozenset(str(own["method"]) for own in values if name in own)
        cases.setdefault(frozenset() if having == everyone else having, set()).add(name)
    return sorted(cases.items(), key=lambda case: sorted(case[0]))


def _common(points: Sequence[Point], varying: set[str]) -> set[str]:
    """Return the parameters that vary and that all these points have."""
    values = [parameters(point) for point in points]
    return {name for name in varying if all(name in own for own in values) and len({own[name] for own in values}) > 1}


def _evaluate(
    points: Sequence[Point], names: Sequence[str], value: Callable[[Point], float], evaluator: str
) -> dict[str, float]:
    """Return the importance of each name; 0 for one that does not vary here."""
    import optuna

    study = as_optuna(points, "importance")
    trials = study.get_trials(deepcopy=False)
    errors = [-value(point) for point in points]  # PED-ANOVA asks what makes a value low
    present = [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]
    found: dict[str, float] = dict.fromkeys(names, 0.0)
    if present:
        with quiet():
            found |= optuna.importance.get_param_importances(
                study, evaluator=_evaluator(evaluator), params=present, target=lambda trial: errors[trial.number]
            )
    return found


def _evaluator(name: str) -> "BaseImportanceEvaluator":
    from optuna import importance

    if name == "mdi":
        return importance.MeanDecreaseImpurityImportanceEvaluator(seed=SEED)
    return (
        importance.PedAnovaImportanceEvaluator()
        if name == "pedanova"
        else importance.FanovaImportanceEvaluator(seed=SEED)
    )
