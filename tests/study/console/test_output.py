"""A program whose reader goes away."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from pathlib import Path
from study.console.output import lasting_output
with lasting_output():
    for number in range(20_000):
        print("line", number, flush=number % 2 == 0)
Path(sys.argv[1]).write_text("finished")
"""


def run(done: Path, stderr: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(done)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=Path(__file__).parents[3])


def test_it_goes_on_and_says_so_once(tmp_path: Path) -> None:
    with run(tmp_path / "done", subprocess.PIPE) as program:
        assert program.stdout
        assert program.stderr
        assert program.stdout.readline() == "line 0\n"
        program.stdout.close()
        errors = program.stderr.read()
    assert program.returncode == 0
    assert (tmp_path / "done").read_text() == "finished"
    assert errors == "standard output is closed: the study continues without it; MLflow has its results\n"


def test_it_goes_on_without_any_reader(tmp_path: Path) -> None:
    """As after a lost connection: neither output nor errors can be written."""
    with run(tmp_path / "done", subprocess.STDOUT) as program:
        assert program.stdout
        program.stdout.close()
    assert program.returncode == 0
    assert (tmp_path / "done").read_text() == "finished"
