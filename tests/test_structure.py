"""What the structure of the code promises, counted by `benchmarks.structure`."""

import ast

import pytest

from benchmarks.report import ROOT
from benchmarks.structure import measure, parse

ALLOWED = (
    "results",
    "schedulers",
    "units",
    "tracking.runs",
    "tracking.uri",
    "tracking.schema",
    "tracking.views",
    "tracking",
)
NONE = [
    "imports that lead in a circle",
    "statuses as literals",
    "tags as literals",
    "files with private names of Ray",
]


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
    return measure(ROOT)


@pytest.mark.parametrize("name", NONE)
def test_there_is_none(name: str, counts: dict[str, int]) -> None:
    assert counts[name] == 0


def test_analysis_sees_of_study_only_results_schedulers_and_where_the_runs_are() -> None:
    for path, tree in parse(ROOT).items():
        modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        seen = [module.removeprefix("study.") for module in modules if module.startswith("study.")]
        if path.parts[0] == "analysis":
            assert all(module.startswith(ALLOWED[:3]) or module in ALLOWED for module in seen), path
