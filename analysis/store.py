"""Reads studies from a tracking store, without global state of MLflow."""

import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from analysis.record import Row
from analysis.stored import (
    OF_STUDY,
    StoredStudy,
    Training,
    Trial,
    of_trials,
    status_of,
    stored_study,
    stored_trial,
    trial_id_of,
)
from kdq.bits import BIT_WIDTHS, FLOAT_BITS, Bits, display_order
from kdq.correctness import Correct, decode
from kdq.distill.methods import METHODS, parameters
from kdq.errors import UserError, first_line, unknown
from study.results.front import comparable, content, with_front
from study.results.point import COLUMNS, Point, from_row
from study.results.status import TrialStatus
from study.schedulers.registry import SCHEDULERS
from study.tracking import schema
from study.tracking.runs import Histories, Names, Runs, StoredRun, errors, open_runs
from study.tracking.schema import RunKind
from study.tracking.uri import local_path, require_store, shown, tracking_uri, without_password

# By default MLflow retries for minutes, and sends usage data over the network.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
PROBES = {bits: schema.probe_metric(bits) for bits in BIT_WIDTHS}
OF_TRIAL = Names(
    (schema.TRIAL, schema.STATUS, schema.STUDENT), ("student", "widths", "scheduler", "method"), PROBES.values()
)


class Final(NamedTuple):
    """A trial's point. configuration: the label of its configuration, empty if the front does not compare it."""

    point: Point
    configuration: str


def _of_point() -> Names:
    return Names((schema.TRIAL,), {*COLUMNS, *parameters()}, schema.POINT_METRICS)


@dataclass(frozen=True, slots=True)
class Store:
    """An available tracking store."""

    uri: str
    runs: Runs

    def studies(self) -> list[StoredStudy]:
        """Return all studies, sorted by name."""
        with _answers(self.uri):
            names = self.runs.experiments()
        runs = {run.experiment_id: run for run in self._read(None, OF_STUDY, RunKind.STUDY)}
        studies = [stored_study(name, runs[experiment]) for experiment, name in names.items() if experiment in runs]
        return sorted(studies, key=lambda study: study.name)

    def study(self, name: str) -> StoredStudy:
        """Return the study of this name. Raises UserError, suggesting the closest name, if there is none."""
        studies = {study.name: study for study in self.studies()}
        if name not in studies:
            raise (unknown("study", name, studies) if studies else UserError(f"no studies in {shown(self.uri)} yet"))
        return studies[name]

    def provenance(self, study: StoredStudy) -> dict[str, str]:
        """Return who and what computed a study, as far as it was logged: commit, user, machine, versions."""
        run = self._read(study.experiment_id, Names(schema.PROVENANCE), RunKind.STUDY)[-1]
        return {what: run.tags[tag] for tag, what in schema.PROVENANCE.items() if tag in run.tags}

    def points(self, study: StoredStudy) -> dict[Point, str]:
        """Return the finished points, sorted by trial and bits, with the front marked: point -> id of its run."""
        runs = self._read(study.experiment_id, _of_point(), RunKind.POINT)
        logged = {_point(run, study.objective): run.id for run in runs if run.status == "FINISHED"}
        points = sorted(logged, key=lambda point: (point.trial_id, display_order(point.bits), point.total_bits))
        return {marked: logged[point] for marked, point in zip(with_front(points), points, strict=True)}

    def correct(self, study: StoredStudy, part: str) -> dict[str, Correct]:
        """Return which images of a part, "val" or "test", the points' models classify correctly, by the points' runs.

        A point of an older version of this program, and one of a set that is too large for a tag, is missing.
        """
        tag = schema.CORRECT[part]
        runs = self._read(study.experiment_id, Names((tag,)), RunKind.POINT)
        return {run.id: _correct(run, tag) for run in runs if tag in run.tags}

    def trial_states(self, study: StoredStudy) -> Counter[TrialStatus]:
        """Return the number of trials by status."""
        return Counter(map(status_of, self._read(study.experiment_id, Names((schema.STATUS,)), RunKind.TRIAL)))

    def trials(self, study: StoredStudy) -> list[Trial]:
        """Return every trial, in the order in which they started."""
        return [stored_trial(run) for run in self._read(study.experiment_id, of_trials(), RunKind.TRIAL)]

    def trainings(self, study: StoredStudy) -> dict[str, Training]:
        """Return the epochs that each trial trained, by its id."""
        logged = self.epochs(study, ("seconds",))
        return {trial: Training(len(of["seconds"]), sum(of["seconds"].values())) for trial, of in logged.items()}

    def epochs(self, study: StoredStudy, metrics: Collection[str]) -> dict[str, dict[str, Mapping[int, float]]]:
        """Return metrics of trials after each epoch: trial id -> metric -> epoch -> value."""
        runs = self._read(study.experiment_id, Names((schema.TRIAL,)), RunKind.TRIAL)
        with _answers(self.uri):
            logged = self.runs.histories(runs, metrics)
        return {trial_id_of(run): {name: logged.get((run.id, name), {}) for name in metrics} for run in runs}

    def record(self, study: StoredStudy) -> list[Row]:
        """Return the accuracy of every trial at every width after every epoch, sorted by trial, epoch and bits.

        The epoch after the last one of a diverged trial has NaN. Raises UserError if a trial neither completed nor
        diverged, or was not measured at every width.
        """
        runs = sorted(self._read(study.experiment_id, OF_TRIAL, RunKind.TRIAL), key=trial_id_of)
        points = list(self.points(study))
        sizes = {(point.student, point.bits): point.total_bits for point in points}
        compared = {content(p): f"c{n}" for n, group in enumerate(comparable(points), 1) for p in group.points}
        finals = {(p.trial_id, p.bits): Final(p, compared.get(content(p), "")) for p in points}
        with _answers(self.uri):
            probes = self.runs.histories(runs, PROBES.values())
        return [row for run in runs for row in _trial_record(run, sizes, finals, probes)]

    def artifacts(self, run_id: str) -> list[str]:
        """Return the paths or URIs of a run's files."""
        from mlflow import MlflowClient

        with _answers(self.uri):
            client = MlflowClient(tracking_uri=self.uri)
            root = local_path(client.get_run(run_id).info.artifact_uri)
            files = client.list_artifacts(run_id)
        return [f"{root}/{file.path}" for file in files if not file.is_dir]

    def log_text(self, study: StoredStudy, name: str, text: str) -> None:
        """Log a text as a file of a study's run. Raises UserError if it cannot be written."""
        from mlflow import MlflowClient

        run = self._read(study.experiment_id, Names(), RunKind.STUDY)[-1]
        try:
            with _answers(self.uri):
                MlflowClient(tracking_uri=self.uri).log_text(run.id, text, name)
        except OSError as error:
            raise UserError(f"cannot write {name} of study {study.name!r}: {error.strerror}") from None

    def _read(self, experiment_id: str | None, names: Names, kind: RunKind) -> list[StoredRun]:
        with _answers(self.uri):
            return self.runs.read(experiment_id, names, kind)


def open_store(uri: str | None) -> Store:
    """Open the store at an address, by default the local one. Raises UserError if it is unavailable."""
    address = tracking_uri(uri)
    require_store(address)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _answers(address):
        return Store(address, open_runs(address))


@contextmanager
def _answers(uri: str) -> Iterator[None]:
    try:
        yield
    except errors() as error:
        raise UserError(
            f"the tracking store {shown(uri)} does not respond: {without_password(first_line(error), uri)}"
        ) from None


def _trial_record(
    run: StoredRun, sizes: Mapping[tuple[str, Bits], int], finals: Mapping[tuple[str, Bits], Final], probes: Histories
) -> list[Row]:
    """sizes: total bits of a point by architecture and bits, for a trial without points; a model early in training may
    take a few more."""
    trial, status = trial_id_of(run), status_of(run)
    if status not in (TrialStatus.COMPLETED, TrialStatus.DIVERGED):
        raise UserError(
            f"trial {trial} is {status}: a replay needs every trial run to its last epoch; complete a study "
            f"with --scheduler record"
        )
    student = run.params.get("student", "")
    measured = [bits for bits, metric in PROBES.items() if metric in run.metrics]
    if status is TrialStatus.DIVERGED and not measured:  # in its first epoch: NaN at every width
        measured = [int(bits) for bits in run.params.get("widths", "").split(",") if bits.isdigit()]
    own = {bits: finals.get((trial, bits)) for bits in measured}
    widths = {bits: final.point.total_bits if final else sizes.get((student, bits)) for bits, final in own.items()}
    known = {bits: size for bits, size in widths.items() if size is not None}
    if FLOAT_BITS not in known:
        raise UserError(_not_measured(run))

    def row(epoch: int, bits: int, top1: float) -> Row:
        final = own[bits]
        ends = (final.point.val_top1, final.configuration) if final and final.configuration else ()
        return Row(trial, _student_id(run), epoch, bits, known[bits], top1, *ends)

    rows = [
        # A percentage of whole images: further digits are rounding errors, such as in 19.900000000000002.
        row(epoch, bits, round(value, 6))
        for bits in known
        for epoch, value in probes.get((run.id, PROBES[bits]), {}).items()
    ]
    if status is TrialStatus.DIVERGED:
        after = 1 + max((row.epoch for row in rows), default=0)
        rows += [row(after, bits, math.nan) for bits in known]
    return sorted(rows, key=lambda row: (row.epoch, row.bits))


def _not_measured(run: StoredRun) -> str:
    """Return why a trial has no accuracies of its epochs, and the remedy."""
    trial, params = trial_id_of(run), run.params
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


def _student_id(run: StoredRun) -> str:
    """Return the id of a trial's student, which trials may share. Raises UserError if an old version logged it."""
    if schema.STUDENT not in run.tags:
        raise UserError(
            f"trial {trial_id_of(run)} has no tag {schema.STUDENT}: an older version of this program logged it; rerun "
            f"the study under another --name, which reuses its students"
        )
    return str(run.tags[schema.STUDENT])[:16]


def _correct(run: StoredRun, tag: str) -> Correct:
    try:
        return decode(run.tags[tag])
    except ValueError as error:
        raise UserError(f"run {run.id} has a wrong {tag}: {error}") from None


def _point(run: StoredRun, objective: str) -> Point:
    try:
        return from_row({**run.params, **run.metrics, "trial_id": run.tags.get(schema.TRIAL), "objective": objective})
    except UserError as error:
        raise UserError(f"run {run.id} is not a point of a study: {error}") from None
