"""Trials one after the other in this process, as a backend must run them."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.backends import inline
from study.backends.backend import Backend
from study.backends.inline import run_inline
from study.backends.ray_tune import run_on_ray
from study.plan.resources import Resources
from study.schedulers.scheduler import Decision
from study.trial.worker import Inputs, Probing

EVENTS = ("epoch", "point", "end")


@pytest.mark.parametrize("backend", [run_inline, run_on_ray])
def test_all_backends_are_called_alike(backend: Backend) -> None:
    _, *declared = inspect.signature(Backend.__call__).parameters.values()
    assert [*inspect.signature(backend).parameters.values()] == declared


@dataclass
class Study:
    """A queue of trials by their names, and what is reported of them; the decision on each is CONTINUE if not given."""

    waiting: list[str]
    decisions: Mapping[tuple[str, str], Decision | Exception] = field(default_factory=dict)
    interrupted_at: tuple[str, str] | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)
    is_done: bool = True
    inputs: Any = "inputs"
    probing: Any = "probing"
    logs: Path = Path("logs")

    def next(self) -> Any:
        return SimpleNamespace(id=self.waiting.pop(0)) if self.waiting else None

    @property
    def is_interrupted(self) -> bool:
        return self.interrupted_at in self.seen

    def is_alone(self, trial_id: str) -> bool:
        return False

    def started(self, trial_id: str) -> None:
        self.seen.append((trial_id, "started"))

    def report(self, trial_id: str, event: Any) -> Decision:
        self.seen.append((trial_id, event))
        decision = self.decisions.get(self.seen[-1], Decision.CONTINUE)
        if isinstance(decision, Exception):
            raise decision
        return decision

    def run(self) -> list[tuple[str, str]]:
        run_inline(self, Resources(1, 0), 1, Path("unused"))
        return self.seen


def whole(trial: str) -> list[tuple[str, str]]:
    return [(trial, event) for event in ("started", *EVENTS)]


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every trial has the same three events; returns the trials whose generators have ended, in order."""
    ended: list[str] = []

    def run_trial(trial: Any, inputs: Inputs, device: str, log: Path, probing: Probing) -> Iterator[str]:
        assert (inputs, device, log, probing) == ("inputs", "cpu", Path(f"logs/{trial.id}.log"), "probing")
        try:
            yield from EVENTS
        finally:
            ended.append(trial.id)

    monkeypatch.setattr(inline, "run_trial", run_trial)
    return ended


def test_trials_run_one_after_the_other(closed: list[str]) -> None:
    assert Study(["a", "b"]).run() == [*whole("a"), *whole("b")]
    assert closed == ["a", "b"]


@pytest.mark.parametrize("decision", [Decision.STOP, Decision.PAUSE])
def test_a_trial_that_does_not_go_on_has_no_further_event(decision: Decision, closed: list[str]) -> None:
    study = Study(["a", "b"], {("a", "epoch"): decision})
    assert study.run() == [*whole("a")[:2], *whole("b")]
    assert closed == ["a", "b"]


def test_an_interruption_ends_the_trial_and_leaves_the_rest(closed: list[str]) -> None:
    study = Study(["a", "b", "c"], interrupted_at=("b", "point"), is_done=False)
    assert study.run() == [*whole("a"), *whole("b")[:3]]
    assert closed == ["a", "b"]


def test_an_error_of_the_study_itself_does_not_end_the_trial(closed: list[str]) -> None:
    study = Study(["a", "b"], {("a", "point"): OSError("full")})
    with pytest.raises(OSError, match="full"):
        study.run()
    assert study.seen == whole("a")[:3]
    assert closed == ["a"]


def test_a_queue_that_waits_for_nothing_is_noticed() -> None:
    with pytest.raises(AssertionError, match="waits"):
        Study([], is_done=False).run()
