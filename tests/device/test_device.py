"""Whatever trains, quantizes or evaluates keeps to its device: `checks_on_device.py`, in a process of its own.

A process can register a device only before its first backward pass, which another test may have run.
"""

import ast
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

CHECKS = Path(__file__).with_name("checks_on_device.py")
ROOT = Path(__file__).parents[2]
NAMES = [
    node.name
    for node in ast.parse(CHECKS.read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What failed in each check, by the check's name; an empty list for one that ran and passed."""
    report = tmp_path_factory.mktemp("device") / "report.xml"
    command = [sys.executable, "-m", "pytest", str(CHECKS), "-n0", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += [f"--basetemp={report.with_name('temporary')}"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert report.exists(), child.stdout + child.stderr
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failures = found.setdefault(case.attrib["name"].partition("[")[0], [])
        failures += [f"{case.attrib['name']}: {text.text}" for kind in ("failure", "error") for text in case.iter(kind)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_on_a_device(name: str, outcomes: dict[str, list[str]]) -> None:
    assert outcomes[name] == [], "\n".join(outcomes[name])
