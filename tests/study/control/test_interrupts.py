"""Ctrl-C as a terminal sends it: to the driver and all that it started."""

import csv
import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from mlflow import MlflowClient

from study.commands.options import parse
from tests.patience import patient

Result = subprocess.CompletedProcess[str]
Finished = tuple[Path, Result]

SCRIPT = Path(__file__).parents[3] / "study" / "run.py"
MARK = "KDQ_TEST_INTERRUPT"


def press(folder: Path, arguments: list[str], presses: int, number: int = signal.SIGINT) -> tuple[int, list[str]]:
    """Run a study, press Ctrl-C as it trains, and again as soon as it says so. Returns status and lines of output.

    number: another signal in its place, to the driver and all that it has started.
    """
    command = [sys.executable, "-u", str(SCRIPT), *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, MARK: str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as driver:
        assert driver.stdout
        cues = iter([": epoch ", "stopping"][:presses])
        cue, lines = next(cues), []
        for line in driver.stdout:
            lines.append(line.rstrip("\n"))
            if cue and cue in line and not line.startswith("teacher"):
                os.killpg(driver.pid, number)
                cue = next(cues, "")
    return driver.returncode, lines


def left(folder: Path) -> list[str]:
    """What still runs, after a while, of all that studies in this folder have started."""
    deadline = time.monotonic() + patient(15)
    while (found := [*filter(None, (_marked(one, folder) for one in psutil.process_iter()))]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.2)
    return found


def _marked(process: psutil.Process, folder: Path) -> str:
    try:
        return " ".join(process.cmdline()) if process.environ().get(MARK) == str(folder) else ""
    except psutil.Error:
        return ""


def rows(folder: Path, study: str) -> set[tuple[str, ...]]:
    """The points of a study, but for whether they are on its front."""
    command = [sys.executable, "-m", "analysis", "points", "--study", study, "--format", "csv"]
    text = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return {
        tuple(value for key, value in row.items() if key != "on_front") for row in csv.DictReader(io.StringIO(text))
    }


def resumes(command: str, arguments: list[str]) -> bool:
    """Whether a printed command runs the study with these arguments."""
    program, script, *printed = shlex.split(command)
    return (program, script) == (sys.executable, str(SCRIPT)) and parse(printed) == parse(arguments)


def test_once_and_twice_and_the_command_that_is_printed_goes_on(
    finished: Finished, run_inline: Callable[..., Result], small_study: list[str], prepared: Path
) -> None:
    tmp_path = prepared
    arguments = [*small_study, "--trials", "4"]
    for number, ends in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        status, lines = press(tmp_path, arguments, presses=1, number=number)
        assert status == ends, lines
        assert "to resume:" in lines[-2]
        assert resumes(lines[-1], arguments)
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlruns/mlflow.db")
        experiment = client.get_experiment_by_name("small")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert "RUNNING" not in {found.info.status for found in runs}
        assert {found.data.tags["kdq.status"] for found in runs if found.data.tags["kdq.kind"] == "study"} == {
            "interrupted"
        }
        assert left(tmp_path) == []

    status, lines = press(tmp_path, arguments, presses=2)
    assert status == 130, lines
    assert resumes(lines[-1], arguments)
    assert not any("study small:" in line for line in lines), "it waited for its end"
    assert left(tmp_path) == []

    result = run_inline(tmp_path, *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert rows(tmp_path, "small") >= rows(finished[0], "small")
    assert len(rows(tmp_path, "small")) == 12
