"""A study under its old name: what failed is tried again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from study import trial
from study.run import main

TINY = {
    "teacher": "train:resnet8",
    "teacher_train.epochs": 10,
    "teacher_train.batch_size": 8,
    "train_images": 40,
    "val_images": 20,
    "train.epochs": 2,
    "calibration_images": 8,
    "quantizer.method": "rtn",
}
SPACE = "description: two students\nparams: {method: dkd, warmup: 0, beta: {grid: [2, 4]}}\nbits: [2]\n"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serially: Callable[..., None]) -> Callable[..., int]:
    """Function of further options: runs the study `s` of two students here, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    serially()
    Path("space.yaml").write_text(SPACE)
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    return lambda *more: main(["--space", "space.yaml", "--name", "s", *settings, *more])


def runs(kind: str) -> dict[str, Run]:
    """The study's runs of a kind in MLflow, by trial or by point."""
    client = MlflowClient(tracking_uri="sqlite:///mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    found = [run for run in client.search_runs([experiment.experiment_id]) if run.data.tags["kdq.kind"] == kind]
    by_key = {run.data.tags.get("kdq.point_id") or run.data.tags.get("kdq.trial_id", "study"): run for run in found}
    assert len(by_key) == len(found)
    return by_key


def statuses() -> list[str]:
    return [run.data.tags["kdq.status"] for run in runs("trial").values()]


def test_a_retry_mends_what_failed_and_touches_nothing_else(
    study: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = iter([True])

    def measure(*arguments: Any) -> Iterator[Any]:
        if next(failing, False):
            raise RuntimeError("out of luck")
        return real(*arguments)

    assert study("--retry-failed") == 2
    assert "study 's' has run no trial here: leave --retry-failed out" in capsys.readouterr().err
    real = trial.measure
    monkeypatch.setattr(trial, "measure", measure)
    assert study() == 1
    before = runs("trial")
    assert sorted(statuses()) == ["completed", "failed"]
    assert study("--retry-failed") == 0
    after = runs("trial")
    assert statuses() == ["completed", "completed"]
    assert len(runs("point")) == 4
    same = [key for key, run in after.items() if run.info.end_time == before[key].info.end_time]
    assert [before[key].data.tags["kdq.status"] for key in same] == ["completed"]
    capsys.readouterr()
    assert study("--retry-failed") == 0
    assert "--retry-failed: no trial of the study has failed" in capsys.readouterr().out
