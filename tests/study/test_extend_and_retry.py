"""A study under its old name: what failed is tried again; with another space or more epochs, what is common is kept."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from kdq.distill.precision import Choice
from kdq.distill.trainer import Trainer
from study.plan import precision
from study.run import main
from study.tracking.tracker import Tracker
from study.trial import worker

SPACE = "description: two students\nparams: {method: dkd, warmup: 0, beta: {grid: [2, 4]}}\nbits: [2]\n"
CONSTANT = ["--set", "train.schedule=step", "--set", "train.milestones=[]"]


@pytest.fixture
def study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serially: Callable[..., None], tiny: dict[str, Any]
) -> Callable[..., int]:
    """Function of further options: runs the study `s` of two students here, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    serially()
    Path("space.yaml").write_text(SPACE)
    settings = [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    return lambda *more: main(["--space", "space.yaml", "--name", "s", *settings, *more])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, on one line."""
    return " ".join(capsys.readouterr().out.split())


def client() -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{Path.cwd()}/mlruns/mlflow.db")


def runs(kind: str, study: str = "s") -> dict[str, Run]:
    """A study's runs of a kind in MLflow, by trial or by point."""
    experiment = client().get_experiment_by_name(study)
    assert experiment is not None
    found = [run for run in client().search_runs([experiment.experiment_id]) if run.data.tags["kdq.kind"] == kind]
    by_key = {run.data.tags.get("kdq.point_id") or run.data.tags.get("kdq.trial_id", "study"): run for run in found}
    assert len(by_key) == len(found)
    return by_key


def ends(kind: str) -> dict[str, int]:
    return {key: run.info.end_time for key, run in runs(kind).items()}


def results(study: str) -> dict[str, dict[str, float]]:
    """What stands of its points in MLflow."""
    return {key: run.data.metrics for key, run in runs("point", study).items()}


def betas(kind: str) -> set[str]:
    return {run.data.params["beta"] for run in runs(kind).values()}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each epoch was trained, of teachers too."""
    epochs = Counter[int]()
    real = Trainer.run_epoch

    def run_epoch(trainer: Trainer) -> dict[str, float]:
        epochs[trainer.epoch + 1] += 1
        return real(trainer)

    monkeypatch.setattr(Trainer, "run_epoch", run_epoch)
    return epochs


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
    assert "study 's' has run no trial here: omit --retry-failed" in capsys.readouterr().err
    real = worker.measure
    monkeypatch.setattr(worker, "measure", measure)
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
    assert "--retry-failed: no trial of the study has failed" in said(capsys)


def test_another_space_keeps_what_is_common_and_marks_the_rest(
    study: Callable[..., int],
    trained: Counter[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*arguments: Any) -> tuple[int, int]:
        raise OSError("no space left")

    assert study() == 0
    before = ends("trial") | ends("point")
    other = ("--set", "beta={grid: [4, 6]}")
    trained.clear()
    capsys.readouterr()
    assert study(*other) == 2
    assert "space.params.beta was" in (error := capsys.readouterr().err)
    assert "give --extend" in error
    assert ends("trial") | ends("point") == before
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "extend", full)
        assert study(*other, "--extend") == 2
    assert study() == 0, "it was not extended"
    assert ends("trial") | ends("point") == before
    assert study(*other, "--extend") == 0
    assert "extended: trials kept: 1; no longer in its space: 1" in said(capsys)
    assert trained == {1: 1, 2: 1}
    assert (betas("trial"), betas("former trial")) == ({"4.0", "6.0"}, {"2.0"})
    assert (betas("point"), betas("former point")) == ({"4.0", "6.0"}, {"2.0"})
    for again in ([*other, "--extend"], other):
        known = ends("trial")
        assert study(*again) == 0
        assert ends("trial") == known
    trained.clear()
    assert study("--set", "beta={grid: [2, 4, 6]}", "--seeds", "0,1", "--extend") == 0
    assert before.items() <= (ends("trial") | ends("point")).items()
    assert trained == {1: 3, 2: 3}
    assert (len(runs("trial")), len(runs("point")), runs("former trial"), runs("former point")) == (6, 12, {}, {})
    capsys.readouterr()
    assert study("--name", "t", "--set", "beta={grid: [2, 4, 6]}", "--seeds", "0,1") == 0
    assert results("s") == results("t")
    assert trained == {1: 3, 2: 3}


def test_more_epochs_go_on_where_the_schedule_is_constant_and_begin_anew_where_not(
    study: Callable[..., int], trained: Counter[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(*CONSTANT) == 0
    trained.clear()
    assert study(*CONSTANT, "--extend", "--set", "train.epochs=4") == 0
    assert "epochs 2 -> 4: 2 of 2 student configurations are resumed from epoch 2" in said(capsys)
    assert trained == {3: 2, 4: 2}
    assert len(runs("trial")) == len(runs("former trial")) == 2
    for run in runs("trial").values():
        assert [metric.step for metric in client().get_metric_history(run.info.run_id, "lr")] == [1, 2, 3, 4]
    shutil.rmtree("mlruns/stages/student")
    assert study(*CONSTANT, "--set", "train.epochs=4", "--name", "straight") == 0
    assert results("s") == results("straight")
    trained.clear()
    assert study("--name", "cosine") == 0
    assert study("--name", "cosine", "--extend", "--set", "train.epochs=3") == 0
    assert "2 of 2 student configurations are retrained, since the schedule 'cosine'" in said(capsys)
    assert trained == {1: 4, 2: 4, 3: 2}
    students = {path.parent for path in Path("mlruns/stages/student").glob("*/stage.json")}
    assert main(["--prune", "cosine", "--yes"]) == 0
    left = {path.parent for path in Path("mlruns/stages/student").glob("*/stage.json")}
    assert len(students - left) == 4, "those of three epochs, and those of two"


def test_a_study_keeps_its_precision_on_another_machine(
    study: Callable[..., int],
    trained: Counter[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auto = ("--set", "train.precision=auto", "--set", "teacher_train.precision=auto")
    printed = "precision of training: bf16 (auto: "
    monkeypatch.setattr(precision, "choose", lambda device: Choice("bf16", "this processor has AMX"))
    assert study(*auto, "--trials", "1") == 0
    assert printed + "this processor has AMX)" in said(capsys)
    assert {run.data.params["train.precision"] for run in runs("study").values()} == {"bf16"}
    (command,) = {run.data.tags["kdq.command"] for run in runs("study").values()}  # of `analysis best`
    assert command.endswith(" --set train.precision=bf16 --set teacher_train.precision=bf16")
    trained.clear()
    monkeypatch.setattr(precision, "choose", lambda device: Choice("float32", "this processor lacks it"))
    assert study(*auto, "--trials", "1") == 0
    found = printed + "chosen when the study began; a new study would take float32, since this processor lacks it)"
    assert found in said(capsys)
    assert not trained
    assert study("--set", "train.precision=float32", "--trials", "1") == 2
    assert "workload.train.precision was bf16, is now float32" in " ".join(capsys.readouterr().err.split())
