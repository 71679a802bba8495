"""The runs of a study, found by their keys: `study`, a trial's id, or a point's `TRIAL/BITS`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from study.tracking import schema
from study.tracking.runs import Names, Runs, StoredRun
from study.tracking.schema import RunKind

STUDY = "study"
"""The key of the study's own run."""


class RunTable:
    """The runs of a study in an experiment, by key. Runs are looked up by their tags, so that none is duplicated."""

    def __init__(self, client: MlflowClient, store: Runs, study: str, experiment: str) -> None:
        self.client, self.store, self.study, self.experiment = client, store, study, experiment
        self._finished: set[str] = set()  # by this driver
        self.load()

    def load(self) -> None:
        """Load the existing runs, with their tags only."""
        names = Names(
            tags=(schema.TRIAL, schema.POINT, schema.DOCUMENT, schema.COMMAND, schema.ON_FRONT, MLFLOW_PARENT_RUN_ID)
        )
        self.runs: dict[str, StoredRun] = {self._key(run): run for run in self.store.read(self.experiment, names)}
        self._orphans = {key for key, run in self.runs.items() if key != STUDY and not self._has_parent(key, run)}

    def _has_parent(self, key: str, run: StoredRun) -> bool:
        parent = self.runs.get(_parent(key))
        return parent is not None and run.tags.get(MLFLOW_PARENT_RUN_ID) == parent.id

    def restore(self) -> int:
        """Restore the runs that were deleted, and return their number; `load` has them then."""
        deleted = self.deleted()
        for run in deleted.values():
            self.client.restore_run(run.id)
        return len(deleted)

    def deleted(self) -> dict[str, StoredRun]:
        """Return the runs to restore: neither those of former trials, nor those that have a successor."""
        names = Names(tags=(schema.TRIAL, schema.POINT, schema.DOCUMENT))
        found = [run for run in self.store.read(self.experiment, names, deleted=True) if not _is_former(run)]
        found.sort(key=lambda run: run.status == "FINISHED")  # of several for a key the best, then the newest, is last
        return {key: run for run in found if (key := self._key(run)) not in self.runs}

    @staticmethod
    def _key(run: StoredRun) -> str:
        return run.tags.get(schema.POINT) or run.tags.get(schema.TRIAL) or STUDY

    def open(
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
                own |= {MLFLOW_PARENT_RUN_ID: self.id_of(parent), schema.TRIAL: key.partition("/")[0]}
            info = self.client.create_run(self.experiment, tags=own, run_name=name).info
            self.runs[key] = StoredRun(info.run_id, self.experiment, info.status, info.artifact_uri, own)
        elif not self.is_finished(key):
            self.client.update_run(self.id_of(key), status="RUNNING")
            repeated = [RunTag(k, v) for k, v in tags.items()]
            given = self.client.get_run(self.id_of(key)).data.params
        run_id = self.id_of(key)
        if not self.is_finished(key):
            # MLflow forbids changes of parameters, such as the name of an extended space.
            flat = [Param(k, str(v)) for k, v in params.items() if k not in given]
            self.client.log_batch(run_id, params=flat, metrics=metrics, tags=repeated)
        for orphan in [each for each in self._orphans if _parent(each) == key]:  # its parent was deleted for good
            self.tag(orphan, {MLFLOW_PARENT_RUN_ID: run_id})
            self._orphans.remove(orphan)
        return run_id

    def claim(self, key: str, kind: RunKind) -> None:
        """Mark a run as the study's again, after an interrupted extension that had marked it as former."""
        if key in self.runs and self.runs[key].kind != kind:
            self.tag(key, {schema.KIND: kind})

    def is_finished(self, key: str) -> bool:
        """Return whether the run of this trial or point, or of the study by an earlier command, is finished."""
        return key in self._finished or (key in self.runs and self.runs[key].status == "FINISHED")

    def finish(self, key: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(self.id_of(key), status)
        if status == "FINISHED":
            self._finished.add(key)

    def reopen(self, key: str) -> None:
        """Set a finished run to running."""
        self.client.update_run(self.id_of(key), status="RUNNING")
        self.runs[key] = replace(self.runs[key], status="RUNNING")

    def id_of(self, key: str) -> str:
        return self.runs[key].id

    def tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run in the store and here."""
        self.client.log_batch(self.id_of(key), tags=[RunTag(name, value) for name, value in tags.items()])
        self.runs[key] = replace(self.runs[key], tags={**self.runs[key].tags, **tags})


def _parent(key: str) -> str:
    """Return the key of the run above a trial's or a point's."""
    trial, _, width = key.partition("/")
    return trial if width else STUDY


def _is_former(run: StoredRun) -> bool:
    return run.kind in (RunKind.FORMER_TRIAL, RunKind.FORMER_POINT)


def kind_of(*, is_point: bool, is_kept: bool) -> RunKind:
    if is_point:
        return RunKind.POINT if is_kept else RunKind.FORMER_POINT
    return RunKind.TRIAL if is_kept else RunKind.FORMER_TRIAL
