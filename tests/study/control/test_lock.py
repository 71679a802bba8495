"""The same study started twice, by real processes."""

import errno
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from kdq.errors import UserError
from study.control.lock import study_lock
from study.run import main

HOLD = """
import sys, pathlib
from study.control.lock import study_lock
with study_lock(pathlib.Path(sys.argv[1]), "mine"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    """A process that runs the study `mine` until its input ends."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "LOGNAME": "ada"}
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_runs_it_and_since_when(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with holder(tmp_path / "mlruns" / "running") as process:
        assert main(["--space", "dkd_grid", "--name", "mine"]) == 2
        message = capsys.readouterr().err
        found = re.search(r"'mine' is being run by ada \(process (\d+) on .+\) since (.+); wait for it", message)
        assert found, message
        assert int(found[1]) == process.pid
        assert abs(datetime.now().astimezone() - datetime.fromisoformat(found[2])) < timedelta(minutes=5)
        with study_lock(tmp_path / "mlruns" / "running", "another"):
            pass
        process.kill()


def test_a_dead_process_does_not_block_and_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    with study_lock(tmp_path, "mine"), pytest.raises(UserError, match=rf"\(process {os.getpid()} on "):
        study_lock(tmp_path, "mine").__enter__()
    with study_lock(tmp_path, "mine"):
        pass


def test_a_holder_that_could_not_say_who_it_is_is_another_process(tmp_path: Path) -> None:
    held = "'mine' is being run by another process"
    with FileLock(tmp_path / "mine.lock"), pytest.raises(UserError, match=held), study_lock(tmp_path, "mine"):
        pass


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "running").write_text("a file")
    with pytest.raises(UserError, match="is not writable"), study_lock(tmp_path / "running", "mine"):
        pass


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "write permission"), (errno.EIO, "mount it")],
)
def test_a_lock_that_cannot_be_written_has_the_remedy_of_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(UserError, match=remedy), study_lock(tmp_path / "running", "mine"):
        pass
