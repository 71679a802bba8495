"""Real studies whose trials share students, stop and pause: on Ray, two at a time, where that matters."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

Run = Callable[..., subprocess.CompletedProcess[str]]
AXIS = ["--space", "smoke", "--set", "bits={grid: [2, 4]}", "--epochs", "4", "--set", "teacher_train.epochs=3"]
AXIS += ["--set", "quantizer.method=rtn"]


@pytest.mark.parametrize("scheduler", ["asha_pareto", "halving_pareto", "none"])
def test_trials_that_share_a_student_stop_pause_and_end(
    run: Run, run_inline: Run, prepared: Path, scheduler: str
) -> None:
    """The second of two trials waits for the student of the first, which may be stopped meanwhile."""
    tmp_path, arguments = prepared, [*AXIS, "--scheduler", scheduler, "--name", "shared"]
    first = (run_inline if scheduler == "none" else run)(tmp_path, *arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    lines = (tmp_path / "mlruns" / "studies" / "shared" / "journal.jsonl").read_text().splitlines()
    ends = {record["trial"]: record for record in map(json.loads, lines) if record["event"] == "end"}
    assert len(ends) == 6
    assert {record["status"] for record in ends.values()} == (
        {"completed"} if scheduler == "none" else {"completed", "stopped"}
    )
    students = [path for path in (tmp_path / "mlruns" / "stages" / "student").iterdir() if path.is_dir()]
    finished = [path for path in students if (path / "model.safetensors").exists()]
    assert len(finished) <= 4  # the teacher is a student too, and three students serve six trials
    assert scheduler != "none" or (len(finished) == 4 and "is reused" in first.stdout)

    again = run_inline(tmp_path, *arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "mlruns" / "studies" / "shared" / "journal.jsonl").read_text().splitlines() == lines
    client = MlflowClient(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("shared")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    trials = {r.data.tags["kdq.trial_id"]: r for r in runs if r.data.tags["kdq.kind"] == "trial"}
    assert {key: r.data.tags["kdq.status"] for key, r in trials.items()} == {k: e["status"] for k, e in ends.items()}
    assert all(r.info.status == "FINISHED" for r in runs)
    assert [r.data.tags["kdq.status"] for r in runs if r.data.tags["kdq.kind"] == "study"] == ["completed"]
    points = {r.data.tags["kdq.trial_id"] for r in runs if r.data.tags["kdq.kind"] == "point"}
    assert points == {key for key, record in ends.items() if record["status"] == "completed"}
    assert all("epoch" in r.data.tags["kdq.reason"] for r in trials.values() if r.data.tags["kdq.status"] == "stopped")


def test_trials_that_diverged_keep_their_end(run_inline: Run, prepared: Path) -> None:
    arguments = ["--space", "smoke", "--epochs", "2", "--set", "teacher_train.epochs=3", "--set", "train.lr=1e30"]
    for _ in range(2):
        result = run_inline(prepared, *arguments, "--name", "diverged")
        assert result.returncode == 1, result.stdout + result.stderr
        assert "error: every trial diverged; likely cause: the learning rate is too high" in result.stderr
        client = MlflowClient(f"sqlite:///{prepared}/mlruns/mlflow.db")
        experiment = client.get_experiment_by_name("diverged")
        assert experiment is not None
        found = [
            (run.data.tags["kdq.kind"], run.info.status, run.data.tags["kdq.status"])
            for run in client.search_runs([experiment.experiment_id])
        ]
        assert sorted(found) == [("study", "FINISHED", "completed"), *[("trial", "FAILED", "diverged")] * 3]
