"""The program is named as it was called."""

import sys
from pathlib import Path

import pytest

from study.commands.options import make_parser
from study.console.summary import interrupted


def test_as_the_installed_script(monkeypatch: pytest.MonkeyPatch) -> None:
    for called in (".venv/bin/kdq-study", str(Path.cwd() / ".venv" / "bin" / "kdq-study")):
        monkeypatch.setattr(sys, "argv", [called])
        assert make_parser().prog == "kdq-study"
        assert interrupted(["--space", "smoke"]).splitlines()[-1] == "  .venv/bin/kdq-study --space smoke"


def test_as_the_script_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["study/run.py"])
    assert make_parser().prog == "python study/run.py"
    assert interrupted(["--space", "smoke"]).endswith("/bin/python study/run.py --space smoke")
