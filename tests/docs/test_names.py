"""What the documentation refers to exists: files, the names in them, and the targets of links. Nothing is imported."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
REFERENCE = re.compile(r"(?<![\w./-])((?:[\w-]+/)+[\w-]+\.py)(?:::([\w.]+))?")
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@cache
def names(path: Path) -> frozenset[str]:
    """All names that a module defines at its top level, and those of its classes as `Class.name`."""
    return frozenset(_defined(ast.parse(path.read_text(encoding="utf-8")).body))


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        match node:
            case ast.FunctionDef(name=name):
                yield prefix + name
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _defined(node.body, f"{prefix}{name}.")
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_that_a_page_refers_to_exists(page: Path) -> None:
    found = REFERENCE.findall(page.read_text(encoding="utf-8"))
    assert [path for path, _ in found if not (ROOT / path).is_file()] == []
    assert [f"{path}::{name}" for path, name in found if name and name not in names(ROOT / path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_links_to_exist(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_the_index_links_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    targets = {(index.parent / target).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))}
    assert [page.name for page in PAGES if page != index and page not in targets] == []
