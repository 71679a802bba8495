"""YAML documents: what is read, and how every error is said."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kdq.errors import UserError
from study.space.documents import descriptions, locate, parse_scalar, read, validate


@dataclass(frozen=True, slots=True)
class Inner:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    rate: float

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise UserError(f"rate = {self.rate}: must be above 0")


@dataclass(frozen=True, slots=True)
class Outer:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    name: str
    count: int = 1
    inner: Inner = field(default_factory=lambda: Inner(1.0))
    several: dict[str, Inner] = field(default_factory=dict)


def test_all_errors_are_reported_at_once_with_their_paths() -> None:
    with pytest.raises(UserError) as error:
        validate({"count": "3", "inner": {"rate": -1}, "conut": 2}, Outer, "file.yaml")
    lines = str(error.value).splitlines()
    assert "file.yaml: name: is required, and is missing" in lines
    assert "file.yaml: count = '3': input should be a valid integer" in lines
    assert any(line.startswith("file.yaml: inner: rate = -1.0: must be above 0") for line in lines)
    assert any("unknown key 'conut': did you mean 'count'?" in line for line in lines)
    assert len(lines) == 4


def test_an_unknown_key_inside_names_the_keys_of_its_place() -> None:
    with pytest.raises(UserError, match=r"several\.a\.rat: unknown key 'rat': did you mean 'rate'\? known: rate"):
        validate({"name": "x", "several": {"a": {"rat": 1, "rate": 1}}}, Outer, "f")


def test_a_valid_document_becomes_the_dataclass() -> None:
    assert validate({"name": "x", "inner": {"rate": 2}}, Outer, "f") == Outer("x", 1, Inner(2.0))


@pytest.mark.parametrize(
    ("text", "value"), [("5e-4", 5e-4), ("1e3", 1000.0), ("-2E+1", -20.0), ("3", 3), ("[1, 2]", [1, 2]), ("abc", "abc")]
)
def test_settings_are_read_as_yaml_with_plain_exponents(text: str, value: object) -> None:
    parsed = parse_scalar(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a: [1", "not readable as YAML"),
        ("- 1\n- 2", "must be a mapping"),
        ("", "must be a mapping"),
        ("a: 1\na: 2", "duplicate key 'a'"),
        ("a: !!python/object/apply:os.system ['true']", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_document(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=reason) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_names_and_paths_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("description: of mine")
    assert locate("space", "mine", tmp_path) == tmp_path / "mine.yaml"
    assert locate("space", str(tmp_path / "mine.yaml"), Path("nowhere")) == tmp_path / "mine.yaml"
    assert descriptions(tmp_path) == {"mine": "of mine"}
    with pytest.raises(UserError, match="did you mean 'mine'"):
        locate("space", "mien", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        locate("space", "other.yaml", tmp_path)
