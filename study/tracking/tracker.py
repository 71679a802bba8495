"""Logs a study to MLflow: study run -> trial runs -> point runs. Only the driver writes.

Runs are looked up by their tags, so a rerun adds what is missing and duplicates nothing. Trials that the study's space
no longer has, and their points, are of the kinds `former trial` and `former point`. `study.tracking.schema` names all
tags and metrics.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from requests import RequestException
from sqlalchemy.exc import SQLAlchemyError

from kdq.errors import first_line
from kdq.store.files import system_lock
from kdq.store.stage import canonical
from study.results.front import with_front
from study.results.point import Point
from study.results.status import StudyStatus, TrialStatus
from study.tracking import schema
from study.tracking.database import LOCK, ensure_database
from study.tracking.experiment import document_of, open_experiment, unusable
from study.tracking.front_log import FrontLog
from study.tracking.registry import register_front
from study.tracking.run_table import STUDY, RunTable, kind_of
from study.tracking.runs import StoredRun, open_runs
from study.tracking.schema import RunKind
from study.tracking.server import Availability, Log, is_rejected, retry
from study.tracking.study_page import NOTE, StudyPage, provenance
from study.tracking.system_metrics import SystemMetrics
from study.tracking.uri import is_sqlite, local_path, sqlite_path, without_password
from study.tracking.views import COLOUR, TAG, method_colour, tags, views

ENDED: Mapping[str, str] = {
    TrialStatus.COMPLETED: "FINISHED",
    TrialStatus.STOPPED: "FINISHED",
    TrialStatus.INTERRUPTED: "KILLED",
}
"""The status of a trial or, by the same words, a study -> MLflow's status of its run; `FAILED` for any other."""


class Tracker:
    """The MLflow runs of a study. The tag `kdq.status` has the TrialStatus of each trial."""

    def __init__(
        self, uri: str, study: str, artifacts: Path | None, log: Log, is_interrupted: Callable[[], bool]
    ) -> None:
        """Open the study's experiment, or create it if missing.

        uri: tracking store or server; artifacts: the folder for artifacts of a local store (a server has its own);
        log: prints a line to the user; is_interrupted: if true, an unavailable server is not waited for.
        """
        self.uri, self.study, self.log = uri, study, log
        self._system = SystemMetrics(uri)
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = open_experiment(self.client, study, artifacts)
        self.table = RunTable(self.client, open_runs(uri), study, self.experiment)
        self._server = Availability(uri, self._load, log, is_interrupted)
        self._page: StudyPage | None = None
        self._front = FrontLog(self.client, self.table, study, self._describe)
        self._load()

    @property
    def runs(self) -> Mapping[str, StoredRun]:
        """The runs of the study by key: `study`, a trial's id, or a point's `TRIAL/BITS`."""
        return self.table.runs

    def is_finished(self, key: str) -> bool:
        """Return whether the run of this trial or point, or of the study by an earlier command, is finished."""
        return self.table.is_finished(key)

    def wait(self, error: MlflowException | RequestException) -> None:
        """Return when a method that failed with this error may run again: as soon as the server is available.

        A request that was rejected may run again if it was for runs that somebody deleted meanwhile, which are
        restored. Raises the error otherwise.
        """
        if is_rejected(error):
            self._load()
            if self._restore():
                return
        self._server.wait(error)

    def _load(self) -> None:
        self.table.load()
        self._last_epoch: dict[str, int] = {}
        self._front.is_logged = self.is_finished(STUDY)  # a study that ended well logged its front before

    def _restore(self) -> bool:
        """Restore what was deleted in the MLflow UI: the command of a study makes it whole, with its curves and files.

        Return whether there was anything.
        """
        count = self.table.restore()
        if count:
            self._load()
            self.log(f"restored in MLflow: {count} runs of this study, which were deleted there")
        return count > 0

    def document(self) -> dict[str, Any] | None:
        """Return the study's document as last started or extended, or None for a new study.

        A study that was deleted in the MLflow UI still has its document.
        """
        run = self.runs.get(STUDY) or self.table.deleted().get(STUDY)
        return document_of(run.tags) if run else None

    @retry
    def start_study(
        self, document: Mapping[str, Any], params: Mapping[str, Any], command: str, page: StudyPage
    ) -> None:
        """Open the study's run. document: everything that determines the study; command: runs it again.

        Only now are runs restored that were deleted in the MLflow UI: a command that is refused changes nothing.
        """
        self._restore()
        described = {schema.DOCUMENT: canonical(dict(document)), schema.COMMAND: command}
        # With this tag the UI shows an artifact as a table.
        table = {"mlflow.loggedArtifacts": '[{"path": "front.json", "type": "table"}]'}
        self._page, self._front.teacher = page, page.teacher
        run_id = self.table.open(STUDY, RunKind.STUDY, self.study, params, {**described, **table})
        self.table.tag(STUDY, {schema.STATUS: StudyStatus.RUNNING, schema.COMMAND: command})
        if not self._front.is_logged:
            self.client.log_inputs(run_id, [page.input()])  # MLflow keeps one of a name and digest
            self.table.tag(STUDY, {**provenance(), **self._describe(())})
            self._share(page)
            self._system.start(run_id)

    def _share(self, page: StudyPage) -> None:
        """Write the views for MLflow's UI, whose format may change."""
        for key, value in tags(views(page.widths, page.parameters, page.common)).items():
            write = partial(self.client.set_experiment_tag, self.experiment, key, value)
            self._try(f"write the view {key.removeprefix(TAG)}", write)

    def _try(self, what: str, work: Callable[[], object]) -> None:
        """Do what a study runs as well without: wait for a server, but print one line if it fails."""
        try:
            self._retried(work)
        except (MlflowException, RequestException) as error:
            self.log(f"MLflow did not {what}: {without_password(first_line(error), self.uri)}")

    @retry
    def _retried(self, work: Callable[[], object]) -> None:
        work()

    def _describe(self, points: Sequence[Point]) -> dict[str, str]:
        """Return the tag with the description of the study's run."""
        assert self._page
        command = self.runs[STUDY].tags.get(schema.COMMAND, "")
        return {NOTE: self._page.description(self.study, command, points)}

    @retry
    def extend(self, document: Mapping[str, Any], command: str, trials: Collection[str] | None) -> tuple[int, int]:
        """Extend the study to a new document. trials: all trials that it has now, None if none were dropped.

        Marks the runs of dropped trials as former, and those of trials that it has again as its own. Returns the
        numbers of kept and of former trials. The document is written last: if the driver is killed before that, the
        study is as before, and claims its runs back. Restores deleted runs first, as `start_study` does.
        """
        self._restore()
        standing = Counter[bool]()
        for key in self.runs.keys() - {STUDY}:
            trial, _, width = key.partition("/")
            is_kept = trials is None or trial in trials
            kind = kind_of(is_point=bool(width), is_kept=is_kept)
            if self.runs[key].kind != kind:
                self.table.tag(key, {schema.KIND: kind})
            standing[is_kept] += not width
        self.table.reopen(STUDY)
        self._front.is_logged = False
        self.table.tag(STUDY, {schema.DOCUMENT: canonical(dict(document)), schema.COMMAND: command})
        return standing[True], standing[False]

    @retry
    def start_trial(self, trial_id: str, student: str, name: str, params: Mapping[str, Any]) -> None:
        """Open a trial's run, also after a failure. student: the id of the stage that the trial quantizes."""
        self.table.claim(trial_id, RunKind.TRIAL)
        if trial_id not in self.runs:
            self._last_epoch[trial_id] = 0
        tags = {schema.STATUS: TrialStatus.RUNNING, schema.STUDENT: student}
        self.table.open(trial_id, RunKind.TRIAL, name, params, tags, parent=STUDY)

    @retry
    def log_epoch(self, trial_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch, unless an earlier command of the study has logged them."""
        if self.is_finished(trial_id) or epoch <= self._logged_epochs(trial_id):
            return
        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, epoch) for key, value in metrics.items()]
        self.client.log_batch(self.table.id_of(trial_id), metrics=batch)
        self._last_epoch[trial_id] = epoch

    def _logged_epochs(self, trial_id: str) -> int:
        if trial_id not in self._last_epoch:
            history = self.client.get_metric_history(self.table.id_of(trial_id), "val_top1")
            self._last_epoch[trial_id] = max((metric.step for metric in history), default=0)
        return self._last_epoch[trial_id]

    @retry
    def log_point(
        self, point: Point, name: str, params: Mapping[str, Any], files: Sequence[str], correct: Mapping[str, str]
    ) -> None:
        """Log a point as a run under its trial, with its packed model, layers and metrics as files; never twice.

        correct: "val" and "test" -> which images it classifies correctly, as texts of `kdq.correctness`.
        """
        key = f"{point.trial_id}/{point.bits}"
        self.table.claim(key, RunKind.POINT)
        if self.is_finished(key):
            return
        now = int(time.time() * 1000)
        values = {name: getattr(point, name) for name in schema.POINT_METRICS}
        metrics = [Metric(name, float(value), now, 0) for name, value in values.items() if value is not None]
        vectors = {schema.CORRECT[part]: text for part, text in correct.items() if len(text) <= schema.LONGEST_TAG}
        tags = {schema.POINT: key, schema.ON_FRONT: "false", COLOUR: method_colour(point.method), **vectors}
        run_id = self.table.open(key, RunKind.POINT, name, params, tags, parent=point.trial_id, metrics=metrics)
        for file in files:
            self.client.log_artifact(run_id, file)
        self.table.finish(key)
        self._front.is_logged = False

    @retry
    def end_trial(
        self, trial_id: str, status: TrialStatus, reason: str, best: Mapping[str, float], log: str | None = None
    ) -> None:
        """Log how a trial ended; `best` becomes metrics of its run, so that the UI can sort trials.

        log: the path of its traceback. A trial that an earlier command of the study finished keeps its end.
        """
        if self.is_finished(trial_id):
            return
        run_id = self.table.id_of(trial_id)
        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, 0) for key, value in best.items()]
        tags = [RunTag(schema.STATUS, status), RunTag(schema.REASON, reason)]
        self.client.log_batch(run_id, metrics=metrics, tags=tags)
        if log and Path(log).is_file():
            self.client.log_artifact(run_id, log)
        self.table.finish(trial_id, ENDED.get(status, "FAILED"))

    @retry
    def log_front(self, points: Sequence[Point], finished: int, always: bool = False) -> None:
        """Log the front and the curves over finished trials on the study's run, if there are new points.

        Unless `always`, as seldom as `FrontLog` allows. finished: the number of finished trials.
        """
        self._front.count(points, finished, always=always)
        self._front.log(points, always=always)

    def register_front(self, points: Sequence[Point]) -> None:
        """Register the models on the front; where that fails, as on a server without a registry, print why."""
        marked = with_front(points)
        self._try("register the front's models", lambda: register_front(self.client, self.study, self.runs, marked))

    @retry
    def end_study(self, status: StudyStatus, metrics: Mapping[str, float]) -> None:
        """Log how the study's command ended. metrics: of the study, which do not change while it runs."""
        self._system.finish()
        now = int(time.time() * 1000)
        run_id = self.table.id_of(STUDY)
        before = self.client.get_run(run_id).data.metrics
        batch = [Metric(key, float(value), now, 0) for key, value in metrics.items() if before.get(key) != value]
        self.client.log_batch(run_id, metrics=batch, tags=[RunTag(schema.STATUS, status)])
        self.client.set_terminated(run_id, ENDED.get(status, "FAILED"))

    def figure_path(self) -> str:
        """Return where the front's figure is: a path in a local store, else an artifact URI."""
        return local_path(self.runs[STUDY].artifact_uri) + "/front.png"


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
        raise unusable(uri, error) from None
