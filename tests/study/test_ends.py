"""How trials end that do not end well: with a reason, a log and one word everywhere; their neighbours go on."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from study.backends import ray_tune
from study.backends.backend import Queue
from study.control.journal import Ended, Journal
from study.plan.resources import Resources
from study.results.status import TrialStatus
from study.run import main
from study.trial.events import TrialEnded
from tests.patience import patient

Result = subprocess.CompletedProcess[str]
Run = Callable[..., Result]

FAULTY = Path(__file__).with_name("faulty.py")
SPACE = "description: of some betas\nparams: {method: dkd, beta: {grid: [6, 4, 7, 8, 1.0e38]}}\nbits: [4]\n"
ENDS = {
    "4": "completed",
    "6": "out_of_memory",
    "7": "failed",
    "8": "failed",
    "1e+38": "diverged",
}


def of_kind(folder: Path, study: str, kind: str) -> list[MlflowRun]:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return [run for run in found if run.data.tags["kdq.kind"] == kind]


def test_every_end_has_its_word_reason_and_log(prepared: Path) -> None:
    tmp_path = prepared
    (tmp_path / "space.yaml").write_text(SPACE)
    arguments = ["--space", "space.yaml", "--name", "s", "--epochs", "2", "--set", "teacher_train.epochs=3"]
    command = [sys.executable, str(FAULTY), *arguments, "--gpus-per-trial", "0.5"]
    environment = {**os.environ, "PYTHONPATH": str(FAULTY.parents[2])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=patient(80))
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr == ""
    assert "Traceback" not in result.stdout
    assert "(raylet)" not in result.stdout

    trials = of_kind(tmp_path, "s", "trial")
    assert {f"{float(t.data.params['beta']):g}": t.data.tags["kdq.status"] for t in trials} == ENDS
    assert {float(p.data.params["beta"]) for p in of_kind(tmp_path, "s", "point")} == {4.0}
    journal = Journal(tmp_path / "mlruns" / "studies" / "s" / "journal.jsonl").read()
    ended = {record.trial: record.status for record in journal if isinstance(record, Ended)}
    assert ended == {t.data.tags["kdq.trial_id"]: t.data.tags["kdq.status"] for t in trials}

    lines = result.stdout.splitlines()
    for trial in trials:
        beta, word = trial.data.params["beta"], trial.data.tags["kdq.status"]
        name = f"dkd alpha=1 beta={float(beta):g} temperature=4 seed=0"
        (line,) = [line for line in lines if f"] {name}: {word}" in line]
        if word != "completed":
            log = Path(line.partition("(log: ")[2].partition(")")[0])
            assert log == tmp_path / "mlruns" / "logs" / "s" / f"{trial.data.tags['kdq.trial_id']}.log"
            assert trial.data.tags["kdq.reason"] in line
            assert log.read_text()
    (counts,) = [line for line in lines if line.startswith("study s: failed")]
    assert all(f"{count} {word}" in counts for word, count in Counter(ENDS.values()).items())
    assert result.stdout.count("its worker died and another resumes it") == 2
    assert result.stdout.count("likely cause: the GPU's memory") == 1
    assert result.stdout.count("likely cause: the worker crashed or was killed") == 1

    attempts: dict[str, list[str]] = {}
    for line in (tmp_path / "attempts").read_text().splitlines():
        attempts.setdefault(line.split()[0], []).append(line.split()[1])
    assert attempts == {
        "4": ["0.5"],
        "6": ["0.5", "1"],
        "7": ["0.5"],
        "8": ["0.5"] * 3,
        "1e+38": ["0.5"],
    }


def test_three_that_fail_alike_stop_the_study_and_mended_it_goes_on(
    run_inline: Run, small_study: list[str], prepared: Path
) -> None:
    """The teacher's weights are lost, and nobody has asked it about a view."""
    tmp_path, run, stages = prepared, run_inline, prepared / "mlruns" / "stages"
    (teacher,) = [file for file in stages.glob("student/*/stage.json") if '"teacher": null' in file.read_text()]
    (teacher.parent / "model.safetensors").unlink()
    arguments = [*small_study, "--trials", "3", "--bits", "2", "--seeds", "1"]
    result = run(tmp_path, *arguments)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "3 failed" in result.stdout
    stopped, cause, hint = result.stderr.splitlines()
    assert stopped.startswith("error: study 'small' stopped: 3 trials failed for the same reason: UserError: ")
    assert Path(stopped.partition("(log: ")[2].rstrip(")")).read_text().startswith("Traceback")
    assert cause.startswith("likely cause: a file of the data, the teacher or a stage is missing")
    assert "run the same command again" in hint
    (study,) = of_kind(tmp_path, "small", "study")
    assert study.data.tags["kdq.status"] == "failed"

    shutil.rmtree(teacher.parent)
    result = run(tmp_path, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {trial.data.tags["kdq.status"] for trial in of_kind(tmp_path, "small", "trial")} == {"completed"}
    assert len(of_kind(tmp_path, "small", "point")) == 6


def test_one_that_fails_again_and_again_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny: dict[str, Any]
) -> None:
    """Its worker may die after it has told its end; another then tells it anew."""
    end = TrialEnded(TrialStatus.FAILED, "ValueError: one", error="ValueError: one")

    def run(queue: Queue, resources: Resources, slots: int, folder: Path) -> None:
        while trial := queue.next():
            queue.started(trial.id)
            for _ in range(3):
                queue.report(trial.id, end)

    monkeypatch.setattr(ray_tune, "run_on_ray", run)
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text("description: two\nparams: {method: dkd, beta: {grid: [2, 4]}}\nbits: [2]\n")
    assert main(["--space", "space.yaml", *(f"--set={key}={value}" for key, value in tiny.items())]) == 1
    printed = capsys.readouterr()
    assert "trials: 2 failed" in printed.out
    assert "failed for the same reason" not in printed.err
