"""What a running study shows."""

import io
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from rich.console import Console

from study.commands import run as run_module
from study.console.live_table import WORKERS_START, LiveTable
from study.results.point import Point
from study.results.status import TrialStatus
from study.run import main
from study.units import duration


def live_table(terminal: bool = False) -> tuple[LiveTable, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120, color_system=None)
    shown = LiveTable("s", slots=1, total=3, console=console)
    for number in range(3):
        shown.add(f"t{number}", f"dkd beta={number}", epochs=2, points=2)
    return shown, output


def point(val: float, bits: int = 4, seed: int = 0) -> Point:
    return Point("t", "dkd", None, 2.0, None, None, seed, "resnet8", bits, bits, 1000 * bits, 1000, val, 50.0)


def test_a_pipe_gets_a_whole_line_an_event() -> None:
    shown, output = live_table()
    with shown:
        shown.start("t0")
        shown.epoch("t0", 1, 50.0)
        shown.end("t0", TrialStatus.FAILED, "x" * 200, "/a/log")
    lines = output.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("dkd beta=0: epoch 1/2, val 50.00 %")
    assert f"[1/3] dkd beta=0: failed: {'x' * 200} (log: /a/log)" in lines[1]


def test_the_table_shows_states_the_best_and_the_time_left() -> None:
    shown, output = live_table(terminal=True)
    shown.start("t0")
    assert "known after the first trial" in shown.time_left()
    shown.point("t0", point(90.0, bits=8))
    shown.point("t0", point(89.0))
    shown.end("t0", TrialStatus.COMPLETED, "", None)
    shown.start("t1")
    shown.console.print(shown.render())
    _, head, text = output.getvalue().partition("s: 1/3 trials")
    assert head
    assert "best so far: dkd beta=2, 8 bits: val 90.00 %, 8,000 bits" in text
    assert text.index("running") < text.index("completed") < text.index("waiting")
    assert "left" in text


def test_the_best_so_far_is_a_mean_over_the_seeds() -> None:
    shown, output = live_table(terminal=True)
    for seed, accuracy in enumerate((80.0, 90.0)):
        shown.point("t0", point(accuracy, seed=seed))
    shown.point("t1", point(89.0, bits=2))
    shown.console.print(shown.render())
    assert "best so far: dkd beta=2, 4 bits: val 85.00 %, 4,000 bits, mean of 2 seeds" in output.getvalue()


def test_a_narrow_terminal_keeps_epoch_accuracy_state_and_reason() -> None:
    output = io.StringIO()
    shown = LiveTable("s", 1, 1, Console(file=output, force_terminal=True, width=80, color_system=None))
    shown.add("t", "dkd alpha=0.5 beta=8 temperature=4 label_smoothing=0.1 warmup=0.083 seed=0", 240, 7)
    shown.start("t")
    shown.epoch("t", 120, 91.25)
    shown.end("t", TrialStatus.DIVERGED, "in epoch 121", None)
    shown.console.print(shown.render())
    (row,) = [line for line in output.getvalue().splitlines() if line.startswith("dkd")]
    assert len(row) <= 80
    for part in ("dkd", "seed=0", "diverged", "120/240", "91.25 %", "0/7", "in epoch 121"):
        assert part in row


@pytest.mark.parametrize(("variable", "value"), [("FORCE_COLOR", "1"), ("TERM", "dumb")])
def test_a_file_gets_lines_whatever_the_environment_asks(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    with LiveTable("s", 1, 1) as shown:
        shown.add("t", "dkd", 2, 1)
        shown.start("t")
        shown.epoch("t", 1, 50.0)
    assert capsys.readouterr().out.endswith("s  dkd: epoch 1/2, val 50.00 %\n")


def test_what_fails_is_told_above_the_table_and_stands_in_it() -> None:
    shown, output = live_table(terminal=True)
    with shown:
        shown.start("t0")
        shown.end("t0", TrialStatus.FAILED, "ValueError: " + "x" * 200, "/a/log")
        shown.start("t1")
        shown.requeue("t1", "out of memory; once more")
        shown.end("t2", TrialStatus.STOPPED, "by asha", None)
    above, _, last = output.getvalue().rpartition("s: 2/3 trials")
    assert f"dkd beta=0: failed: ValueError: {'x' * 200} (log: /a/log)\n" in above.replace("\r", "")
    assert "dkd beta=1: out of memory; once more\n" in above.replace("\r", "")
    assert "by asha" not in above.partition("trials")[0]
    rows = {line.split()[1]: line for line in last.splitlines() if line.startswith("dkd")}
    assert rows["beta=0"].split()[2:6] == ["failed", "0/2", "0/2", "ValueError:"]
    assert rows["beta=1"].split()[2] == "waiting"
    assert rows["beta=2"].split()[2:] == ["stopped", "0/2", "0/2", "by", "asha"]


def test_the_estimate_counts_only_trials_that_ran_here() -> None:
    shown, _ = live_table()
    shown.end("t0", TrialStatus.COMPLETED, "", None)  # finished by a former run: it took no time
    assert "known after the first trial" in shown.time_left()
    for trial in ("t1", "t2"):
        shown.start(trial)
        shown.end(trial, TrialStatus.COMPLETED, "", None)
    assert shown.time_left() == "all trials ended"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the table sees, to be set."""
    now = [1000.0]
    monkeypatch.setattr("study.console.live_table.time.monotonic", lambda: now[0])
    return now


def test_the_time_left_begins_with_what_the_planner_expects_and_the_start_of_workers(clock: list[float]) -> None:
    shown, _ = live_table()
    shown.total, shown.expected = 4, 100.0  # one trial is not in the table yet
    for trial, training in (("t0", 10.0), ("t1", 200.0), ("t2", 80.0)):
        shown.expect(trial, training, 10.0)
    assert shown.time_left() == f"about {duration(20 + 210 + 90 + 100 + WORKERS_START)} left"
    shown.start("t0")
    assert shown.time_left() == f"about {duration(20 + 210 + 90 + 100)} left"


def test_a_cheap_trial_at_first_does_not_make_the_others_cheap(clock: list[float]) -> None:
    shown, _ = live_table()
    shown.expected = 100.0
    for trial, training in (("t0", 10.0), ("t1", 200.0), ("t2", 80.0)):
        shown.expect(trial, training, 10.0)
    shown.start("t0")
    for epoch in (1, 2):
        clock[0] += 5
        shown.epoch("t0", epoch, 50.0)
    for bits in (4, 8):
        clock[0] += 5
        shown.point("t0", point(50.0, bits))
    shown.end("t0", TrialStatus.COMPLETED, "", None)
    assert shown.time_left() == f"about {duration(210 + 90)} left"
    shown.start("t1")
    clock[0] += 300  # three times as slow as expected
    shown.epoch("t1", 1, 50.0)
    assert shown.time_left() == f"about {duration((110 + 90) * (100 + 20 + 300) / (100 + 20 + 100))} left"


def test_the_others_are_expected_to_be_stopped_as_early_as_those_before_them(clock: list[float]) -> None:
    shown, _ = live_table()
    shown.expected = 100.0
    for trial in ("t0", "t1", "t2"):
        shown.expect(trial, 100.0, 0.0)
    shown.start("t0")
    clock[0] += 50
    shown.epoch("t0", 1, 50.0)
    shown.end("t0", TrialStatus.STOPPED, "by asha", None)
    assert shown.time_left() == f"about {duration(200 * 150 / 200)} left"


def test_resumed_trials_are_not_taken_for_trials_that_were_stopped(clock: list[float]) -> None:
    shown, _ = live_table()
    shown.expected, shown.total = 100.0, 20
    for trial in ("t0", "t1", "t2"):
        shown.rows[trial].epochs = 10
        shown.expect(trial, 90.0, 10.0)
    for trial in ("t0", "t1"):
        shown.start(trial)
        for epoch in range(1, 10):
            shown.epoch(trial, epoch, 50.0, is_reused=True)
        clock[0] += 9
        shown.epoch(trial, 10, 50.0)
        for bits in (4, 8):
            clock[0] += 5
            shown.point(trial, point(50.0, bits))
        shown.end(trial, TrialStatus.COMPLETED, "", None)
    assert shown.time_left() == f"about {duration(100 + 17 * 100)} left"
    shown.start("t2")  # resumed at epoch 4, stopped at 5: 9 s of the 64 that were left of it were needed
    for epoch in range(1, 5):
        shown.epoch("t2", epoch, 50.0, is_reused=True)
    clock[0] += 9
    shown.epoch("t2", 5, 50.0)
    shown.end("t2", TrialStatus.STOPPED, "by asha", None)
    used = 100 + 2 * 19 + 9
    assert shown.time_left() == f"about {duration(17 * 100 * used / (used + 45 + 10))} left"


def test_time_in_a_pause_and_reused_epochs_say_nothing_of_the_pace(clock: list[float]) -> None:
    shown, output = live_table()
    shown.expected = 100.0
    for trial in ("t0", "t1", "t2"):
        shown.expect(trial, 100.0, 0.0)
    shown.start("t0")
    shown.epoch("t0", 1, 50.0, is_reused=True)
    shown.pause("t0", 1)
    clock[0] += 10_000
    shown.start("t0")
    assert shown.time_left() == f"about {duration(50 + 200)} left"
    assert "dkd beta=0: epoch 1/2, val 50.00 % (reused)" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (MlflowException("API request to http://host:1/api failed"), "restart it, or fix --tracking-uri"),
        (OSError(28, "No space left on device"), "free space"),
        (OSError("what?"), "the cause is unknown"),
    ],
)
def test_a_store_or_disk_that_fails_in_mid_study_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, remedy: str
) -> None:
    def fail(study: object, teacher: object) -> None:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module._Study, "run", fail)
    assert main(["--space", "dkd_grid", "--name", "mine"]) == 2
    message = capsys.readouterr().err
    assert str(error) in message
    assert remedy in message
    assert "no finished result is lost" in message
