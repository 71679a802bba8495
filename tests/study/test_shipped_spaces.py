"""Every shipped space with every scheduler and every searcher: it runs to its end, or is refused with the reason.

Any two of a space, a searcher and a scheduler meet. The trials are real ones, on few images; Ray and MLflow are left
out, so that a hundred studies take seconds. All share data and teacher; each has a seed, and so students, of its own.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, create_autospec, patch

import pytest
import torch

from study.backends import ray_tune
from study.backends.inline import run_inline
from study.plan import estimate_time
from study.results.objective import OBJECTIVES
from study.results.point import TEACHER, Point
from study.run import main
from study.schedulers.registry import SCHEDULERS
from study.searchers.optuna_searcher import OptunaSearcher
from study.space import load as load_module
from study.space.declaration import METHOD
from study.space.load import load_space
from study.space.searchers import SEARCHERS, adaptive
from study.space.space import Space
from study.tracking import tracker as tracking_module
from tests.study.inline_study import COSTS

SPACES = sorted(path.stem for path in load_module.FOLDER.glob("*.yaml"))
COMBINATIONS = [
    (space, [*SEARCHERS][(i + j) % len(SEARCHERS)], name)
    for i, space in enumerate(SPACES)
    for j, name in enumerate(SCHEDULERS)
]
TRIALS = 3
TINY = {
    "train_images": 100,
    "val_images": 50,
    "calibration_images": 64,
    "quantizer.method": "rtn",
    "teacher": "train:resnet8",
    "teacher_train.batch_size": 25,
    "train.batch_size": 50,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all the studies run."""
    threads = torch.get_num_threads()
    yield tmp_path_factory.mktemp("shipped")
    torch.set_num_threads(threads)


@pytest.fixture
def tracker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mock:
    """What a study tells in the place of MLflow."""
    double = create_autospec(tracking_module.Tracker, instance=True)
    double.experiment = "1"
    double.configure_mock(runs={}, **{"document.return_value": None, "figure_path.return_value": "front.png"})
    monkeypatch.setattr(tracking_module, "open_tracker", lambda *_: double)
    monkeypatch.setattr(ray_tune, "run_on_ray", run_inline)
    monkeypatch.setattr(estimate_time, "measure", lambda *_, **__: COSTS)
    monkeypatch.chdir(folder)
    return double


def refusals(space: Space, searcher: str, scheduler: str) -> list[str]:
    """What is said of a combination that cannot be; nothing of one that can."""
    said = []
    if searcher == "grid" and not space.is_finite:
        said.append("use random, tpe or nsga2 with a number of trials")
    if SCHEDULERS[scheduler].needs_epochs and {case[METHOD] for case in space.cases()} == {TEACHER}:
        said.append("method 'teacher' trains nothing; use none")
    if searcher in adaptive() and SCHEDULERS[scheduler].promotion == "synchronous":
        said.append("use asha, or the searcher grid or random")
    return said


def test_any_two_meet() -> None:
    pairs = {(a, b) for combination in COMBINATIONS for a, b in itertools.combinations(combination, 2)}
    kinds = [SPACES, list(SEARCHERS), list(SCHEDULERS)]
    assert pairs == {pair for a, b in itertools.combinations(kinds, 2) for pair in itertools.product(a, b)}


@pytest.mark.parametrize(("name", "searcher", "scheduler"), COMBINATIONS)
def test_it_runs_to_its_end_or_is_refused(
    name: str, searcher: str, scheduler: str, tracker: Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    space = load_space(name, {})
    trials = int(min(TRIALS, space.size))
    options = f"--searcher {searcher} --scheduler {scheduler} --trials {trials} --epochs 2 --bits 2".split()
    options += ["--seeds", str(COMBINATIONS.index((name, searcher, scheduler)))]
    options += [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    status = main(["--space", name, "--name", f"{name}-{searcher}-{scheduler}", *options])

    shown = capsys.readouterr()
    if reasons := refusals(space, searcher, scheduler):
        said = shown.err.splitlines()
        assert (status, len(said), tracker.mock_calls) == (2, len(reasons), [])
        assert all(reason in line for reason, line in zip(reasons, said, strict=True))
        return
    assert status == 0, shown.out + shown.err
    ends = {call.args[0]: call.args[1] for call in tracker.end_trial.call_args_list}
    assert len(ends) == tracker.end_trial.call_count == trials
    logged: list[Point] = [call.args[0] for call in tracker.log_point.call_args_list]
    assert Counter(point.trial_id for point in logged) == {key: 2 for key, end in ends.items() if end == "completed"}
    untrained = len({point.trial_id for point in logged if point.method == TEACHER})
    if SCHEDULERS[scheduler].promotion is None:
        assert set(ends.values()) == {"completed"}
    elif SCHEDULERS[scheduler].promotion == "synchronous":
        assert Counter(ends.values()) == {"completed": 1 + untrained, "stopped": trials - 1 - untrained}
    else:
        assert set(ends.values()) <= {"completed", "stopped"}


@pytest.mark.parametrize("scheduler", ["asha", "halving"])
def test_the_seeds_of_a_configuration_end_together(scheduler: str, tracker: Mock) -> None:
    options = f"--scheduler {scheduler} --set scheduler.by=configuration --seeds 0,1 --epochs 2 --bits 2".split()
    options += [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    assert main(["--space", "smoke", "--name", f"together-{scheduler}", *options]) == 0
    names = {call.args[0]: re.sub(r"seed=\d+ ?", "", call.args[2]) for call in tracker.start_trial.call_args_list}
    ends: dict[str, list[str]] = {name: [] for name in names.values()}
    for call in tracker.end_trial.call_args_list:
        ends[names[call.args[0]]].append(call.args[1])
        assert call.args[1] == "completed" or "at epoch 1 of 2: mean of 2 seeds: " in call.args[2]
    assert len(ends) == 3
    assert all(len(each) == 2 and len(set(each)) == 1 for each in ends.values())
    completed = sum(each == ["completed"] * 2 for each in ends.values())
    assert completed == 1 if scheduler == "halving" else completed >= 1


def test_another_objective_decides(tracker: Mock) -> None:
    options = ["--searcher", "tpe", "--trials", "3", "--epochs", "1", "--bits", "2", "--set", "objective=nll"]
    options += [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    with patch.object(OptunaSearcher, "_tell", autospec=True) as told:
        assert main(["--space", "joint", "--name", "by-nll", *options]) == 0
    logged: list[Point] = [call.args[0] for call in tracker.log_point.call_args_list]
    assert {point.objective for point in logged} == {"nll"}
    quantized = {(OBJECTIVES["nll"].worst - point.val_nll, point.total_bits) for point in logged if point.bits == 2}
    assert {call.args[3] for call in told.call_args_list} == quantized
