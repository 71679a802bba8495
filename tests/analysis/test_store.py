import contextlib
import socket
import sqlite3
import subprocess
import sys
from dataclasses import replace

import mlflow
import pytest

from analysis.store import Store, open_store
from kdq.correctness import top1
from kdq.errors import UserError
from study.results.front import with_front
from study.tracking import runs as runs_module
from study.tracking.runs import Names, ServerRuns
from study.tracking.schema import RunKind


def by_id(points):
    return sorted(points, key=lambda point: (point.trial_id, point.bits))


@pytest.fixture(params=["database", "server, one page", "server, many pages"])
def store(request, logged, monkeypatch):
    """The same store by its tables, and by the search that a server answers."""
    store = open_store(logged.uri)
    if request.param == "database":
        return store
    monkeypatch.setattr(runs_module, "PAGE", 2 if "many" in request.param else 1000)
    return replace(store, runs=ServerRuns(logged.uri))


def test_only_studies_are_listed(store):
    studies = store.studies()
    assert {study.name: study.status for study in studies} == {
        "fresh": "running",
        "grid": "completed",
        "mixed": "completed",
        "recorded": "completed",
    }
    assert [study.name for study in studies] == sorted(study.name for study in studies)
    assert studies[1].command == "python study/run.py --space dkd_grid"


def test_finished_points_come_back_exactly_with_their_runs(store, logged):
    points = store.points(store.study("grid"))
    assert list(points) == by_id(with_front(logged.points))
    assert points == {point: logged.run_ids[point.trial_id, point.bits] for point in points}


def test_every_point_has_its_correct_images(store):
    study = store.study("grid")
    for part in ("val", "test"):
        vectors = store.correct(study, part)
        for point, run in store.points(study).items():
            assert round(top1(vectors[run]), 1) == round(getattr(point, f"{part}_top1"), 1)


def test_a_study_may_have_no_points_yet(store):
    assert store.points(store.study("fresh")) == {}


def test_states_of_trials(store):
    assert store.trial_states(store.study("grid")) == {"completed": 4, "diverged": 1}


def test_trials_have_their_parameters_ends_and_trainings(store, logged):
    client = mlflow.MlflowClient(tracking_uri=logged.uri)
    study = store.study("fresh")
    tags = {"kdq.kind": "trial", "kdq.trial_id": "t", "kdq.status": "failed", "kdq.reason": "out of luck"}
    run = client.create_run(study.experiment_id, tags=tags, run_name="dkd").info.run_id
    for name, value in {"method": "dkd", "alpha": 0.5, "seed": 3, "space": "other"}.items():
        client.log_param(run, name, value)
    for epoch in (1, 2):
        client.log_metric(run, "seconds", 1.5, step=epoch)
    client.log_metric(run, "val_top1_2bit", 50.0)
    client.set_terminated(run, "FAILED", end_time=4_000_000_000_000)
    try:
        (trial,) = store.trials(study)
        assert (trial.id, trial.name, trial.status, trial.reason) == ("t", "dkd", "failed", "out of luck")
        assert (trial.parameters, trial.seed) == ({"alpha": "0.5", "method": "dkd"}, "3")
        assert (trial.ended, trial.accuracies) == (4_000_000_000_000, {2: 50.0})
        assert store.trainings(study) == {"t": (2, 3.0)}
    finally:
        client.delete_run(run)


def test_a_study_has_its_teacher_and_its_images(shelf):
    store = open_store(shelf)
    normal, other, lost = (store.study(name) for name in ("normal", "other", "empty"))
    assert (normal.teacher, other.teacher) == (90.0, None)
    assert normal.has_images_of(other)
    moved = replace(other, document_text=other.document_text.replace('"val_images": 1000', '"val_images": 999'))
    unknown = replace(lost, document_text="{}")
    assert not normal.has_images_of(moved)
    assert not unknown.has_images_of(normal)
    with pytest.raises(UserError, match=r"has a wrong tag kdq.document: must be a JSON object"):
        _ = replace(lost, document_text="no").document


def test_a_record_of_every_epoch_comes_back(store, recorded):
    """As text, since NaN is not equal to itself."""
    assert repr(store.record(store.study("recorded"))) == repr(recorded)


def test_a_study_without_a_full_record_is_reported(store):
    with pytest.raises(
        UserError, match=r"trial a1-s0 was not measured at every width after every epoch \(probe_top1_32bit"
    ):
        store.record(store.study("grid"))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("ce", "trial t reused a finished student, .* give it other --seeds, or another --storage-path"),
        ("teacher", "trial t trains no student"),
    ],
)
def test_a_trial_that_a_recording_study_could_not_measure_is_reported(store, logged, method, message):
    client = mlflow.MlflowClient(tracking_uri=logged.uri)
    study = store.study("fresh")
    tags = {"kdq.kind": "trial", "kdq.trial_id": "t", "kdq.status": "completed"}
    run = client.create_run(study.experiment_id, tags=tags).info.run_id
    for name, value in {"scheduler": "record", "method": method, "student": "resnet20"}.items():
        client.log_param(run, name, value)
    try:
        with pytest.raises(UserError, match=message):
            store.record(study)
    finally:
        client.delete_run(run)


def test_a_trial_that_did_not_end_is_reported(store, logged):
    client = mlflow.MlflowClient(tracking_uri=logged.uri)
    study = store.study("fresh")
    tags = {"kdq.kind": "trial", "kdq.trial_id": "t", "kdq.status": "stopped"}
    run = client.create_run(study.experiment_id, tags=tags).info.run_id
    try:
        with pytest.raises(UserError, match="trial t is stopped: a replay needs every trial run to its last epoch"):
            store.record(study)
    finally:
        client.delete_run(run)


def test_artifacts_are_named_where_they_lie(store, logged):
    (path,) = store.artifacts(logged.run_ids["a1-s0", 4])
    with open(path) as file:  # noqa: PTH123
        assert file.read() == "codes"
    assert path.endswith("/4bit.kdq")


def test_an_unknown_study_is_told_the_nearest(store):
    with pytest.raises(UserError, match=r"did you mean 'grid'.*fresh, grid"):
        store.study("gird")


def test_a_foreign_point_run_is_told(tmp_path, logged):
    open_store(logged.uri)
    client = mlflow.MlflowClient(tracking_uri=logged.uri)
    experiment = client.create_experiment("foreign", artifact_location=tmp_path.as_uri())
    study = client.create_run(experiment, tags={"kdq.kind": "study"})
    point = client.create_run(experiment, tags={"kdq.kind": "point", "kdq.trial_id": "t"})
    client.set_terminated(point.info.run_id)
    try:
        store = open_store(logged.uri)
        with pytest.raises(UserError, match=rf"run {point.info.run_id} is not a point .* method = None"):
            store.points(store.study("foreign"))
    finally:
        client.delete_experiment(study.info.experiment_id)


def test_deleted_runs_and_infinite_or_missing_values_are_read_as_mlflow_has_them(store, logged):
    client = mlflow.MlflowClient(tracking_uri=logged.uri)
    experiment = store.study("fresh").experiment_id
    tags = {"kdq.kind": "trial", "kdq.trial_id": "t"}
    kept, deleted = (client.create_run(experiment, tags=tags).info.run_id for _ in range(2))
    for value in (1.0, float("nan")):
        client.log_metric(kept, "val_top1", value)
    client.log_metric(kept, "test_top1", float("inf"))
    client.delete_run(deleted)
    try:
        names = Names(("kdq.trial_id",), (), ("val_top1", "test_top1", "never"))
        (run,) = store.runs.read(experiment, names, RunKind.TRIAL)
        metrics = client.get_run(kept).data.metrics
        assert (run.id, run.tags) == (kept, tags)
        assert repr(run.metrics) == repr({name: metrics[name] for name in run.metrics})
        assert run.metrics.keys() == {"val_top1", "test_top1"}
    finally:
        client.delete_run(kept)


def test_a_sqlite_file_that_is_no_store_any_more_is_reported(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as file, file:
        file.execute("CREATE TABLE experiments (experiment_id INTEGER)")
        file.execute("INSERT INTO experiments VALUES (0)")
    with pytest.raises(UserError, match=r"the tracking store sqlite:.* does not respond: .*no such column"):
        open_store(f"sqlite:///{tmp_path}/mlflow.db").studies()


def test_points_of_a_database_are_read_without_mlflow(logged):
    code = f"""
import sys
from analysis.store import open_store
store = open_store({logged.uri!r})
assert len(store.points(store.study("grid"))) == 12
assert not {{"mlflow", "torch", "pandas"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_global_state_of_mlflow_is_used(logged):
    before = mlflow.get_tracking_uri(), mlflow.active_run()
    open_store(logged.uri).studies()
    assert (mlflow.get_tracking_uri(), mlflow.active_run()) == before


def test_a_store_that_is_not_there_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="no tracking store"):
        open_store(None)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_goes_away_is_told(logged):
    open_store(logged.uri)  # which keeps MLflow from trying again for minutes
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    gone = Store(f"http://127.0.0.1:{port}", ServerRuns(f"http://127.0.0.1:{port}"))
    with pytest.raises(UserError, match="does not respond"):
        gone.studies()
