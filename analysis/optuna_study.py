"""Points as trials of an Optuna study in memory: parameters with their distributions, inactive ones absent."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kdq.bits import bits_name, display_order
from kdq.errors import UserError
from study.results.objective import OBJECTIVES, TOP1
from study.results.point import Point

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

PARAMETERS = ("method", "alpha", "beta", "temperature", "mixup_alpha", "student")
"""The parameters of a point that a study may search, beside its width and the `options` of its method."""


Value = str | float
"""The value of a parameter."""


def parameters(point: Point) -> dict[str, Value]:
    """Return the active parameters of a point, those among its `options` included."""
    own = {name: value for name in PARAMETERS if (value := getattr(point, name)) is not None}
    return own | {name: float(value) for name, _, value in (each.partition("=") for each in point.options.split())}


def as_optuna(points: Iterable[Point], name: str, bits: int | None = None) -> "optuna.Study":
    """Return an Optuna study of points, in memory, with its name.

    Its objectives are the study's, such as validation accuracy, maximized, and total bits, minimized, and the width is
    a parameter; with `bits`, it has only the points of this width, and the first objective alone. Seeds are user
    attributes: points that differ in nothing else are trials with the same parameters. Raises UserError for a width
    that no point has, unless there are no points.
    """
    import optuna
    from optuna.study import StudyDirection

    points = list(points)
    shown = [point for point in points if bits is None or point.bits == bits]
    if points and not shown:
        known_bits = ", ".join(str(width) for width in sorted({point.bits for point in points}, key=display_order))
        raise UserError(f"no point of study {name} has bits={bits}: use one of {known_bits}")
    values = [{**parameters(point), **({} if bits else {"bits": bits_name(point.bits)})} for point in shown]
    known = _distributions(values)
    decides = points[0].decides if points else OBJECTIVES[TOP1]
    first = StudyDirection.MAXIMIZE if decides.is_higher_better else StudyDirection.MINIMIZE
    directions = [first, *([] if bits else [StudyDirection.MINIMIZE])]
    with quiet():
        study = optuna.create_study(study_name=name, directions=directions)
        study.set_metric_names([decides.column, *([] if bits else ["total_bits"])])
        study.add_trials([_trial(point, own, known, bits) for point, own in zip(shown, values, strict=True)])
    return study


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from logging the study that it creates, and from warnings that a part of it is experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _trial(
    point: Point, own: Mapping[str, Any], known: "Mapping[str, BaseDistribution]", bits: int | None
) -> "optuna.trial.FrozenTrial":
    import optuna

    return optuna.trial.create_trial(
        params=dict(own),
        distributions={name: known[name] for name in own},
        values=[point.value] if bits else [point.value, float(point.total_bits)],
        user_attrs={"seed": point.seed, "trial_id": point.trial_id, "test_top1": point.test_top1},
    )


def _distributions(values: Sequence[Mapping[str, str | float]]) -> "dict[str, BaseDistribution]":
    """Return the distribution of each parameter: over its values where it is text, else from its least to its most."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, list[Any]] = {}
    for own in values:
        for name, value in own.items():
            found.setdefault(name, []).append(value)
    return {
        name: CategoricalDistribution(sorted(set(seen)))
        if isinstance(seen[0], str)
        else FloatDistribution(min(seen), max(seen))
        for name, seen in found.items()
    }
