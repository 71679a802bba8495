"""Analyses studies logged to MLflow, from Python by `analysis.open`, from a shell by `python -m analysis --help`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.study import Study


def open(name: str, tracking_uri: str | None = None) -> "Study":
    """Return a study by its name.

    tracking_uri: the tracking store, by default $MLFLOW_TRACKING_URI or `mlruns/mlflow.db` here. Raises UserError if
    the store is unavailable, or has no study of this name.
    """
    from analysis.study import open_study

    return open_study(name, tracking_uri)
