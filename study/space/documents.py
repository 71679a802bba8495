"""YAML documents: read, checked against a dataclass, with all errors reported at once."""

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from kdq.errors import UserError, quoted, unknown
from study.paths import user_path

T = TypeVar("T")

NODES = 10_000
"""Values in a document: keys, numbers, texts, lists and mappings."""

DEPTH = 24
BYTES = 1_000_000
"""Of a document's file."""

LONGEST_PATH = 160
"""Characters of a dotted key that a message quotes."""

DIGITS = 100
"""Characters of a number: one of YAML's base 60 or 16 could else be too large to be shown or computed with."""

WHOLE = 2**63
"""Below it, whole numbers are exact in every library behind."""

MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.1 does not), rejects duplicate keys, and has limits.

    A document has at most NODES values, nested at most DEPTH deep, each alias counted as the values that it stands
    for: written out, no document is larger than that.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0  # so far
        self._open = 0  # values around the current one
        self._inner = 0  # the depth of the values in the one around the current one
        self._extents: dict[yaml.Node, tuple[int, int]] = {}  # the number of values in each, and their depth

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        if self._open >= DEPTH:
            raise _error(f"nested more than {DEPTH} deep; write it flatter", mark)
        nodes, inner = self._nodes, self._inner
        self._inner, self._open = 0, self._open + 1
        node = super().compose_node(parent, index)
        assert node
        self._open -= 1
        if not is_alias:
            self._extents[node] = self._nodes - nodes + 1, self._inner + 1
        elif node not in self._extents:
            raise _error("an alias contains itself; write it out without aliases", mark)
        count, depth = self._extents[node]
        self._nodes, self._inner = nodes + count, max(inner, depth)
        if self._nodes > NODES:
            raise _error(f"more than {NODES:,} values, counting what aliases stand for; write fewer", mark)
        if self._open + depth > DEPTH:
            raise _error(f"nested more than {DEPTH} deep, counting what aliases stand for; write it flatter", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        nodes = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE]
        keys = [self.construct_object(key) for key in nodes]
        counts = Counter(key for key in keys if isinstance(key, Hashable))
        if duplicates := [quoted(key) for key, count in counts.items() if count > 1]:
            raise _error(f"duplicate key {', '.join(sorted(duplicates))}", node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        tag = node.tag.rpartition(":")[2]
        if isinstance(node, yaml.ScalarNode) and tag in ("int", "float") and len(node.value) > DIGITS:
            raise _error(f"a number of {len(node.value):,} characters; write at most {DIGITS}", node.start_mark)
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # PyYAML's constructors raise almost any exception for a value that is not of its tag
            raise _error(f"{quoted(node.value)} is not a value of the tag {tag!r}", node.start_mark) from None
        if isinstance(value, int) and abs(value) >= WHOLE:
            raise _error("a whole number of 2^63 or more; write a smaller one, or one such as 1e20", node.start_mark)
        return value


def _error(problem: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_scalar(text: str) -> Any:
    """Return the value of a command-line setting, parsed like the documents (`1e-3` is a number, `[1, 2]` a list)."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(
            f"cannot read the value {quoted(text)}: it must be YAML, such as 0.1, true or [1, 2] ({_reason(error)})"
        ) from None


def _reason(error: Exception) -> str:
    """Return what is wrong and where, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or not error.problem or not error.problem_mark:
        return " ".join(str(error).split())
    return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"


def locate(kind: str, name: str, folder: Path) -> Path:
    """Return the file of a shipped document by name, or a user's own file by path.

    Raises UserError, suggesting the closest shipped name, if neither exists.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = user_path(name)
        if not _is_file(path):
            raise UserError(
                f"{kind} file {quoted(name)} does not exist; give a shipped name or the path of a YAML file"
            )
        return path
    path = folder / f"{name}.yaml"
    if not _is_file(path):
        raise unknown(kind, name, (p.stem for p in folder.glob("*.yaml")))
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no permission, a name longer than the file system allows
        return False


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises UserError with the file, the line and the error."""
    try:
        if (size := path.stat().st_size) > BYTES:
            raise UserError(f"{path}: has {size:,} bytes, a document may have {BYTES:,}; is this the right file?")
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeError, OSError) as error:
        raise UserError(f"{path}: not readable as YAML: {_reason(error)}") from None
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise UserError(f"{path}: must be a mapping of names to values, found {type(document).__name__}")
    return document


@dataclass(frozen=True, slots=True)
class Problems:
    """The errors of a document, collected while it is read and reported all at once."""

    source: str
    lines: list[str] = field(default_factory=list)

    def add(self, path: str, rule: str) -> None:
        """Add an error at `path`, a dotted key. rule: the rule that is broken."""
        self.lines.append(f"{self.source}: {_short(path)}: {rule}")

    def add_value(self, path: str, value: Any, rule: str) -> None:
        """Add an error of the value at `path`."""
        self.add(f"{_short(path)} = {quoted(value)}", rule)

    def add_unknown(self, path: str, document: Mapping[Any, Any], known: Iterable[str]) -> None:
        """Add an error for each unknown key of the mapping at `path`."""
        known = tuple(known)
        for key in document:
            if key not in known:
                self.add(f"{path}.{key}".removeprefix("."), str(unknown("key", str(key), known)))

    def raise_all(self) -> None:
        """Raise UserError with a line for each error, if there are any."""
        if self.lines:
            raise UserError("\n".join(dict.fromkeys(self.lines)))


def validate(document: Mapping[str, Any], model: type[T], source: str) -> T:
    """Return the document as an instance of the dataclass `model`.

    Raises UserError with a line for each error: source, key, value, rule.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        text = json.dumps(document, default=str)
    except TypeError:
        raise UserError(f"{source}: a key is neither a text nor a number; put it in quotes") from None
    try:
        return TypeAdapter(model).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError("\n".join(_line(source, model, e) for e in error.errors())) from None


def _line(source: str, model: type[Any], error: Any) -> str:
    # In pydantic's path the branches of a union appear as class names, which are not in the document.
    path = ".".join(_short(str(part)) for part in error["loc"] if not str(part)[:1].isupper())
    rule = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{source}: {path}: is required but missing"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        parent, _, key = path.rpartition(".")
        return f"{source}: {path}: {unknown('key', key, _fields(model, parent))}"
    if isinstance(error["input"], dict):
        return f"{source}: {path + ': ' if path else ''}{rule}"
    return f"{source}: {path} = {quoted(error['input'])}: {rule[:1].lower()}{rule[1:]}"


def _short(path: str) -> str:
    return (path if path.isprintable() else repr(path)[1:-1])[:LONGEST_PATH]


def _fields(model: type[Any], path: str) -> list[str]:
    """Return the keys that a document of `model` may have at `path`."""
    for part in path.split(".") if path else []:
        model = _dataclass_in(get_type_hints(model).get(part)) or model
    return [field.name for field in fields(model)]


def _dataclass_in(hint: Any) -> type[Any] | None:
    """Return the dataclass that a type hint is or contains."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next((found for part in get_args(hint) if (found := _dataclass_in(part))), None)


def descriptions(folder: Path) -> dict[str, str]:
    """Return the description of every document in a folder by name."""
    return {path.stem: _description(path) for path in sorted(folder.glob("*.yaml"))}


def _description(path: Path) -> str:
    try:
        return str(read(path).get("description", ""))
    except UserError as error:  # one bad file must not keep the others from being listed, or used
        return f"({str(error).removeprefix(f'{path}: ')})"
