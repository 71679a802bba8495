"""constraints.txt: one exact version of every package that we ask for, within the bounds that we ask for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]]
LINES = (ROOT / "constraints.txt").read_text().splitlines()[1:]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES)}
INNER_PARTS_USED = {"ray", "torch", "torchvision", "transformers", "optuna", "mlflow"}


def test_lines_are_names_with_versions() -> None:
    """No address, no path, and no local build, which others cannot install."""
    assert [line for line in LINES if not re.fullmatch(r"[\w.-]+==[\w.!]+", line)] == []


def test_lines_are_sorted_and_name_a_package_once() -> None:
    names = [canonicalize_name(line.partition("==")[0]) for line in LINES]
    assert names == sorted(set(names))


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_we_ask_for_is_pinned_within_its_bounds(asked: Requirement) -> None:
    assert asked.specifier.contains(PINS[canonicalize_name(asked.name)])


def test_what_we_use_inner_parts_of_has_an_upper_bound() -> None:
    bounded = {asked.name for asked in ASKED if any(bound.operator == "<" for bound in asked.specifier)}
    assert bounded == INNER_PARTS_USED
