"""The MLflow experiment of a study, and the document of its run."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from kdq.errors import UserError, first_line
from study.tracking import schema
from study.tracking.database import check_database
from study.tracking.schema import RunKind
from study.tracking.uri import is_sqlite, shown, sqlite_path, without_password


def open_experiment(client: MlflowClient, study: str, artifacts: Path | None) -> str:
    """Return the id of a study's experiment, made if it is missing; raise UserError as `find_experiment` does.

    artifacts: the folder for artifacts of a local store; a server has its own.
    """
    if found := find_experiment(client, study):
        return found
    location = (artifacts / study).as_uri() if artifacts else None
    # With this kind the UI opens on the run table, not on pages for language models.
    tags = {"mlflow.experimentKind": "custom_model_development", schema.STUDY: study}
    return str(client.create_experiment(study, artifact_location=location, tags=tags))


def find_experiment(client: MlflowClient, study: str) -> str | None:
    """Return the id of a study's experiment; raise UserError if it was deleted, or is not a study."""
    found = client.get_experiment_by_name(study)
    if found is None:
        return None
    if schema.STUDY not in found.tags:
        raise UserError(f"the MLflow experiment {study!r} is not a study: choose another --name")
    if found.lifecycle_stage != "active":
        raise UserError(f"the study {study!r} was deleted in the MLflow UI: restore it there, or choose another --name")
    return str(found.experiment_id)


def unusable(uri: str, error: Exception) -> UserError:
    return UserError(
        f"MLflow store {shown(uri)} cannot be used: {without_password(first_line(error), uri)}; repair it, or "
        f"give another --tracking-uri"
    )


def find_document(uri: str, study: str) -> dict[str, Any] | None:
    """Return a study's document, or None for a new study; nothing is made. Raises UserError as `open_tracker` does."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        if is_sqlite(uri):
            check_database(sqlite_path(uri))
        client = MlflowClient(tracking_uri=uri)
        if (experiment := find_experiment(client, study)) is None:
            return None
        condition = f"tags.`{schema.KIND}` = '{RunKind.STUDY}'"
        found = client.search_runs([experiment], condition, run_view_type=ViewType.ALL, order_by=["start_time DESC"])
    except (MlflowException, SQLAlchemyError) as error:
        raise unusable(uri, error) from None
    return document_of(found[0].data.tags) if found else None


def document_of(tags: Mapping[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(tags[schema.DOCUMENT])
    return document
