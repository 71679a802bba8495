"""Two studies at once in the same folder, and somebody who looks on in MLflow's UI: nobody is disturbed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "study" / "inline_study.py"
COMMON = ["--space", "dkd_grid", "--epochs", "2", "--set", "teacher_train.epochs=3", "--set", "quantizer.method=rtn"]
STUDIES = {"ada": ["--trials", "3", "--bits", "2"], "bob": ["--trials", "2", "--bits", "2,4"]}
"""They share their teacher, two students, the float points and those at 2 bits."""


@contextmanager
def started(folder: Path) -> Iterator[dict[str, "subprocess.Popen[str]"]]:
    """Both studies, by their names; none is left behind."""
    studies = {name: start(folder, name) for name in STUDIES}
    try:
        yield studies
    finally:
        for study in studies.values():
            study.kill()
            study.wait()


def start(folder: Path, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SCRIPT), *COMMON, "--name", name, *STUDIES[name]]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = str(ROOT)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def of_kind(found: list[Run], kind: str) -> list[Run]:
    return [run for run in found if run.data.tags["kdq.kind"] == kind]


def look(client: MlflowClient, name: str) -> dict[str, Run]:
    """As somebody who watches a study in the UI: its table of runs, and the curves of one of them."""
    if (experiment := client.get_experiment_by_name(name)) is None:
        return {}
    found = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    for trial in of_kind(list(found.values()), "trial")[:1]:
        client.get_metric_history(trial.info.run_id, "val_top1")
    return found


def test_two_studies_and_an_onlooker(
    mlflow_server: Callable[[Path, str], AbstractContextManager[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # an answer that is an error is one
    (tmp_path / "mlruns").mkdir()
    store = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    with mlflow_server(tmp_path, store) as address, started(tmp_path) as studies:
        client, looks = MlflowClient(tracking_uri=address), 0
        seen: dict[str, set[str]] = {name: set() for name in STUDIES}
        while any(study.poll() is None for study in studies.values()):
            for name in STUDIES:
                found = look(client, name).keys()
                assert seen[name] <= found, "a row was lost"
                seen[name] = {*found}
                looks += len(found) > 0
            time.sleep(0.1)
        outputs = {name: study.communicate()[0] for name, study in studies.items()}
        last = {name: look(client, name) for name in STUDIES}
    assert looks > 5
    assert [study.returncode for study in studies.values()] == [0, 0], outputs
    for text in (*outputs.values(), (tmp_path / "server.log").read_text()):
        assert "locked" not in text
        assert "Traceback" not in text
    for name, found in last.items():
        assert len(of_kind(list(found.values()), "study")) == 1
        assert {run.info.status for run in found.values()} == {"FINISHED"}
        assert {key: run.data.metrics for key, run in found.items()} == in_the_store(tmp_path, name)
    points = {name: of_kind(list(found.values()), "point") for name, found in last.items()}
    assert {name: len(found) for name, found in points.items()} == {"ada": 6, "bob": 6}
    shared = [of_beta(points[name], bits) for name in STUDIES for bits in ("32", "2")]
    assert all(shared[2][beta] == shared[0][beta] and shared[3][beta] == shared[1][beta] for beta in shared[2])
    stages = tmp_path / "mlruns" / "stages"
    made = {kind: len(list((stages / kind).glob("[0-9a-f]*/stage.json"))) for kind in ("student", "point", "logits")}
    assert made == {"student": 3 + 1, "point": 3 + 3 + 2, "logits": 2}
    assert not [left for left in stages.glob("*/.*") if left.name.startswith((".making", ".removing"))]


def in_the_store(folder: Path, name: str) -> dict[str, dict[str, float]]:
    """The metrics of a study's runs, read from the file and not through the server."""
    found = look(MlflowClient(tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db"), name)
    return {key: run.data.metrics for key, run in found.items()}


def of_beta(points: list[Run], bits: str) -> dict[str, dict[str, float]]:
    """What the points at one width measured, by their beta."""
    return {run.data.params["beta"]: run.data.metrics for run in points if run.data.params["bits"] == bits}
