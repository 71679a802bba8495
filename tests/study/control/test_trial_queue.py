"""The trial queue without Ray: all allowed pairs of scheduler and searcher, in any order, killed anywhere."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdq.errors import UserError
from kdq.store.stage import digest
from study.control.journal import Asked, Ended, Extended, Journal, Reported, Retried
from study.control.trial_queue import TrialQueue
from study.plan.plan import Plan
from study.results.status import TrialStatus
from study.schedulers.registry import SCHEDULERS, by_configuration, make_scheduler, stopping
from study.schedulers.scheduler import Decision, RungConfig, Scheduler
from study.searchers.optuna_searcher import OptunaSearcher
from study.searchers.registry import make_searcher
from study.searchers.searcher import ListSearcher, Searcher
from study.space.configuration import Configuration
from study.space.load import read_space
from study.space.searchers import SEARCHERS, adaptive
from study.space.space import Space
from study.space.workload import load_workload
from study.trial.trial import Trial

EPOCHS, TRIALS, SEEDS = 9, 6, (0, 1)
DOCUMENT: dict[str, Any] = {
    "description": "a space to walk through",
    "params": {"method": "dkd", "alpha": {"grid": [0.5, 1, 2]}, "beta": {"grid": [2, 4, 8]}},
    "bits": [2, 4],
    "trials": TRIALS,
}
SYNCHRONOUS = [name for name, scheduler in SCHEDULERS.items() if scheduler.promotion == "synchronous"]
COMBINATIONS = [
    (scheduler, searcher)
    for scheduler in (None, *stopping())
    for searcher in SEARCHERS
    if not (searcher in adaptive() and scheduler in SYNCHRONOUS)
]
BY_CONFIGURATION = " by configuration"
COMBINATIONS += [
    (scheduler + BY_CONFIGURATION, searcher)
    for scheduler, searcher in (("asha", "grid"), ("asha_pareto", "tpe"), ("halving", "random"))
]


@dataclass(frozen=True)
class Stub:
    """What the queue needs to know of a trial."""

    id: str


def space(searcher: str) -> Space:
    return read_space({**DOCUMENT, "searcher": searcher}, "here")


def search(searcher: str) -> Searcher:
    return make_searcher(Plan("here", "digits", space(searcher), load_workload("digits", {}), SEEDS))


def stub(configuration: Configuration, seed: int) -> Trial:
    return cast(Trial, Stub(digest([configuration.identity, seed])[:8]))


def schedule(name: str | None, configurations: int) -> Scheduler | None:
    """The scheduler of a name that may end in ` by configuration`."""
    if name and name.endswith(BY_CONFIGURATION):
        single = name.removesuffix(BY_CONFIGURATION)
        return by_configuration(make_scheduler(single, RungConfig(EPOCHS, configurations, 1, 3)))
    return make_scheduler(name, RungConfig(EPOCHS, configurations * len(SEEDS), 1, 3)) if name else None


def queue(path: Path, scheduler: str | None, searcher: str, retry: bool = False) -> TrialQueue:
    return TrialQueue(search(searcher), SEEDS, stub, schedule(scheduler, TRIALS), Journal(path), retry)


def values(trial: str, epoch: int) -> list[tuple[float, float]]:
    """What a trial shows is a function of it, so that an undisturbed run and a resumed one see the same."""
    draw = random.Random(f"{trial}/{epoch}")
    return [(draw.uniform(10, 90), bits) for bits in (32e3, 2e3, 4e3)]


def walk(made: TrialQueue, workers: int, rng: random.Random, failing: float = 0.0) -> Iterator[None]:
    """Run trials as a driver does; yields after every event. A worker tells all epochs of its trial from the first."""
    running: dict[str, int] = {}
    while not made.is_done:
        while len(running) < workers and (trial := made.next()):
            running[trial.id] = 0
        if not running:
            assert made.is_done, "nothing runs, and the queue waits for something"
            break
        trial_id = rng.choice(sorted(running))
        running[trial_id] += 1
        epoch = running[trial_id]
        decision = made.report(trial_id, epoch, values(trial_id, epoch))
        if decision is Decision.STOP:
            made.end(trial_id, TrialStatus.STOPPED, f"epoch {epoch}")
        elif decision is Decision.CONTINUE and random.Random(f"fail {trial_id}").random() < failing:
            made.end(trial_id, random.Random(trial_id).choice([TrialStatus.FAILED, TrialStatus.DIVERGED]), "it must")
        elif decision is Decision.CONTINUE and epoch == EPOCHS:
            made.end(trial_id, TrialStatus.COMPLETED, "", values(trial_id, epoch)[1])
        if decision is not Decision.CONTINUE or made.entries[trial_id].status != "running":
            del running[trial_id]
        for loser in made.losers():
            made.end(loser, TrialStatus.STOPPED, "waited in vain")
        yield


def ended(path: Path, scheduler: str | None, searcher: str) -> dict[str, str]:
    """How each trial ended last, by the journal."""
    return {key: entry.ended for key, entry in queue(path, scheduler, searcher).entries.items()}


def finish(made: TrialQueue, workers: int, rng: random.Random, failing: float = 0.0) -> dict[str, str]:
    for _ in walk(made, workers, rng, failing):
        pass
    return {key: entry.status for key, entry in made.entries.items()}


@pytest.mark.parametrize(("scheduler", "searcher"), COMBINATIONS)
def test_every_trial_ends_once(scheduler: str | None, searcher: str, tmp_path: Path) -> None:
    for number, (workers, failing) in enumerate([(1, 0.0), (3, 0.0), (2, 0.4)]):
        path = tmp_path / f"{number}.jsonl"
        made = queue(path, scheduler, searcher)
        ends = finish(made, workers, random.Random(number), failing)
        assert len(ends) == TRIALS * len(SEEDS)
        if isinstance(made.searcher, OptunaSearcher):
            assert all(trial.state.is_finished() for trial in made.searcher._study.trials)
        assert all(end.has_ended for end in ends.values())
        assert failing or "completed" in ends.values()
        told = [record.trial for record in Journal(path).read() if isinstance(record, Ended)]
        assert sorted(told) == sorted(ends)


@pytest.mark.parametrize(("scheduler", "searcher"), COMBINATIONS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), data=st.data())
def test_killed_anywhere_it_decides_on_as_it_was(
    scheduler: str | None, searcher: str, tmp_path: Path, seed: int, data: st.DataObject
) -> None:
    path = tmp_path / f"{seed}.jsonl"
    path.unlink(missing_ok=True)
    finish(queue(path, scheduler, searcher), 2, random.Random(seed))
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    before = Journal(path).read()
    again = queue(path, scheduler, searcher)
    assert Journal(path).read() == before
    for record in before:
        if isinstance(record, Reported):  # reported again by a worker that was started again
            decision = again.report(record.trial, record.epoch, values(record.trial, record.epoch))
            assert decision is record.decision or record.decision is Decision.PAUSE
        if isinstance(record, Ended):
            assert again.entries[record.trial].status is record.status
    again = queue(path, scheduler, searcher)
    ends = finish(again, 2, random.Random(seed + 1))
    assert len(ends) == TRIALS * len(SEEDS)
    assert Journal(path).read()[: len(before)] == before


@pytest.mark.parametrize(("scheduler", "searcher"), COMBINATIONS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), data=st.data())
def test_killed_again_and_again_with_failures_it_still_ends(
    scheduler: str | None, searcher: str, tmp_path: Path, seed: int, data: st.DataObject
) -> None:
    """The journal of several sessions, each cut off somewhere and with trials that fail, reads back and goes on."""
    path = tmp_path / f"{seed}.jsonl"
    path.unlink(missing_ok=True)
    for session in range(3):
        steps = data.draw(st.integers(0, 60))
        for _ in islice(walk(queue(path, scheduler, searcher), 2, random.Random(seed + session), failing=0.3), steps):
            pass
        content = path.read_bytes() if path.exists() else b""
        path.write_bytes(content[: len(content) - data.draw(st.integers(0, min(150, len(content))))])
    ends = finish(queue(path, scheduler, searcher), 2, random.Random(seed))
    assert len(ends) == TRIALS * len(SEEDS)
    assert all(end.is_result for end in ends.values())
    assert {k: e.status for k, e in queue(path, scheduler, searcher).entries.items()} == ends


def test_a_value_that_is_not_finite_is_journalled(tmp_path: Path) -> None:
    made = queue(tmp_path / "journal.jsonl", "asha", "grid")
    trial = made.next()
    assert trial is not None
    assert made.report(trial.id, 1, [(float("nan"), 1.0)]) is Decision.STOP
    assert queue(tmp_path / "journal.jsonl", "asha", "grid").scheduler == made.scheduler


def test_what_failed_is_tried_again_and_a_result_is_not(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    ends = finish(queue(path, "asha", "grid"), 2, random.Random(0), failing=0.8)
    assert {"failed", "diverged", "stopped", "completed"} >= set(ends.values()) >= {"failed", "diverged"}
    again = queue(path, "asha", "grid")
    waiting = {key for key, entry in again.entries.items() if entry.status == "waiting"}
    assert waiting == {key for key, end in ends.items() if end == "failed"}


@pytest.mark.parametrize(("scheduler", "searcher"), COMBINATIONS)
def test_a_retry_runs_what_failed_or_diverged_and_nothing_else(
    scheduler: str | None, searcher: str, tmp_path: Path
) -> None:
    """In a study that was cut off somewhere; and afterwards the same command finishes it."""
    for seed, events in enumerate([12, 30, 1000]):
        path = tmp_path / f"{seed}.jsonl"
        for _ in islice(walk(queue(path, scheduler, searcher), 2, random.Random(seed), failing=0.5), events):
            pass
        before, journal = ended(path, scheduler, searcher), Journal(path).read()
        failed = {key for key, end in before.items() if end and end.has_no_score}
        finish(queue(path, scheduler, searcher, retry=True), 2, random.Random(seed), failing=0.2)
        after, new = ended(path, scheduler, searcher), Journal(path).read()[len(journal) :]
        assert not any(isinstance(record, Asked) for record in new)
        assert {record.trial for record in new if isinstance(record, Retried | Reported)} <= failed
        assert all(after[key] == end for key, end in before.items() if key not in failed and end)
        assert all(end.is_result for end in finish(queue(path, scheduler, searcher), 2, random.Random(seed)).values())


def test_a_retry_that_was_cut_off_is_gone_on_with_by_either_command(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    finish(queue(path, None, "grid"), 2, random.Random(0), failing=0.5)
    diverged = {key for key, end in ended(path, None, "grid").items() if end == "diverged"}
    assert diverged
    first = queue(path, None, "grid", retry=True)
    assert diverged <= set(first.retried)
    for retry in (True, False):
        again = queue(path, None, "grid", retry)
        assert {key for key, entry in again.entries.items() if entry.status == "waiting"} == set(first.retried)
    assert set(finish(queue(path, None, "grid"), 2, random.Random(0)).values()) == {"completed"}
    assert queue(path, None, "grid", retry=True).is_done


def extended(path: Path, scheduler: str | None, searcher: str, alphas: list[float], trials: int = 9) -> TrialQueue:
    """The study of this journal, with another space in the place of what it was."""
    Journal(path).append(Extended({}))
    document = {**DOCUMENT, "searcher": searcher, "trials": trials}
    document["params"] = document["params"] | {"alpha": {"grid": alphas}}
    own = read_space(document, "here")
    found = (
        OptunaSearcher(own, seed=0)
        if searcher in adaptive()
        else ListSearcher(own if searcher == "grid" else own.samples(0, trials))
    )
    return TrialQueue(found, SEEDS, stub, schedule(scheduler, trials), Journal(path))


@pytest.mark.parametrize(
    ("scheduler", "searcher"),
    [(scheduler, searcher) for scheduler, searcher in COMBINATIONS if not (scheduler or "").startswith("halving")],
)
def test_a_larger_space_keeps_every_end_and_the_rungs(scheduler: str | None, searcher: str, tmp_path: Path) -> None:
    """Cut off somewhere or finished; the order of a grid may be another. An adaptive searcher goes on as it was."""
    for seed, events in enumerate([12, 40, 1000]):
        path = tmp_path / f"{seed}.jsonl"
        before = queue(path, scheduler, searcher)
        for _ in islice(walk(before, 2, random.Random(seed), failing=0.3), events):
            pass
        after = extended(path, scheduler, searcher, [0.25, 0.5, 1, 2] if searcher == "grid" else [0.5, 1, 2])
        assert after.scheduler == before.scheduler
        final = {key: entry.status for key, entry in before.entries.items() if entry.status.is_result}
        assert final
        assert final.items() <= {key: entry.status for key, entry in after.entries.items()}.items()
        ends = finish(after, 2, random.Random(seed))
        assert final.items() <= ends.items()
        assert before.entries.keys() < ends.keys()
        assert len(ends) == len(SEEDS) * (12 if searcher == "grid" else 9)
        assert all(end.is_result for end in ends.values())


def test_trials_that_a_space_has_lost_are_passed_over_until_it_has_them_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = finish(queue(path, None, "grid"), 2, random.Random(0))
    lost = extended(path, None, "grid", [1, 3])
    waiting = {key for key, entry in lost.entries.items() if entry.status == "waiting"}
    assert not waiting
    assert {key: entry.status for key, entry in lost.entries.items()}.items() < first.items()
    second = finish(lost, 2, random.Random(0))
    again = extended(path, None, "grid", [0.5, 1, 2, 3])
    assert again.entries.keys() == first.keys() | second.keys()
    assert {entry.status for entry in again.entries.values()} == {"completed"}


def test_without_an_extension_a_journal_of_another_space_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    finish(queue(path, None, "grid"), 2, random.Random(0))
    for others in ([], list(space("grid"))[:7]):
        with pytest.raises(UserError, match="does not fit this study"):
            TrialQueue(ListSearcher(others), SEEDS, stub, None, Journal(path))


@pytest.mark.parametrize("scheduler", [*stopping(), "asha" + BY_CONFIGURATION])
def test_a_journal_whose_values_no_rung_can_compare_is_refused(scheduler: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    made = queue(journal.path, scheduler, "grid")
    trial = made.next()
    assert trial is not None
    journal.append(Reported(trial.id, 1, (), made.report(trial.id, 1, values(trial.id, 1))))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(lines[0] + lines[2])  # the ask, and the report without its values
    with pytest.raises(UserError, match=r"journal\.jsonl, record 2: does not fit this study"):
        queue(journal.path, scheduler, "grid")


def test_the_searcher_is_told_the_mean_over_the_seeds_once(tmp_path: Path) -> None:
    class Ear(ListSearcher):
        def __init__(self, configurations: list[Configuration]) -> None:
            super().__init__(configurations)
            self.heard: list[tuple[tuple[str, ...], Any]] = []

        def tell(self, configuration: Configuration, ends: Any, objectives: Any) -> None:
            self.heard.append((tuple(ends), objectives))

    ear = Ear(list(space("grid"))[:2])
    made = TrialQueue(ear, SEEDS, stub, None, Journal(tmp_path / "journal.jsonl"))
    trials = [made.next() for _ in range(4)]
    for trial, accuracy in zip(trials, (80.0, 90.0, 70.0, 0.0), strict=True):
        assert trial is not None
        done = accuracy > 0
        made.end(
            trial.id, TrialStatus.COMPLETED if done else TrialStatus.STOPPED, "", (accuracy, 1000.0) if done else None
        )
    assert ear.heard == [(("completed", "completed"), (85.0, 1000.0)), (("completed", "stopped"), None)]


@pytest.mark.parametrize("scheduler", ["asha", "halving"])
@pytest.mark.parametrize("failing", [0.0, 0.3])
def test_by_configuration_the_seeds_of_one_end_alike(scheduler: str, failing: float, tmp_path: Path) -> None:
    """Unless one fails or diverges. A retry of a failed one ends as its configuration did."""
    path, name = tmp_path / "journal.jsonl", scheduler + BY_CONFIGURATION
    finish(queue(path, name, "grid"), 3, random.Random(1), failing)
    finish(queue(path, name, "grid", retry=True), 3, random.Random(2))
    made = queue(path, name, "grid")
    finish(made, 3, random.Random(2))
    ends: dict[str, set[str]] = {}
    for entry in made.entries.values():
        ends.setdefault(entry.configuration.identity, set()).add(entry.status)
    assert all(len(statuses) == 1 for statuses in ends.values())
    completed = sum(statuses == {"completed"} for statuses in ends.values())
    assert 0 < completed < TRIALS
    assert scheduler == "asha" or completed == 1, "of six configurations two pass the first rung, one the second"
