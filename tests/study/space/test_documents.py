"""YAML documents: what is read, and how every error is said."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kdq.errors import UserError
from study.space.documents import BYTES, DEPTH, DIGITS, NODES, descriptions, locate, parse_scalar, read, validate


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
    assert "file.yaml: name: is required but missing" in lines
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


def bomb(levels: int, width: int = 10) -> str:
    """Nested aliases: width^levels values when written out, in some `levels` lines."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels)]
    return "\n".join(lines)


UNREADABLE: dict[str, tuple[str, str]] = {
    "aliases of aliases": (bomb(9), f"line 4, column 45: more than {NODES:,} values, counting what aliases stand for"),
    "aliases of two": (bomb(40, 2), f"more than {NODES:,} values"),
    "merged aliases": ("a: &a {x: 1, y: *a}", "line 1, column 17: an alias contains itself"),
    "an alias of what contains it": ("a: &a [1, [*a]]", "an alias contains itself"),
    "no such alias": ("a: *b", "line 1, column 4: found undefined alias 'b'"),
    "lists of lists": ("a: " + "[" * 3000 + "]" * 3000, f"nested more than {DEPTH} deep"),
    "mappings of mappings": ("\n".join(" " * level + "a:" for level in range(900)), f"nested more than {DEPTH} deep"),
    "depth by aliases": (
        "\n".join(
            ["a0: &a0 [[[[[1]]]]]", *(f"a{i}: &a{i} [[[[[*a{i - 1}]]]]]" for i in range(1, 9))],
        ),
        f"nested more than {DEPTH} deep, counting what aliases stand for",
    ),
    "many keys": ("\n".join(f"k{i}: 1" for i in range(60_000)), f"more than {NODES:,} values"),
    "many equal keys": ("a: 1\n" * (NODES // 2 - 1), "duplicate key 'a'"),
    "equal keys inside": ("a: [{b: 1, c: 2, b: 3}]", "line 1, column 5: duplicate key 'b'"),
    "equal numbers as keys": ("a: {1: 1, 0x1: 2}", "duplicate key 1"),
    "a list as key": ("? [1]\n: 2", "found unhashable key"),
    "a mapping as key": ("a: {!!map x: 1}", "unhashable|expected a mapping"),
    "no truth value": ("a: !!bool maybe", "line 1, column 4: 'maybe' is not a value of the tag 'bool'"),
    "no whole number": ("a: !!int ''", "'' is not a value of the tag 'int'"),
    "no number": ("a: !!float x", "'x' is not a value of the tag 'float'"),
    "no time": ("a: !!timestamp x", "'x' is not a value of the tag 'timestamp'"),
    "no such day": ("a: 2001-02-31", "'2001-02-31' is not a value of the tag 'timestamp'"),
    "no mapping": ("!!map [1]", "expected a mapping node, but found sequence"),
    "no list": ("a: !!seq {b: 1}", "expected a sequence node"),
    "no set": ("a: !!set [1]", "expected a mapping node"),
    "no bytes": ("a: !!binary é", "line 1, column 4: failed to convert base64 data into ascii"),
    "base 60": ("a: " + ":".join(["59"] * 500), f"a number of 1,499 characters; write at most {DIGITS}"),
    "base 60 with a fraction": ("a: " + ":".join(["59"] * 500) + ".5", "a number of 1,501 characters"),
    "base 16": ("a: 0x" + "f" * 5000, "a number of 5,002 characters"),
    "base 10": ("a: " + "9" * 5000, "a number of 5,000 characters"),
    "a long fraction": ("a: 0." + "1" * 5000, "a number of 5,002 characters"),
    "beyond 64 bits": ("a: [1, -9223372036854775808]", "line 1, column 8: a whole number of 2\\^63 or more"),
    "a large file": ("a: " + "x" * BYTES, f"a document may have {BYTES:,}"),
    "control characters": ("a: \x00", "not readable as YAML"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_has_no_end_or_no_meaning_is_one_line(tmp_path: Path, name: str) -> None:
    content, reason = UNREADABLE[name]
    path = tmp_path / "file.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=reason) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    if name != "a large file":
        with pytest.raises(UserError) as error:
            parse_scalar(content)
        assert len(str(error.value)) < 400


def test_aliases_within_the_limits_stand_for_what_they_name(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: *a\nc: {<<: *a, y: 3}\nd: {<<: [*a, {z: 4}]}\n" + bomb(3))
    document = read(path)
    assert document["b"] == document["a"] == {"x": 1, "y": 2}
    assert document["c"] == {"x": 1, "y": 3}
    assert document["d"] == {"x": 1, "y": 2, "z": 4}
    assert document["a2"] == [[["x"] * 10] * 10] * 10


def test_the_limits_are_exact(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("a:\n" + "- 1\n" * (NODES - 3))  # the mapping, its key and the list are values too
    assert len(read(path)["a"]) == NODES - 3
    path.write_text("a:\n" + "- 1\n" * (NODES - 2))
    with pytest.raises(UserError, match="more than"):
        read(path)
    assert parse_scalar("[" * DEPTH + "]" * DEPTH)
    with pytest.raises(UserError, match="nested"):
        parse_scalar("[" * (DEPTH + 1) + "]" * (DEPTH + 1))
    assert parse_scalar("9223372036854775807") == 2**63 - 1


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".yaml", "x/" * 3000 + "a.yaml", "a\0b.yaml", "", ".", "/"])
def test_a_name_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        locate("space", name, tmp_path)


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("description: of mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("space", "~/mine.yaml", Path("nowhere")) == tmp_path / "mine.yaml"
    with pytest.raises(UserError, match=r"path '~nosuchuser/mine.yaml': .* give another path"):
        locate("space", "~nosuchuser/mine.yaml", Path("nowhere"))


def test_a_file_that_cannot_be_read_has_no_description_but_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("description: good")
    (tmp_path / "bad.yaml").write_text("a: [")
    found = descriptions(tmp_path)
    assert found["good"] == "good"
    assert found["bad"].startswith("(not readable as YAML: ")


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(UserError, match="f: a key is neither a text nor a number"):
        validate({"name": "x", "several": parse_scalar("{2001-01-01: 3}")}, Outer, "f")


def test_a_message_quotes_no_page() -> None:
    with pytest.raises(UserError) as error:
        validate({"name": "x", "count": "9" * 10_000, "y" * 10_000: 1}, Outer, "f")
    assert all(len(line) < 400 for line in str(error.value).splitlines())


def test_names_and_paths_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("description: of mine")
    assert locate("space", "mine", tmp_path) == tmp_path / "mine.yaml"
    assert locate("space", str(tmp_path / "mine.yaml"), Path("nowhere")) == tmp_path / "mine.yaml"
    assert descriptions(tmp_path) == {"mine": "of mine"}
    with pytest.raises(UserError, match="did you mean 'mine'"):
        locate("space", "mien", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        locate("space", "other.yaml", tmp_path)
