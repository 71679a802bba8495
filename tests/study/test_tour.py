"""The code of the notebook docs/tour.ipynb runs on a real study, cell by cell."""

import json
import warnings
from pathlib import Path

import optuna
import pytest

from study.commands.options import RunOptions, parse

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tour.ipynb"


def cells(kind: str) -> list[str]:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == kind]


def test_its_code_runs(finished: tuple[Path, object], monkeypatch: pytest.MonkeyPatch) -> None:
    code = cells("code")
    assert len(code) > 5
    assert '"tour"' in code[0]
    monkeypatch.chdir(finished[0])
    shared: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for source in code:
            exec(source.replace('"tour"', '"small"'), shared)
    points, predicted, digits = (shared[name] for name in ("points", "predicted", "digits"))
    assert len(points) == 6  # type: ignore[arg-type]
    assert (predicted == digits.target).mean() > 0.3  # type: ignore[attr-defined]


def test_its_study_is_accepted() -> None:
    (command,) = [line for line in cells("markdown")[0].splitlines() if line.startswith("python study/run.py ")]
    options = parse(command.split()[2:])
    assert isinstance(options, RunOptions)
    assert options.name == "tour"


def test_it_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 60_000
