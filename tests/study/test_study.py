"""A real study from the command line: what it prints, what stands in MLflow, and what a second run does."""

import csv
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from analysis.__main__ import main
from study.results.point import COLUMNS
from study.run import main as study
from tests.study.inline_study import call

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]
Finished = tuple[Path, Result]


def runs(folder: Path, study: str = "small") -> list[MlflowRun]:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def of_kind(found: list[MlflowRun], kind: str) -> list[MlflowRun]:
    return [run for run in found if run.data.tags["kdq.kind"] == kind]


def ended(folder: Path) -> dict[str, tuple[int, dict[str, float]]]:
    """When each trial and point ended, and with which metrics."""
    found = [run for run in runs(folder) if run.data.tags["kdq.kind"] != "study"]
    return {run.info.run_id: (run.info.end_time, run.data.metrics) for run in found}


def analysis(folder: Path, *arguments: str) -> str:
    result = call(main, folder, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_what_it_prints(finished: Finished) -> None:
    folder, result = finished
    first = result.stdout.splitlines()[0]
    assert "digits" in first
    assert "--workload cifar10" in first
    assert "Pareto front" in result.stdout
    assert "2 completed" in result.stdout
    assert "mlflow ui --backend-store-uri sqlite:///" in result.stdout
    assert "-m analysis best --study small --max-bits" in result.stdout
    figure = next(line.removeprefix("figure: ") for line in result.stdout.splitlines() if line.startswith("figure: "))
    assert (folder / figure).read_bytes().startswith(b"\x89PNG")
    assert result.stderr == ""


def test_runs_hang_together(finished: Finished) -> None:
    found = runs(finished[0])
    (study,) = of_kind(found, "study")
    trials, points = of_kind(found, "trial"), of_kind(found, "point")
    assert (len(trials), len(points)) == (2, 6)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    parents = {run.info.run_id: run.data.tags["kdq.trial_id"] for run in trials}
    assert all(parents[p.data.tags["mlflow.parentRunId"]] == p.data.tags["kdq.trial_id"] for p in points)
    for point in points:
        assert {
            "method",
            "alpha",
            "beta",
            "temperature",
            "seed",
            "student",
            "bits",
            "dataset",
        } <= point.data.params.keys()
        assert {"val_top1", "test_top1", "total_bits", "packed_bytes", "avg_bits"} <= point.data.metrics.keys()
        assert "None" not in point.data.params.values()
    assert all(len(run.data.metrics) <= 40 for run in found)


def test_curves_have_a_value_an_epoch(finished: Finished) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{finished[0]}/mlruns/mlflow.db")
    for trial in of_kind(runs(finished[0]), "trial"):
        for key in ("val_top1", "train_loss", "lr"):
            assert [m.step for m in client.get_metric_history(trial.info.run_id, key)] == [1, 2]


def test_the_study_run_has_its_front_and_the_points_their_models(finished: Finished) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{finished[0]}/mlruns/mlflow.db")
    found = runs(finished[0])
    (study,) = of_kind(found, "study")
    names = {item.path for item in client.list_artifacts(study.info.run_id)}
    assert {"front.csv", "front.json", "front.png", "points.csv"} <= names
    for point in of_kind(found, "point"):
        sizes = {item.path: item.file_size for item in client.list_artifacts(point.info.run_id)}
        assert sizes.keys() == {"model.safetensors", "layers.json", "metrics.json"}
        assert sizes["model.safetensors"] == point.data.metrics["packed_bytes"]
        assert {f"{part}_{name}" for part in ("val", "test") for name in ("top5", "balanced", "nll", "ece")} <= {
            *point.data.metrics
        }


def test_points_as_csv(finished: Finished) -> None:
    rows = list(csv.DictReader(io.StringIO(analysis(finished[0], "points", "--study", "small", "--format", "csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 6
    assert {row["bits"] for row in rows} == {"32", "2", "4"}
    assert {row["student"] for row in rows} == {"resnet8"}
    assert any(row["on_front"] == "True" for row in rows)
    for row in rows:
        assert 8 * int(row["packed_bytes"]) >= int(row["total_bits"])


def test_the_best_under_a_budget_fits_it(finished: Finished) -> None:
    best = json.loads(analysis(finished[0], "best", "--study", "small", "--max-bits", "1e6", "--format", "json"))
    rows = csv.DictReader(io.StringIO(analysis(finished[0], "points", "--study", "small", "--format", "csv")))
    fitting = [float(row["val_top1"]) for row in rows if int(row["total_bits"]) <= 1e6]
    assert best["total_bits"] <= 1e6
    assert best["val_top1"] == max(fitting)


@pytest.fixture
def folder(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the study, for other commands to change."""
    return Path(shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True))


def test_a_second_run_does_nothing_again(
    folder: Path, run: Run, small_study: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it import Ray, which takes seconds."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    before = ended(folder)
    stages = {path: path.stat().st_mtime_ns for path in (folder / "mlruns" / "stages").glob("*/*")}
    result = run(folder, *small_study)
    assert result.returncode == 0, result.stderr
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "mlflow" in imported
    assert "ray" not in imported
    assert ended(folder) == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "mlruns" / "stages").glob("*/*")} == stages
    assert len(runs(folder)) == 9


def test_other_settings_under_the_same_name_are_refused(folder: Path, run_inline: Run, small_study: list[str]) -> None:
    result = run_inline(folder, *small_study, "--seeds", "1")
    assert result.returncode == 2
    assert "seeds was [0], is now [1]" in result.stderr
    assert len(runs(folder)) == 9


def test_a_dry_run_finds_what_a_run_would_refuse_of_a_study(folder: Path, small_study: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    refused = call(study, folder, *small_study, "--seeds", "1", "--dry-run")
    assert refused.returncode == 2
    assert "seeds was [0], is now [1]" in refused.stderr
    assert call(study, folder, *small_study, "--seeds", "0,1", "--extend", "--dry-run").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_the_teacher_itself_is_quantized(prepared: Path, run_inline: Run) -> None:
    arguments = ["--space", "teacher_ptq", "--bits", "4", "--name", "rows", "--set", "teacher_train.epochs=3"]
    result = run_inline(prepared, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = list(csv.DictReader(io.StringIO(analysis(prepared, "points", "--study", "rows", "--format", "csv"))))
    assert [(row["method"], row["student"], row["bits"], row["alpha"]) for row in rows] == [
        ("teacher", "resnet20", "4", ""),
        ("teacher", "resnet20", "32", ""),
    ]


def test_a_study_runs_in_a_thread_of_another_program(prepared: Path, run_inline: Run) -> None:
    """As of a job queue or a web page: Python lets only the main thread install signal handlers."""
    arguments = ["--space", "teacher_ptq", "--bits", "8", "--name", "thread", "--set", "teacher_train.epochs=3"]
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run_inline, prepared, *arguments).result()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "trials: 1 completed" in result.stdout
