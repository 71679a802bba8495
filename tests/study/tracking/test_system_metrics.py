"""System metrics: on request only, on the study's run, without a step twice."""

import time
from pathlib import Path

import pytest

from kdq.errors import UserError
from study.tracking.system_metrics import SystemMetrics
from tests.patience import patient
from tests.study.tracking.test_tracker import logged, opened, start

CPU = "system/cpu_utilization_percentage"


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")


def _run(store: Path, status: str) -> list[int]:
    """Run a command of the study until its run has a further step; return all steps."""
    tracker = opened(store, "system")
    start(tracker)
    run_id = tracker.runs["study"].id
    before = len(tracker.client.get_metric_history(run_id, CPU))
    until = time.monotonic() + patient(30)
    while len(tracker.client.get_metric_history(run_id, CPU)) == before and time.monotonic() < until:
        time.sleep(0.05)
    tracker.end_study(status, {})
    return [metric.step for metric in tracker.client.get_metric_history(run_id, CPU)]


def test_a_resumed_study_goes_on_after_its_last_step(tmp_path: Path, requested: None) -> None:
    first, second = _run(tmp_path, "interrupted"), _run(tmp_path, "completed")
    assert 0 < len(first) < len(second)
    assert sorted(second) == list(range(len(second)))


def test_a_study_has_none_without_request(tmp_path: Path) -> None:
    tracker = opened(tmp_path, "none")
    start(tracker)
    tracker.end_study("completed", {})
    assert not [name for name in logged(tracker, "study").data.metrics if name.startswith("system/")]


@pytest.mark.parametrize(
    ("name", "value"),
    [("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "maybe"), ("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "often")],
)
def test_a_wrong_value_is_one_message(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{name}.*; set another value, or unset it"):
        SystemMetrics("sqlite:///unused.db")
