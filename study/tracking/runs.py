"""Reads many runs of a tracking store at once, with the tags, parameters and metrics that are asked for.

MLflow's search builds every tag, parameter and metric of every run, which takes 20 s for 12,000 points. So the tables
of a database are read directly, also without importing MLflow; a server is searched.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from study.tracking import schema
from study.tracking.database import BUSY_SECONDS
from study.tracking.schema import RunKind

if TYPE_CHECKING:
    from sqlalchemy import Connection, Select, TableClause

PAGE = 1000


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run. status: MLflow's; tags, params, metrics: those that were asked for, if it has them.

    end_time: in milliseconds since 1970, None while it runs.
    """

    id: str
    experiment_id: str
    status: str
    artifact_uri: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    end_time: int | None = None

    @property
    def kind(self) -> str:
        return self.tags[schema.KIND]


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the tags, parameters and metrics to read, beside the tag of the kind."""

    tags: Collection[str] = ()
    params: Collection[str] = ()
    metrics: Collection[str] = ()


Histories = Mapping[tuple[str, str], Mapping[int, float]]
"""(run id, metric) -> step -> value; a metric that was never logged is missing."""


class Runs(Protocol):
    """The runs of a store. Methods raise one of `errors()` if it does not respond, or is no store of MLflow's."""

    def experiments(self) -> dict[str, str]:
        """Return the names of the experiments that are not deleted, by their ids."""

    def read(
        self, experiment_id: str | None, names: Names, kind: RunKind | None = None, *, deleted: bool = False
    ) -> list[StoredRun]:
        """Return the runs of an experiment, None for all, that are of this kind, None for any; oldest first.

        deleted: those that were deleted instead of those that were not.
        """

    def histories(self, runs: Collection[StoredRun], metrics: Collection[str]) -> Histories:
        """Return the complete histories of metrics of these runs."""


def open_runs(uri: str) -> Runs:
    """Return the runs at a complete address. Nothing is created or changed there."""
    return ServerRuns(uri) if uri.startswith(("http:", "https:")) else DatabaseRuns(uri)


def errors() -> tuple[type[Exception], ...]:
    """Return what a store that does not respond raises; without its driver, a database raises ImportError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, ImportError)


@dataclass(frozen=True, slots=True)
class DatabaseRuns:
    """The runs in a database, by MLflow's tables."""

    uri: str

    def experiments(self) -> dict[str, str]:
        from sqlalchemy import select

        table = _table("experiments", "experiment_id", "name", "lifecycle_stage")
        query = select(table.c.experiment_id, table.c.name).where(table.c.lifecycle_stage == "active")
        with self._connected() as connection:
            return {str(experiment): name for experiment, name in connection.execute(query)}

    def read(
        self, experiment_id: str | None, names: Names, kind: RunKind | None = None, *, deleted: bool = False
    ) -> list[StoredRun]:
        from sqlalchemy import select

        columns = ("run_uuid", "experiment_id", "status", "artifact_uri", "end_time")
        table = _table("runs", *columns, "start_time", "lifecycle_stage")
        stage = "deleted" if deleted else "active"
        query = select(*(table.c[name] for name in columns)).where(table.c.lifecycle_stage == stage)
        if experiment_id is not None:
            query = query.where(table.c.experiment_id == int(experiment_id))
        kinds = _table("tags", "run_uuid", "key", "value")
        known = select(kinds.c.run_uuid).where(kinds.c.key == schema.KIND)
        query = query.where(table.c.run_uuid.in_(known.where(kinds.c.value == kind) if kind else known))
        with self._connected() as connection:
            runs = connection.execute(query.order_by(table.c.start_time, table.c.run_uuid)).all()
            ids = query.with_only_columns(table.c.run_uuid)
            tags = _values(connection, "tags", ids, {schema.KIND, *names.tags})
            params = _values(connection, "params", ids, names.params)
            metrics = _values(connection, "latest_metrics", ids, names.metrics, "is_nan")
        return [
            StoredRun(run, str(experiment), status, uri, tags[run], params.get(run, {}), metrics.get(run, {}), ended)
            for run, experiment, status, uri, ended in runs
        ]

    def histories(self, runs: Collection[StoredRun], metrics: Collection[str]) -> Histories:
        from sqlalchemy import select

        columns = ("run_uuid", "key", "step", "value", "is_nan")
        table = _table("metrics", *columns, "timestamp")
        known = _table("runs", "run_uuid", "experiment_id")
        experiments = {int(run.experiment_id) for run in runs}
        theirs = select(known.c.run_uuid).where(known.c.experiment_id.in_(experiments))
        query = select(*(table.c[name] for name in columns))
        query = query.where(table.c.run_uuid.in_(theirs), table.c.key.in_(metrics))
        wanted, found = {run.id for run in runs}, defaultdict[tuple[str, str], dict[int, float]](dict)
        with self._connected() as connection:
            for run, key, step, value, is_nan in connection.execute(query.order_by(table.c.timestamp)):
                if run in wanted:
                    found[run, key][step] = math.nan if is_nan else value
        return found

    @contextmanager
    def _connected(self) -> "Iterator[Connection]":
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        busy = {"timeout": BUSY_SECONDS} if self.uri.startswith("sqlite") else {}
        with create_engine(self.uri, poolclass=NullPool, connect_args=busy).connect() as connection:
            yield connection


def _table(name: str, *columns: str) -> "TableClause":
    from sqlalchemy import column, table

    return table(name, *map(column, columns))


def _values(
    connection: "Connection", name: str, ids: "Select[Any]", keys: Collection[str], is_nan: str = ""
) -> dict[str, dict[str, Any]]:
    """Return run id -> key -> value from a table of tags, parameters or metrics. is_nan: its column that marks NaN."""
    from sqlalchemy import select

    columns = ("run_uuid", "key", "value", *filter(None, [is_nan]))
    table = _table(name, *columns)
    query = select(*(table.c[column] for column in columns))
    found = defaultdict[str, dict[str, Any]](dict)
    for run, key, value, *nan in connection.execute(query.where(table.c.key.in_(keys), table.c.run_uuid.in_(ids))):
        found[run][key] = math.nan if any(nan) else value
    return found


class ServerRuns:
    """The runs of a tracking server, by its search."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self.client: MlflowClient = MlflowClient(tracking_uri=uri)

    def experiments(self) -> dict[str, str]:
        found = _paged(lambda token: self.client.search_experiments(max_results=PAGE, page_token=token))
        return {str(experiment.experiment_id): experiment.name for experiment in found}

    def read(
        self, experiment_id: str | None, names: Names, kind: RunKind | None = None, *, deleted: bool = False
    ) -> list[StoredRun]:
        from mlflow.entities import ViewType

        condition = f"tags.`{schema.KIND}` = '{kind}'" if kind else ""
        view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        experiments = [experiment_id] if experiment_id is not None else list(self.experiments())
        found = _paged(
            lambda token: self.client.search_runs(
                experiments, condition, view, max_results=PAGE, order_by=["start_time"], page_token=token
            )
        )
        return [
            StoredRun(
                run.info.run_id,
                run.info.experiment_id,
                run.info.status,
                run.info.artifact_uri,
                _only(run.data.tags, {schema.KIND, *names.tags}),
                _only(run.data.params, names.params),
                _only(run.data.metrics, names.metrics),
                run.info.end_time,
            )
            for run in found
            if schema.KIND in run.data.tags
        ]

    def histories(self, runs: Collection[StoredRun], metrics: Collection[str]) -> Histories:
        logged = {(run.id, key): self.client.get_metric_history(run.id, key) for run in runs for key in metrics}
        return {key: {metric.step: metric.value for metric in history} for key, history in logged.items() if history}


def _only(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _paged(search: Callable[[str | None], Any]) -> list[Any]:
    """Return the results of all pages of a search."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found
