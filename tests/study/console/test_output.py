"""A program whose reader goes away."""

import os
import shlex
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


def test_a_program_started_without_outputs_runs_and_no_file_takes_their_place(tmp_path: Path) -> None:
    """As a daemon is, by `>&- 2>&-`."""
    program = (
        "import os\n"
        "from study.console.output import lasting_output\n"
        "with lasting_output(), open('result', 'w') as file:\n"
        "    print('line')\n"
        "    print(file.fileno() > 2, file=file)\n"
    )
    shell = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(program)} >&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run(["sh", "-c", shell], cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "result").read_text() == "True\n"
