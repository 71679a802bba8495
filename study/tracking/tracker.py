"""Logs a study to MLflow: study run -> trial runs -> point runs. Only the driver writes.

Runs are looked up by their tags, so a rerun adds what is missing and duplicates nothing. Trials that the study's space
no longer has, and their points, are of the kinds `former trial` and `former point`. `study.tracking.schema` names all
tags and metrics.
"""

import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from kdq.errors import UserError, first_line
from kdq.store.files import system_lock
from kdq.store.stage import canonical
from study.results.figure import draw_front
from study.results.front import with_front
from study.results.point import Point
from study.results.status import StudyStatus, TrialStatus
from study.results.tables import front_table, to_csv
from study.tracking import schema
from study.tracking.database import LOCK, check_database, ensure_database
from study.tracking.runs import Names, StoredRun, open_runs
from study.tracking.schema import RunKind
from study.tracking.uri import is_sqlite, local_path, shown, sqlite_path, without_password

FIGURE_SECONDS = 10.0  # the front is redrawn at most this often while trials finish
FIGURE_SHARE = 0.02  # of the driver's time at most, since reporting trials wait meanwhile
PATIENCE = 600.0  # seconds for which a study waits for a server that became unavailable
ATTEMPTS = 5  # per call, while the server comes and goes
PAUSE = 2.0  # seconds between two checks whether it is available again
P = ParamSpec("P")
T = TypeVar("T")
Log = Callable[[str], None]
ENDED: Mapping[str, str] = {
    TrialStatus.COMPLETED: "FINISHED",
    TrialStatus.STOPPED: "FINISHED",
    TrialStatus.INTERRUPTED: "KILLED",
}
"""The status of a trial or, by the same words, a study -> MLflow's status of its run; `FAILED` for any other."""


def retry(work: Callable[Concatenate["Tracker", P], T]) -> Callable[Concatenate["Tracker", P], T]:
    """Make a method wait for an unavailable server and run again, as in a driver that has just started."""

    @wraps(work)
    def retried(self: "Tracker", /, *args: P.args, **options: P.kwargs) -> T:
        for _ in range(ATTEMPTS - 1):
            try:
                return work(self, *args, **options)
            except (MlflowException, RequestException) as error:
                self.wait(error)
        return work(self, *args, **options)

    return retried


class Tracker:
    """The MLflow runs of a study. The tag `kdq.status` has the TrialStatus of each trial."""

    def __init__(
        self, uri: str, study: str, artifacts: Path | None, log: Log, is_interrupted: Callable[[], bool]
    ) -> None:
        """Open the study's experiment, or create it if missing.

        uri: tracking store or server; artifacts: the folder for artifacts of a local store (a server has its own);
        log: prints a line to the user; is_interrupted: if true, an unavailable server is not waited for.
        """
        self.client, self.store = MlflowClient(tracking_uri=uri), open_runs(uri)
        self.uri, self.study, self.log, self.is_interrupted = uri, study, log, is_interrupted
        self.experiment = self._experiment(artifacts)
        self._draw_next = 0.0
        self._finished: set[str] = set()  # by this driver
        self._gave_up = False
        self._load_runs()

    def _load_runs(self) -> None:
        """Load the existing runs, with their tags only."""
        names = Names(tags=(schema.TRIAL, schema.POINT, schema.DOCUMENT, MLFLOW_PARENT_RUN_ID))
        self.runs: dict[str, StoredRun] = {self._key(run): run for run in self.store.read(self.experiment, names)}
        self._orphans = {key for key, run in self.runs.items() if key != "study" and not self._has_parent(key, run)}
        self._last_epoch: dict[str, int] = {}
        self._is_front_logged = self.is_finished("study")  # a study that ended well logged its front before

    def _has_parent(self, key: str, run: StoredRun) -> bool:
        parent = self.runs.get(_parent(key))
        return parent is not None and run.tags.get(MLFLOW_PARENT_RUN_ID) == parent.id

    def _restore_runs(self) -> bool:
        """Restore what was deleted in the MLflow UI: the command of a study makes it whole, with its curves and files.

        Return whether there was anything.
        """
        deleted = self._deleted_runs()
        for run in deleted.values():
            self.client.restore_run(run.id)
        if deleted:
            self._load_runs()
            self.log(f"restored in MLflow: {len(deleted)} runs of this study, which were deleted there")
        return bool(deleted)

    def _deleted_runs(self) -> dict[str, StoredRun]:
        """Return the runs to restore: neither those of former trials, nor those that have a successor."""
        names = Names(tags=(schema.TRIAL, schema.POINT, schema.DOCUMENT))
        found = [run for run in self.store.read(self.experiment, names, deleted=True) if not _is_former(run)]
        found.sort(key=lambda run: run.status == "FINISHED")  # of several for a key the best, then the newest, is last
        return {key: run for run in found if (key := self._key(run)) not in self.runs}

    def wait(self, error: MlflowException | RequestException) -> None:
        """Wait until a server that failed with this error is available again; print that unless it is immediately.

        Raises the error for a local store, for a request that the server rejected, and if the server remains
        unavailable: when the study is interrupted, after PATIENCE seconds, or at once if an earlier wait failed.
        """
        until = time.monotonic() + PATIENCE
        if _http_status(error) < 500:
            self._load_runs()
            if self._restore_runs():  # deleted since this driver started
                return
        if self._gave_up or urlsplit(self.uri).scheme not in ("http", "https") or _http_status(error) < 500:
            raise error
        if self._is_available():  # after a connection that was idle for too long, for example
            return
        self.log(f"the MLflow server {shown(self.uri)} is unavailable; waiting for it, at most {PATIENCE / 60:.0f} min")
        while not self._is_available():
            if self.is_interrupted() or time.monotonic() > until:
                self._gave_up = True
                raise error
            time.sleep(PAUSE)
        self.log(f"the MLflow server {shown(self.uri)} is available again; the study continues")

    def _is_available(self) -> bool:
        """Return whether the server responds; if so, reload the existing runs."""
        try:
            self._load_runs()
        except (MlflowException, RequestException):
            return False
        return True

    def _experiment(self, artifacts: Path | None) -> str:
        if found := _find_experiment(self.client, self.study):
            return found
        location = (artifacts / self.study).as_uri() if artifacts else None
        # With this kind the UI opens on the run table, not on pages for language models.
        tags = {"mlflow.experimentKind": "custom_model_development", schema.STUDY: self.study}
        return str(self.client.create_experiment(self.study, artifact_location=location, tags=tags))

    @staticmethod
    def _key(run: StoredRun) -> str:
        return run.tags.get(schema.POINT) or run.tags.get(schema.TRIAL) or "study"

    def _open(
        self,
        key: str,
        kind: RunKind,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        *,
        parent: str = "",
        metrics: Sequence[Metric] = (),
    ) -> str:
        """Return the id of the run with this key, running and with its flat parameters; create it if missing.

        A new run is created with its tags, and an unfinished run gets all tags and parameters again, so a driver
        killed in between leaves no run incomplete.
        """
        repeated: list[RunTag] = []
        given: Collection[str] = ()
        if key not in self.runs:
            own = {schema.KIND: kind, schema.STUDY: self.study, MLFLOW_RUN_NAME: name, **tags}
            if parent:
                own |= {MLFLOW_PARENT_RUN_ID: self._run_id(parent), schema.TRIAL: key.partition("/")[0]}
            info = self.client.create_run(self.experiment, tags=own, run_name=name).info
            self.runs[key] = StoredRun(info.run_id, self.experiment, info.status, info.artifact_uri, own)
            self._last_epoch[key] = 0
        elif not self.is_finished(key):
            self.client.update_run(self._run_id(key), status="RUNNING")
            repeated = [RunTag(k, v) for k, v in tags.items()]
            given = self.client.get_run(self._run_id(key)).data.params
        run_id = self._run_id(key)
        if not self.is_finished(key):
            # MLflow forbids changes of parameters, such as the name of an extended space.
            flat = [Param(k, str(v)) for k, v in params.items() if k not in given]
            self.client.log_batch(run_id, params=flat, metrics=metrics, tags=repeated)
        for orphan in [each for each in self._orphans if _parent(each) == key]:  # its parent was deleted for good
            self._tag(orphan, {MLFLOW_PARENT_RUN_ID: run_id})
            self._orphans.remove(orphan)
        return run_id

    def _claim(self, key: str, kind: RunKind) -> None:
        """Mark a run as the study's again, after an interrupted extension that had marked it as former."""
        if key in self.runs and self.runs[key].kind != kind:
            self._tag(key, {schema.KIND: kind})

    def is_finished(self, key: str) -> bool:
        """Return whether the run of this trial or point, or of the study by an earlier command, is finished."""
        return key in self._finished or (key in self.runs and self.runs[key].status == "FINISHED")

    def _finish(self, key: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(self._run_id(key), status)
        if status == "FINISHED":
            self._finished.add(key)

    def document(self) -> dict[str, Any] | None:
        """Return the study's document as last started or extended, or None for a new study.

        A study that was deleted in the MLflow UI still has its document.
        """
        run = self.runs.get("study") or self._deleted_runs().get("study")
        return _document(run.tags) if run else None

    @retry
    def start_study(self, document: Mapping[str, Any], params: Mapping[str, Any], command: str) -> None:
        """Open the study's run. document: everything that determines the study; command: runs it again.

        Only now are runs restored that were deleted in the MLflow UI: a command that is refused changes nothing.
        """
        self._restore_runs()
        described = {schema.DOCUMENT: canonical(dict(document)), schema.COMMAND: command}
        # With this tag the UI shows an artifact as a table.
        table = {"mlflow.loggedArtifacts": '[{"path": "front.json", "type": "table"}]'}
        self._open("study", RunKind.STUDY, self.study, params, {**described, **table})
        self._tag("study", {schema.STATUS: StudyStatus.RUNNING})

    @retry
    def extend(self, document: Mapping[str, Any], command: str, trials: Collection[str] | None) -> tuple[int, int]:
        """Extend the study to a new document. trials: all trials that it has now, None if none were dropped.

        Marks the runs of dropped trials as former, and those of trials that it has again as its own. Returns the
        numbers of kept and of former trials. The document is written last: if the driver is killed before that, the
        study is as before, and claims its runs back. Restores deleted runs first, as `start_study` does.
        """
        self._restore_runs()
        standing = Counter[bool]()
        for key in self.runs.keys() - {"study"}:
            trial, _, width = key.partition("/")
            is_kept = trials is None or trial in trials
            kind = _kind(is_point=bool(width), is_kept=is_kept)
            if self.runs[key].kind != kind:
                self._tag(key, {schema.KIND: kind})
            standing[is_kept] += not width
        self.client.update_run(self._run_id("study"), status="RUNNING")
        self.runs["study"] = replace(self.runs["study"], status="RUNNING")
        self._is_front_logged = False
        self._tag("study", {schema.DOCUMENT: canonical(dict(document)), schema.COMMAND: command})
        return standing[True], standing[False]

    @retry
    def start_trial(self, trial_id: str, student: str, name: str, params: Mapping[str, Any]) -> None:
        """Open a trial's run, also after a failure. student: the id of the stage that the trial quantizes."""
        self._claim(trial_id, RunKind.TRIAL)
        tags = {schema.STATUS: TrialStatus.RUNNING, schema.STUDENT: student}
        self._open(trial_id, RunKind.TRIAL, name, params, tags, parent="study")

    @retry
    def log_epoch(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, unless an earlier command of the study has logged them."""
        if self.is_finished(trial_id) or epoch <= self._logged_epochs(trial_id):
            return
        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, epoch) for key, value in metrics.items()]
        self.client.log_batch(self._run_id(trial_id), metrics=batch)
        self._last_epoch[trial_id] = epoch

    def _logged_epochs(self, trial_id: str) -> int:
        if trial_id not in self._last_epoch:
            history = self.client.get_metric_history(self._run_id(trial_id), "val_top1")
            self._last_epoch[trial_id] = max((metric.step for metric in history), default=0)
        return self._last_epoch[trial_id]

    @retry
    def log_point(
        self, point: Point, name: str, params: Mapping[str, Any], files: Sequence[str], correct: Mapping[str, str]
    ) -> None:
        """Log a point as a run under its trial, with its packed model and layers as files; never twice.

        correct: "val" and "test" -> which images it classifies correctly, as texts of `kdq.correctness`.
        """
        key = f"{point.trial_id}/{point.bits}"
        self._claim(key, RunKind.POINT)
        if self.is_finished(key):
            return
        now = int(time.time() * 1000)
        metrics = [Metric(n, float(getattr(point, n)), now, 0) for n in schema.POINT_METRICS]
        vectors = {schema.CORRECT[part]: text for part, text in correct.items() if len(text) <= schema.LONGEST_TAG}
        tags = {schema.POINT: key, **vectors}
        run_id = self._open(key, RunKind.POINT, name, params, tags, parent=point.trial_id, metrics=metrics)
        for file in files:
            self.client.log_artifact(run_id, file)
        self._finish(key)
        self._is_front_logged = False

    @retry
    def end_trial(self, trial_id: str, status: TrialStatus, reason: str, best: Mapping[str, float]) -> None:
        """Log how a trial ended; `best` becomes metrics of its run, so that the UI can sort trials.

        A trial that an earlier command of the study finished keeps its end.
        """
        if self.is_finished(trial_id):
            return
        run_id = self._run_id(trial_id)
        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, 0) for key, value in best.items()]
        tags = [RunTag(schema.STATUS, status), RunTag(schema.REASON, reason)]
        self.client.log_batch(run_id, metrics=metrics, tags=tags)
        self._finish(trial_id, ENDED.get(status, "FAILED"))

    @retry
    def log_front(self, points: Sequence[Point], always: bool = False) -> None:
        """Log the front on the study's run as table, CSV and figure, if it has points that were not in it before.

        Unless `always`, at most every FIGURE_SECONDS.
        """
        began = time.monotonic()
        if self._is_front_logged or not points or (not always and began < self._draw_next):
            return
        marked = with_front(points)
        run_id = self._run_id("study")
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "points.csv").write_text(to_csv(marked))
            front_table(marked).to_csv(Path(folder) / "front.csv", index=False)
            draw_front(marked, Path(folder) / "front.png", f"{self.study}: accuracy against total bits")
            self.client.log_artifacts(run_id, folder)
        self.client.log_dict(run_id, _mlflow_table(front_table(marked)), "front.json")
        self._is_front_logged = True
        now = time.monotonic()
        self._draw_next = now + max(FIGURE_SECONDS, (now - began) / FIGURE_SHARE)

    @retry
    def end_study(self, status: StudyStatus, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        run_id = self._run_id("study")
        before = self.client.get_run(run_id).data.metrics
        batch = [Metric(key, float(value), now, 0) for key, value in metrics.items() if before.get(key) != value]
        self.client.log_batch(run_id, metrics=batch, tags=[RunTag(schema.STATUS, status)])
        self.client.set_terminated(run_id, ENDED.get(status, "FAILED"))

    def figure_path(self) -> str:
        """Return where the front's figure is: a path in a local store, else an artifact URI."""
        return local_path(self.runs["study"].artifact_uri) + "/front.png"

    def _run_id(self, key: str) -> str:
        return self.runs[key].id

    def _tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run in the store and here."""
        self.client.log_batch(self._run_id(key), tags=[RunTag(name, value) for name, value in tags.items()])
        self.runs[key] = replace(self.runs[key], tags={**self.runs[key].tags, **tags})


def _parent(key: str) -> str:
    """Return the key of the run above a trial's or a point's."""
    trial, _, width = key.partition("/")
    return trial if width else "study"


def _is_former(run: StoredRun) -> bool:
    return run.kind in (RunKind.FORMER_TRIAL, RunKind.FORMER_POINT)


def _kind(*, is_point: bool, is_kept: bool) -> RunKind:
    if is_point:
        return RunKind.POINT if is_kept else RunKind.FORMER_POINT
    return RunKind.TRIAL if is_kept else RunKind.FORMER_TRIAL


def _http_status(error: MlflowException | RequestException) -> int:
    """Return the HTTP status of an error, 503 without a response. Artifact requests raise RequestException."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return 503 if error.response is None else error.response.status_code


def open_tracker(uri: str, study: str, root: Path, log: Log, is_interrupted: Callable[[], bool]) -> Tracker:
    """Open a Tracker; a local store is made if it is missing.

    Raises UserError if the store or server cannot be used, and a local disk's errors as they come. root: the folder
    for the artifacts of a local store, and for the lock under which a study is created there; log: prints a line when
    a server becomes unavailable, and when it is available again; is_interrupted: if true, an unavailable server is not
    waited for.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    local = is_sqlite(uri)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if local:
            ensure_database(sqlite_path(uri))
        with system_lock(root / LOCK):
            return Tracker(uri, study, root / "artifacts" if local else None, log, is_interrupted)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        if local and not (isinstance(error, MlflowException) and error.__cause__ is None):
            raise  # of the disk
        raise _unusable(uri, error) from None


def find_document(uri: str, study: str) -> dict[str, Any] | None:
    """Return a study's document, or None for a new study; nothing is made. Raises UserError as `open_tracker` does."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        if is_sqlite(uri):
            check_database(sqlite_path(uri))
        client = MlflowClient(tracking_uri=uri)
        if (experiment := _find_experiment(client, study)) is None:
            return None
        condition = f"tags.`{schema.KIND}` = '{RunKind.STUDY}'"
        found = client.search_runs([experiment], condition, run_view_type=ViewType.ALL, order_by=["start_time DESC"])
    except (MlflowException, SQLAlchemyError) as error:
        raise _unusable(uri, error) from None
    return _document(found[0].data.tags) if found else None


def _document(tags: Mapping[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(tags[schema.DOCUMENT])
    return document


def _find_experiment(client: MlflowClient, study: str) -> str | None:
    """Return the id of a study's experiment; raise UserError if it was deleted, or is not a study."""
    found = client.get_experiment_by_name(study)
    if found is None:
        return None
    if schema.STUDY not in found.tags:
        raise UserError(f"the MLflow experiment {study!r} is not a study: choose another --name")
    if found.lifecycle_stage != "active":
        raise UserError(f"the study {study!r} was deleted in the MLflow UI: restore it there, or choose another --name")
    return str(found.experiment_id)


def _unusable(uri: str, error: Exception) -> UserError:
    return UserError(
        f"MLflow store {shown(uri)} cannot be used: {without_password(first_line(error), uri)}; repair it, or "
        f"give another --tracking-uri"
    )


def _mlflow_table(table: Any) -> dict[str, Any]:
    """Return a data frame in the JSON layout that MLflow's UI shows as a table."""
    plain = table.astype(object).where(table.notna(), None)
    return dict(plain.to_dict(orient="split", index=False))
