"""Reads studies from a tracking store, without global state of MLflow."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.record import Row
from kdq.bits import BIT_WIDTHS, FLOAT_BITS, Bits, display_order
from kdq.distill.methods import METHODS
from kdq.errors import UserError, first_line, unknown
from study.results.front import with_front
from study.results.point import Point, from_row
from study.results.status import StudyStatus, TrialStatus
from study.schedulers.registry import SCHEDULERS
from study.tracking import schema
from study.tracking.schema import RunKind
from study.tracking.uri import local_path, require_store, shown, tracking_uri, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000
Status = TypeVar("Status", TrialStatus, StudyStatus)
# By default MLflow retries for minutes, and sends usage data over the network.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True, slots=True)
class Study:
    """A study by its run. command: the command that ran it."""

    name: str
    experiment_id: str
    status: StudyStatus
    command: str | None


@dataclass(frozen=True, slots=True)
class Store:
    """An available tracking store."""

    uri: str
    client: "MlflowClient"

    def studies(self) -> list[Study]:
        """Return all studies, sorted by name."""
        with _answers(self.uri):
            experiments = _paged(lambda token: self.client.search_experiments(max_results=PAGE, page_token=token))
        names = {experiment.experiment_id: experiment.name for experiment in experiments}
        runs = self._runs(list(names), RunKind.STUDY)
        studies = {names[run.info.experiment_id]: _study(names[run.info.experiment_id], run) for run in runs}
        return [studies[name] for name in sorted(studies)]

    def study(self, name: str) -> Study:
        """Return the study of this name. Raises UserError, suggesting the closest name, if there is none."""
        studies = {study.name: study for study in self.studies()}
        if name not in studies:
            raise (unknown("study", name, studies) if studies else UserError(f"no studies in {shown(self.uri)} yet"))
        return studies[name]

    def points(self, study: Study) -> dict[Point, str]:
        """Return the finished points, sorted by trial and bits, with the front marked: point -> id of its run."""
        logged = {
            _point(run): run.info.run_id for run in self._runs([study.experiment_id], RunKind.POINT, finished=True)
        }
        points = sorted(logged, key=lambda point: (point.trial_id, display_order(point.bits), point.total_bits))
        return {marked: logged[point] for marked, point in zip(with_front(points), points, strict=True)}

    def trial_states(self, study: Study) -> Counter[TrialStatus]:
        """Return the number of trials by status."""
        return Counter(_status(run) for run in self._runs([study.experiment_id], RunKind.TRIAL))

    def trials(self, study: Study) -> list[dict[str, str]]:
        """Return every trial's id, name, status and the reason of its end, in the order in which they started."""
        return [
            {
                "trial_id": _trial_id(run),
                "trial": run.info.run_name or "",
                "status": _status(run),
                "reason": run.data.tags.get(schema.REASON, ""),
            }
            for run in self._runs([study.experiment_id], RunKind.TRIAL)
        ]

    def record(self, study: Study) -> list[Row]:
        """Return the accuracy of every trial at every width after every epoch, sorted by trial, epoch and bits.

        The epoch after the last one of a diverged trial has NaN. Raises UserError if a trial neither completed nor
        diverged, or was not measured at every width.
        """
        runs = self._runs([study.experiment_id], RunKind.TRIAL)
        sizes = {(point.student, point.bits): point.total_bits for point in self.points(study)}
        return [row for run in sorted(runs, key=_trial_id) for row in self._trial_record(run, sizes)]

    def _trial_record(self, run: "Run", sizes: Mapping[tuple[str, Bits], int]) -> list[Row]:
        """sizes: total bits of a point by student and bits; a model early in training may take a few more."""
        trial, status = _trial_id(run), _status(run)
        if status not in (TrialStatus.COMPLETED, TrialStatus.DIVERGED):
            raise UserError(
                f"trial {trial} is {status}: a replay needs every trial run to its last epoch; complete a study "
                f"with --scheduler record"
            )
        student = run.data.params.get("student", "")
        measured = [bits for bits in BIT_WIDTHS if schema.probe_metric(bits) in run.data.metrics]
        if status is TrialStatus.DIVERGED and not measured:  # in its first epoch: NaN at every width
            measured = [int(bits) for bits in run.data.params.get("widths", "").split(",") if bits.isdigit()]
        widths = {bits: sizes.get((student, bits)) for bits in measured}
        known = {bits: size for bits, size in widths.items() if size is not None}
        if FLOAT_BITS not in known:
            raise UserError(_not_measured(run))
        rows = [row for bits, size in known.items() for row in self._curve(run, bits, size)]
        if status is TrialStatus.DIVERGED:
            after = 1 + max((row.epoch for row in rows), default=0)
            rows += [Row(trial, _student_id(run), after, bits, size, math.nan) for bits, size in known.items()]
        return sorted(rows, key=lambda row: (row.epoch, row.bits))

    def _curve(self, run: "Run", bits: int, total_bits: int) -> list[Row]:
        """Return the rows of one width of a trial. The step of a metric is the epoch."""
        with _answers(self.uri):
            history = self.client.get_metric_history(run.info.run_id, schema.probe_metric(bits))
        accuracies = {metric.step: metric.value for metric in history}
        return [
            # A percentage of whole images: further digits are rounding errors, such as in 19.900000000000002.
            Row(_trial_id(run), _student_id(run), epoch, bits, total_bits, round(value, 6))
            for epoch, value in accuracies.items()
        ]

    def artifacts(self, run_id: str) -> list[str]:
        """Return the paths or URIs of a run's files."""
        with _answers(self.uri):
            root = local_path(self.client.get_run(run_id).info.artifact_uri)
            files = self.client.list_artifacts(run_id)
        return [f"{root}/{file.path}" for file in files if not file.is_dir]

    def _runs(self, experiment_ids: list[str], kind: RunKind, finished: bool = False) -> list["Run"]:
        condition = f"tags.`{schema.KIND}` = '{kind}'" + (" and attributes.status = 'FINISHED'" if finished else "")
        with _answers(self.uri):
            return _paged(
                lambda token: self.client.search_runs(
                    experiment_ids, condition, max_results=PAGE, order_by=["start_time"], page_token=token
                )
            )


def open_store(uri: str | None) -> Store:
    """Open the store at an address, by default the local one. Raises UserError if it is unavailable."""
    address = tracking_uri(uri)
    require_store(address)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    with _answers(address):
        return Store(address, MlflowClient(tracking_uri=address))


@contextmanager
def _answers(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise UserError(
            f"the tracking store {shown(uri)} does not respond: {without_password(first_line(error), uri)}"
        ) from None


def _paged(search: Callable[[str | None], Any]) -> list[Any]:
    """Return the results of all pages of a search."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found


def _study(name: str, run: "Run") -> Study:
    status = _parse_status(StudyStatus, run, StudyStatus.RUNNING)
    return Study(name, run.info.experiment_id, status, run.data.tags.get(schema.COMMAND))


def _trial_id(run: "Run") -> str:
    return str(run.data.tags[schema.TRIAL])


def _status(run: "Run") -> TrialStatus:
    return _parse_status(TrialStatus, run, TrialStatus.RUNNING)


def _parse_status(kind: type[Status], run: "Run", default: Status) -> Status:
    """Return the status in a run's tag. Raises UserError if it is unknown."""
    status = run.data.tags.get(schema.STATUS, default)
    try:
        return kind(status)
    except ValueError:
        raise UserError(f"run {run.info.run_id} has {schema.STATUS} = {status!r}: must be {', '.join(kind)}") from None


def _not_measured(run: "Run") -> str:
    """Return why a trial has no accuracies of its epochs, and the remedy."""
    trial, params = _trial_id(run), run.data.params
    if not SCHEDULERS[params.get("scheduler", "none")].records:
        return (
            f"trial {trial} was not measured at every width after every epoch "
            f"({schema.probe_metric(FLOAT_BITS)}, …): a replay needs a study with --scheduler record"
        )
    if params["method"] not in METHODS:
        return (
            f"trial {trial} trains no student, so it has no epochs: run the study without method {params['method']!r}"
        )
    return (
        f"trial {trial} reused a finished student, which was not measured after every epoch: a replay needs a study "
        f"that trains its students itself; give it other --seeds, or another --storage-path"
    )


def _student_id(run: "Run") -> str:
    """Return the id of a trial's student, which trials may share. Raises UserError if an old version logged it."""
    if schema.STUDENT not in run.data.tags:
        raise UserError(
            f"trial {_trial_id(run)} has no tag {schema.STUDENT}: an older version of this program logged it; rerun "
            f"the study under another --name, which reuses its students"
        )
    return str(run.data.tags[schema.STUDENT])[:16]


def _point(run: "Run") -> Point:
    try:
        return from_row({**run.data.params, **run.data.metrics, "trial_id": run.data.tags.get(schema.TRIAL)})
    except UserError as error:
        raise UserError(f"run {run.info.run_id} is not a point of a study: {error}") from None
