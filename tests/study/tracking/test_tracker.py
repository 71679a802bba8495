"""The tracker against a real store: found again, never doubled, whole after a kill between any two calls."""

import shutil
import threading
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, PERMISSION_DENIED
from requests import ConnectionError as RequestsConnectionError
from requests import HTTPError, Response

from analysis.store import Store
from kdq.errors import UserError
from study.results.front import front_hypervolume
from study.results.point import Point
from study.tracking import server as tracking_server
from study.tracking.experiment import find_document
from study.tracking.front_log import _progress
from study.tracking.runs import DatabaseRuns
from study.tracking.study_page import StudyPage
from study.tracking.tracker import Tracker, open_tracker
from study.tracking.uri import sqlite_uri

TRIAL = "0123456789abcdef"
POINT = Point(TRIAL, "dkd", 1.0, 8.0, 4.0, 0.0, 0, "resnet8", 4, 4.1, 1000, 200, 90.0, 89.0)
PARAMS = {"method": "dkd", "seed": 0}


PAGE = StudyPage("What was asked", (32, 4), ("method", "seed"), ("method", "seed"), "digits", "0" * 64, 1000, 1, 93.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def opened(store: Path, study: str) -> Tracker:
    """As a driver that has just started sees the study."""
    return open_tracker(f"sqlite:///{store}/mlflow.db", study, store, print, lambda: False)


def logged(tracker: Tracker, key: str) -> Run:
    """A run with all that it has in the store."""
    return tracker.client.get_run(tracker.runs[key].id)


def start(tracker: Tracker) -> None:
    tracker.start_study({"settings": {}, "trials": [TRIAL]}, {"space": "s"}, "command", PAGE)
    tracker.start_trial(TRIAL, "student", "trial", PARAMS)


def test_a_store_in_a_folder_of_any_name_has_its_files_there(store: Path, tmp_path: Path) -> None:
    opened(store, "any")
    folder = tmp_path / "job%2Fmain 50%?a=b#c;é\n+&'\"\\日"
    folder.mkdir()
    shutil.copyfile(store / "mlflow.db", folder / "mlflow.db")
    tracker = open_tracker(sqlite_uri(folder / "mlflow.db"), "odd", folder, print, lambda: False)
    start(tracker)
    packed = tmp_path / "model.safetensors"
    packed.write_bytes(b"x")
    tracker.log_point(POINT, "point", PARAMS, [str(packed)], {})
    tracker.log_front([POINT], 1, always=True)
    assert Path(tracker.figure_path()).is_file()
    (file,) = Store(tracker.uri, tracker.table.store).artifacts(tracker.runs[f"{TRIAL}/4"].id)
    assert Path(file).read_bytes() == b"x"
    assert Path(file).is_relative_to(folder / "artifacts" / "odd")
    assert set(tmp_path.iterdir()) == {folder, packed}
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "artifacts", "store.lock"}


def test_a_mixed_point_has_a_run_of_its_own(store: Path) -> None:
    mixed = replace(POINT, bits="mixed-0123abcd", total_bits=900)
    for _ in range(2):
        tracker = opened(store, "mixed")
        start(tracker)
        for point in (POINT, mixed):
            tracker.log_point(point, "point", {**PARAMS, "bits": point.bits}, [], {})
        tracker.log_front([POINT, mixed], 1, always=True)
    tracker = opened(store, "mixed")
    assert tracker.runs.keys() == {"study", TRIAL, f"{TRIAL}/4", f"{TRIAL}/mixed-0123abcd"}
    assert logged(tracker, f"{TRIAL}/mixed-0123abcd").data.params["bits"] == "mixed-0123abcd"
    assert logged(tracker, f"{TRIAL}/mixed-0123abcd").data.metrics["total_bits"] == 900


def test_a_second_driver_adds_nothing_to_what_is_finished(store: Path, tmp_path: Path) -> None:
    packed = tmp_path / "model.safetensors"
    packed.write_bytes(b"x")
    for _ in range(2):
        tracker = opened(store, "twice")
        start(tracker)
        tracker.log_epoch(TRIAL, 1, {"val_top1": 50.0})
        tracker.log_epoch(TRIAL, 2, {"val_top1": 60.0})
        for _ in range(2):  # a worker that was started again tells all it has
            tracker.log_point(POINT, "point", PARAMS, [str(packed)], {})
            tracker.end_trial(TRIAL, "completed", "", {"val_top1_4bit": 90.0})
        tracker.log_front([POINT], 1, always=True)
        tracker.end_study("completed", {"points": 1})
    client, runs = tracker.client, opened(store, "twice").runs
    assert runs.keys() == {"study", TRIAL, f"{TRIAL}/4"}
    assert {run.status for run in runs.values()} == {"FINISHED"}
    trial = runs[TRIAL].id
    assert [m.step for m in client.get_metric_history(trial, "val_top1")] == [1, 2]
    assert len(client.get_metric_history(trial, "val_top1_4bit")) == 1
    assert len(client.get_metric_history(runs[f"{TRIAL}/4"].id, "val_top1")) == 1
    assert len(client.get_metric_history(runs["study"].id, "points")) == 1


def test_curves_go_on_where_a_killed_driver_left_them(store: Path) -> None:
    first = opened(store, "curves")
    start(first)
    first.log_epoch(TRIAL, 1, {"val_top1": 50.0})
    second = opened(store, "curves")
    start(second)
    for epoch in (1, 2):
        second.log_epoch(TRIAL, epoch, {"val_top1": 50.0})
    history = second.client.get_metric_history(second.runs[TRIAL].id, "val_top1")
    assert [m.step for m in history] == [1, 2]


@pytest.mark.parametrize("calls", range(1, 9))
def test_a_kill_after_any_call_leaves_what_the_next_driver_completes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    packed = tmp_path / "model.safetensors"
    packed.write_bytes(b"x")
    name = f"killed-{calls}"

    class Killed(BaseException):
        pass

    def work(tracker: Tracker) -> None:
        start(tracker)
        tracker.log_point(POINT, "point", PARAMS, [str(packed)], {})
        tracker.end_trial(TRIAL, "completed", "", {})
        tracker.end_study("completed", {"points": 1})

    tracker = opened(store, name)
    left = calls
    for method in ("create_run", "log_batch", "update_run", "set_terminated", "log_artifact"):
        original = getattr(MlflowClient, method)

        def counted(self: MlflowClient, *args: object, _original: object = original, **options: object) -> object:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return _original(self, *args, **options)  # type: ignore[operator]

        monkeypatch.setattr(MlflowClient, method, counted)
    with pytest.raises(Killed):
        work(tracker)
    monkeypatch.undo()
    work(opened(store, name))
    tracker = opened(store, name)
    runs = tracker.runs
    assert runs.keys() == {"study", TRIAL, f"{TRIAL}/4"}
    assert {run.status for run in runs.values()} == {"FINISHED"}
    assert logged(tracker, f"{TRIAL}/4").data.params == {"method": "dkd", "seed": "0"}
    assert logged(tracker, f"{TRIAL}/4").data.metrics["val_top1"] == 90.0
    assert logged(tracker, TRIAL).data.params == {"method": "dkd", "seed": "0"}
    assert logged(tracker, TRIAL).data.tags["kdq.status"] == "completed"


def test_a_server_that_comes_and_goes_is_waited_for(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last answers before it went are lost: what they were about is done, and must not be done twice."""
    said: list[str] = []
    tracker = open_tracker(f"sqlite:///{store}/mlflow.db", "gone", store, said.append, lambda: False)
    tracker._server.uri = "http://server"
    monkeypatch.setattr(tracking_server, "PAUSE", 0)
    lost = {"create_run", "log_batch", "set_terminated"}
    for method in lost.copy():
        original = getattr(MlflowClient, method)

        def gone(
            self: MlflowClient, *args: object, _method: str = method, _original: Any = original, **options: object
        ) -> object:
            result = _original(self, *args, **options)
            if _method in lost:
                lost.remove(_method)
                raise MlflowException("no answer")
            return result

        monkeypatch.setattr(MlflowClient, method, gone)
    start(tracker)
    tracker.log_point(POINT, "point", PARAMS, [], {})
    tracker.end_trial(TRIAL, "completed", "", {})
    found = opened(store, "gone")
    assert len(found.client.search_runs([found.experiment])) == 3
    assert logged(found, f"{TRIAL}/4").data.metrics["val_top1"] == 90.0
    assert {found.runs[key].status for key in (TRIAL, f"{TRIAL}/4")} == {"FINISHED"}
    assert said == [], "it was back at once"


def test_a_server_that_stays_away_for_a_while_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tracker = open_tracker(f"sqlite:///{store}/mlflow.db", "a while", store, said.append, lambda: False)
    tracker._server.uri = "http://server"
    monkeypatch.setattr(tracking_server, "PAUSE", 0)
    answers = iter([False, False, True])
    load, work = tracker.table.load, iter([False, True])

    def away(*_: object, **__: object) -> None:
        if not next(answers):
            raise MlflowException("no answer")
        load()

    def create(self: MlflowClient, *args: Any, _original: Any = MlflowClient.create_run, **options: Any) -> Run:
        if not next(work, True):
            raise MlflowException("no answer")
        return cast(Run, _original(self, *args, **options))

    monkeypatch.setattr(tracker.table, "load", away)
    monkeypatch.setattr(MlflowClient, "create_run", create)
    start(tracker)
    assert ["is unavailable" in line for line in said] == [True, False]
    assert opened(store, "a while").runs.keys() == {"study", TRIAL}


def test_a_server_that_takes_a_request_and_does_not_answer_gets_it_once(store: Path) -> None:
    """A second one would make a second run: whether the first was heeded is looked for, not guessed."""
    taken: list[bytes] = []

    class Mute(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Mute) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = MlflowClient(tracking_uri=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(MlflowException):
            client.create_run("0")
        server.shutdown()
    assert len(taken) == 1


def test_an_extension_that_was_cut_off_takes_no_run_from_the_study(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs become former ones before the document says so; the command of before then has them back."""

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    first = opened(store, "cut off")
    start(first)
    first.log_point(POINT, "point", PARAMS, [], {})
    first.end_trial(TRIAL, "completed", "", {})
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "update_run", killed)
        with pytest.raises(Killed):
            opened(store, "cut off").extend({"settings": {}, "trials": []}, "another command", trials=[])
    kinds = {key: run.kind for key, run in opened(store, "cut off").runs.items()}
    assert kinds == {"study": "study", TRIAL: "former trial", f"{TRIAL}/4": "former point"}
    again = opened(store, "cut off")
    start(again)
    again.log_point(POINT, "point", PARAMS, [], {})
    kinds = {key: run.kind for key, run in opened(store, "cut off").runs.items()}
    assert kinds == {"study": "study", TRIAL: "trial", f"{TRIAL}/4": "point"}


@pytest.mark.parametrize(
    ("address", "error", "waits"),
    [
        ("http://server", INTERNAL_ERROR, True),
        ("http://server", PERMISSION_DENIED, False),
        ("sqlite:///file", INTERNAL_ERROR, False),
    ],
)
def test_a_server_is_waited_for_with_a_bound_and_not_at_all_if_it_refuses(
    store: Path, monkeypatch: pytest.MonkeyPatch, address: str, error: int, waits: bool
) -> None:
    said: list[str] = []
    tracker = open_tracker(f"sqlite:///{store}/mlflow.db", "patience", store, said.append, lambda: False)
    tracker._server.uri = address
    monkeypatch.setattr(tracking_server, "PAUSE", 0)
    monkeypatch.setattr(tracking_server, "PATIENCE", 0.1)

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("no answer", error)

    monkeypatch.setattr(DatabaseRuns, "read", fail)
    monkeypatch.setattr(MlflowClient, "create_run", fail)
    with pytest.raises(MlflowException, match="no answer"):
        start(tracker)
    assert len(said) == waits


def test_a_server_is_not_waited_for_by_a_study_that_is_interrupted(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tracker = open_tracker(f"sqlite:///{store}/mlflow.db", "interrupted", store, said.append, lambda: len(said) > 0)
    tracker._server.uri = "http://server"

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("no answer")

    monkeypatch.setattr(DatabaseRuns, "read", fail)
    monkeypatch.setattr(MlflowClient, "create_run", fail)
    with pytest.raises(MlflowException, match="no answer"):
        start(tracker)
    assert len(said) == 1


@pytest.mark.parametrize(("status", "waits"), [(None, True), (503, True), (403, False)])
def test_a_server_that_takes_no_artifact_is_waited_for_unless_it_refuses(
    store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int | None, waits: bool
) -> None:
    """Of artifacts MLflow's client speaks in the errors of requests."""
    tracker = opened(store, f"artifacts {status}")
    start(tracker)
    tracker._server.uri = "http://server"
    response = Response()
    response.status_code = status or 0
    left = iter([HTTPError(response=response) if status else RequestsConnectionError()])
    original = MlflowClient.log_artifact

    def log(self: MlflowClient, *args: Any) -> None:
        for error in left:
            raise error
        original(self, *args)

    monkeypatch.setattr(MlflowClient, "log_artifact", log)
    (tmp_path / "packed").touch()
    with nullcontext() if waits else pytest.raises(HTTPError):
        tracker.log_point(POINT, "point", PARAMS, [str(tmp_path / "packed")], {})
    found = opened(store, f"artifacts {status}").runs[f"{TRIAL}/4"]
    assert found.status == ("FINISHED" if waits else "RUNNING")


def test_one_that_failed_is_opened_again(store: Path) -> None:
    first = opened(store, "again")
    start(first)
    first.end_trial(TRIAL, "failed", "a reason", {})
    assert opened(store, "again").runs[TRIAL].status == "FAILED"
    second = opened(store, "again")
    start(second)
    assert opened(store, "again").runs[TRIAL].status == "RUNNING"
    second.end_trial(TRIAL, "completed", "", {})
    run = logged(opened(store, "again"), TRIAL)
    assert (run.info.status, run.data.tags["kdq.status"], run.data.tags["kdq.reason"]) == ("FINISHED", "completed", "")


def test_a_deleted_study_and_an_experiment_that_is_none_are_said(store: Path) -> None:
    tracker = opened(store, "deleted")
    tracker.client.delete_experiment(tracker.experiment)
    uri = f"sqlite:///{store}/mlflow.db"
    for look in (lambda name: opened(store, name), lambda name: find_document(uri, name)):
        with pytest.raises(UserError, match="was deleted in the MLflow UI: restore it there, or choose another --name"):
            look("deleted")
        with pytest.raises(UserError, match="'Default' is not a study"):
            look("Default")


def _complete(tracker: Tracker) -> None:
    start(tracker)
    tracker.log_epoch(TRIAL, 1, {"val_top1": 50.0})
    tracker.log_point(POINT, "point", PARAMS, [], {})
    tracker.end_trial(TRIAL, "completed", "", {})
    tracker.end_study("completed", {"points": 1})


@pytest.mark.parametrize(
    "deleted", [["study"], [TRIAL], [f"{TRIAL}/4"], ["study", TRIAL], ["study", TRIAL, f"{TRIAL}/4"]]
)
def test_runs_deleted_in_the_ui_are_restored(store: Path, deleted: list[str]) -> None:
    """The study's command makes the study whole, with all that was logged, and no run twice."""
    name = f"restored {' '.join(deleted).replace('/', ' ')}"
    first = opened(store, name)
    _complete(first)
    before = {key: run.id for key, run in first.runs.items()}
    for key in deleted:
        first.client.delete_run(before[key])
    said: list[str] = []
    again = open_tracker(first.uri, name, store, said.append, lambda: False)
    assert again.document() == {"settings": {}, "trials": [TRIAL]}
    for key in deleted:
        assert first.client.get_run(before[key]).info.lifecycle_stage == "deleted", "the command may yet be refused"
    assert not said
    _complete(again)
    assert said == [f"restored in MLflow: {len(deleted)} runs of this study, which were deleted there"]
    _check_family(first, {key: run.id for key, run in opened(store, name).runs.items()}, before)


def _check_family(tracker: Tracker, found: dict[str, str], expected: dict[str, str]) -> None:
    assert found == expected
    runs = {run.info.run_id: run for run in tracker.client.search_runs([tracker.experiment])}
    assert runs.keys() == set(found.values())
    parents = {run_id: run.data.tags.get("mlflow.parentRunId") for run_id, run in runs.items()}
    assert parents == {found["study"]: None, found[TRIAL]: found["study"], found[f"{TRIAL}/4"]: found[TRIAL]}
    assert [m.step for m in tracker.client.get_metric_history(found[TRIAL], "val_top1")] == [1]


def test_runs_deleted_in_the_ui_are_restored_before_an_extension(store: Path) -> None:
    first = opened(store, "restored and extended")
    _complete(first)
    before = {key: run.id for key, run in first.runs.items()}
    for run_id in before.values():
        first.client.delete_run(run_id)
    again = opened(store, "restored and extended")
    assert again.extend({"settings": {"epochs": 2}}, "command", None) == (1, 0)
    assert again.document() == {"settings": {"epochs": 2}}
    _check_family(first, {key: run.id for key, run in again.runs.items()}, before)


def test_runs_deleted_while_the_study_runs_are_restored(store: Path) -> None:
    tracker = opened(store, "meanwhile")
    start(tracker)
    before = {key: run.id for key, run in tracker.runs.items()}
    for run_id in before.values():
        tracker.client.delete_run(run_id)
    _complete(tracker)
    found = {key: run.id for key, run in opened(store, "meanwhile").runs.items()}
    _check_family(tracker, found, {**found, **before})


def test_children_of_runs_deleted_for_good_come_under_their_successors(store: Path) -> None:
    """As `mlflow gc` leaves them, or an earlier version of this program, which made anew what was deleted."""
    first = opened(store, "gone for good")
    _complete(first)
    for key in ("study", TRIAL):
        first.client.set_tag(first.runs[key].id, "kdq.kind", "former trial")  # it is not restored
        first.client.delete_run(first.runs[key].id)
    _complete(opened(store, "gone for good"))
    runs = opened(store, "gone for good").runs
    found = {key: run.id for key, run in runs.items()}
    assert found[f"{TRIAL}/4"] == first.runs[f"{TRIAL}/4"].id
    assert found["study"] != first.runs["study"].id
    _check_family(first, found, found)


def test_a_store_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="cannot be read as a tracking store"):
        opened(tmp_path, "s")


def test_the_front_is_drawn_again_at_most_now_and_then(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = opened(store, "front")
    start(tracker)
    drawn: list[tuple[int, float]] = []
    monkeypatch.setattr(
        "study.tracking.front_log.draw_front", lambda points, path, title, teacher: drawn.append((len(points), teacher))
    )
    tracker.log_front([], 0)
    tracker.log_front([POINT], 1)
    tracker.log_front([POINT, replace(POINT, bits=8, total_bits=2000)], 2)
    assert drawn == [(1, 93.0)]
    tracker.log_point(POINT, "point", PARAMS, [], {})
    tracker.log_front([POINT], 1, always=True)
    assert drawn == [(1, 93.0), (1, 93.0)]


def test_an_extension_without_new_points_logs_the_front_of_all(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its points are found one after the other, and the front is logged when the first is."""
    points = [POINT, replace(POINT, bits=8, total_bits=2000)]
    first = opened(store, "again")
    start(first)
    for point in points:
        first.log_point(point, "point", {**PARAMS, "bits": point.bits}, [], {})
    first.log_front(points, 1, always=True)
    first.end_study("completed", {})
    again = opened(store, "again")
    again.extend({"settings": "others"}, "command", None)
    start(again)
    drawn: list[int] = []
    monkeypatch.setattr("study.tracking.front_log.draw_front", lambda points, *_: drawn.append(len(points)))
    for number in (1, 2):
        again.log_point(points[number - 1], "point", {**PARAMS, "bits": points[number - 1].bits}, [], {})
        again.log_front(points[:number], number)
    again.log_front(points, 2, always=True)
    again.log_front(points, 2, always=True)
    assert drawn == [1, 2]


def test_a_front_without_new_points_is_not_logged_again(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr("study.tracking.front_log.draw_front", lambda points, *_: drawn.append(len(points)))

    def study(points: list[Point]) -> None:
        tracker = opened(store, "front once")
        start(tracker)
        for point in points:
            tracker.log_point(point, "point", PARAMS, [], {})
        tracker.log_front(points, 1, always=True)
        tracker.end_study("completed", {"points": len(points)})

    larger = replace(POINT, bits=8, total_bits=2000)
    for points in ([POINT], [POINT], [POINT, larger], [POINT, larger]):
        study(points)
    assert drawn == [1, 2]
    tracker = opened(store, "front once")
    tracker.extend({"settings": {"epochs": 2}}, "command", None)  # which may drop points
    start(tracker)
    tracker.log_front([POINT], 1, always=True)
    assert drawn == [1, 2, 1]


def test_the_page_of_a_study_has_the_answer_and_points_know_whether_they_are_on_the_front(
    store: Path, tmp_path: Path
) -> None:
    tracker = opened(store, "answer")
    start(tracker)
    worse = replace(POINT, bits=8, total_bits=5000, val_top1=80.0)
    better = replace(POINT, bits=8, total_bits=5000, val_top1=95.0, trial_id="fedcba9876543210")
    tracker.start_trial(better.trial_id, "student", "trial", PARAMS)
    packed = tmp_path / "model.safetensors"
    packed.write_bytes(b"x")

    def on_front() -> dict[str, str]:
        return {key: run.tags["kdq.on_front"] for key, run in opened(store, "answer").runs.items() if "/" in key}

    for finished, points in enumerate(([POINT], [POINT, worse], [POINT, worse, better]), 1):
        tracker.log_point(points[-1], "point", PARAMS, [str(packed)], {})
        tracker.log_front(points, finished, always=True)
    assert on_front() == {f"{TRIAL}/4": "true", f"{TRIAL}/8": "false", f"{better.trial_id}/8": "true"}
    study = logged(tracker, "study")
    note = study.data.tags["mlflow.note.content"]
    assert note.startswith("### Answer so far")
    assert "What was asked" in note
    assert " --name answer`" in note
    assert note.count("95.00 %") == 1
    assert "80.00 %" not in note
    (dataset,) = study.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("digits", "0" * 32)
    sizes = tracker.client.get_metric_history(study.info.run_id, "front_size")
    assert [(metric.step, metric.value) for metric in sizes] == [(1, 1.0), (2, 1.0), (3, 2.0)]
    best = tracker.client.get_metric_history(study.info.run_id, "best_val_top1_8bit")
    assert [(metric.step, metric.value) for metric in best] == [(2, 80.0), (3, 95.0)]

    def registered() -> dict[str, str]:
        model = tracker.client.get_registered_model("answer")
        versions = {str(each.version): each.run_id for each in tracker.client.search_model_versions("name='answer'")}
        assert len(versions) == len(set(versions.values()))
        return {alias: versions[str(version)] for alias, version in model.aliases.items()}

    for _ in range(2):  # the second time adds nothing
        tracker.register_front([POINT, worse])
        assert registered() == {"max-1000-bits": tracker.runs[f"{TRIAL}/4"].id}
    tracker.register_front([POINT, worse, better])
    assert registered() == {
        "max-1000-bits": tracker.runs[f"{TRIAL}/4"].id,
        "max-5000-bits": tracker.runs[f"{better.trial_id}/8"].id,
    }


def test_the_log_of_a_failed_trial_is_its_artifact(store: Path, tmp_path: Path) -> None:
    tracker = opened(store, "failed log")
    start(tracker)
    path = tmp_path / "trial.log"
    path.write_text("Traceback")
    tracker.end_trial(TRIAL, "failed", "it broke", {}, str(path))
    (file,) = Store(tracker.uri, tracker.table.store).artifacts(tracker.runs[TRIAL].id)
    assert Path(file).read_text() == "Traceback"


OTHER = "fedcba9876543210"


def _measure(tracker: Tracker, point: Point) -> None:
    """Run the study to its end with this point alone."""
    tracker.start_study({"settings": {}, "trials": [point.trial_id]}, {"space": "s"}, "command", PAGE)
    tracker.start_trial(point.trial_id, "student", "trial", PARAMS)
    tracker.log_point(point, "point", PARAMS, [], {})
    tracker.end_trial(point.trial_id, "completed", "", {})
    tracker.log_front([point], 1, always=True)
    tracker.end_study("completed", {"points": 1})


@pytest.mark.parametrize("accuracy", [80.0, 95.0])
def test_an_extension_to_as_many_trials_leaves_the_values_of_its_own_points(store: Path, accuracy: float) -> None:
    name = f"as many {accuracy:g}"
    _measure(opened(store, name), POINT)
    other = replace(POINT, trial_id=OTHER, val_top1=accuracy)
    opened(store, name).extend({"settings": {}, "trials": [OTHER]}, "another command", [OTHER])
    for _ in range(2):  # the second time adds nothing
        _measure(opened(store, name), other)
    tracker = opened(store, name)
    study = logged(tracker, "study")
    assert study.data.metrics["hypervolume"] == pytest.approx(front_hypervolume([other]))
    assert study.data.metrics["best_val_top1_4bit"] == accuracy
    history = tracker.client.get_metric_history(study.info.run_id, "best_val_top1_4bit")
    assert sorted((metric.step, metric.value) for metric in history) == sorted([(1, 90.0), (1, accuracy)])


def test_an_extension_to_fewer_trials_leaves_the_values_of_its_own_points(store: Path) -> None:
    tracker = opened(store, "fewer")
    start(tracker)
    better = replace(POINT, trial_id=OTHER, val_top1=95.0)
    tracker.start_trial(OTHER, "student", "trial", PARAMS)
    for finished, points in enumerate(([POINT], [POINT, better]), 1):
        tracker.log_point(points[-1], "point", PARAMS, [], {})
        tracker.log_front(points, finished, always=True)
    tracker.end_study("completed", {"points": 2})
    opened(store, "fewer").extend({"settings": {}, "trials": [TRIAL]}, "another command", [TRIAL])
    _measure(opened(store, "fewer"), POINT)
    found = logged(opened(store, "fewer"), "study").data.metrics
    assert found["hypervolume"] == pytest.approx(front_hypervolume([POINT]))
    assert found["best_val_top1_4bit"] == 90.0


def test_the_best_of_the_curves_is_no_survivor_of_early_stopping() -> None:
    """Of the other configuration one seed is left, above the mean of the one that has both."""
    points = [replace(POINT, trial_id=f"s{seed}", seed=seed, val_top1=80.0 + 2 * seed) for seed in (0, 1)]
    survivor = replace(POINT, trial_id="lucky", alpha=0.25, seed=1, val_top1=95.0)
    assert _progress([*points, survivor])["best_val_top1_4bit"] == 81.0


def test_points_of_former_trials_leave_the_front(store: Path) -> None:
    """So a filter by the tag alone returns the front."""
    _measure(opened(store, "left"), POINT)
    opened(store, "left").extend({"settings": {}, "trials": [OTHER]}, "another command", [OTHER])
    _measure(opened(store, "left"), replace(POINT, trial_id=OTHER))
    found = opened(store, "left").runs
    assert {key: run.tags["kdq.on_front"] for key, run in found.items() if "/" in key} == {
        f"{TRIAL}/4": "false",
        f"{OTHER}/4": "true",
    }


@pytest.mark.parametrize("error", [INTERNAL_ERROR, PERMISSION_DENIED])
@pytest.mark.parametrize("method", ["set_experiment_tag", "create_registered_model", "set_registered_model_alias"])
def test_a_study_ends_well_without_views_and_registry(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: int
) -> None:
    """One line each: three views, or one registration."""
    lines: list[str] = []
    tracker = open_tracker(f"sqlite:///{store}/mlflow.db", f"{method}-{error}", store, lines.append, lambda: False)
    packed = tmp_path / "model.safetensors"
    packed.write_bytes(b"x")

    def fail(*_: object, **__: object) -> None:
        raise MlflowException("no answer", error)

    monkeypatch.setattr(MlflowClient, method, fail)
    start(tracker)
    tracker.log_point(POINT, "point", PARAMS, [str(packed)], {})
    tracker.end_trial(TRIAL, "completed", "", {})
    tracker.register_front([POINT])
    tracker.end_study("completed", {"points": 1})
    assert [line.startswith("MLflow did not ") for line in lines] == [True] * (
        3 if method == "set_experiment_tag" else 1
    )
    assert {run.status for run in opened(store, f"{method}-{error}").runs.values()} == {"FINISHED"}


def test_the_data_set_is_logged_once_also_after_a_kill_before_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_inputs", killed)
        with pytest.raises(KeyboardInterrupt):
            start(opened(store, "data set"))
    for _ in range(2):
        tracker = opened(store, "data set")
        start(tracker)
        assert [each.dataset.name for each in logged(tracker, "study").inputs.dataset_inputs] == ["digits"]
