"""YAML documents: read, checked against a dataclass, with all errors reported at once."""

import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from kdq.errors import UserError, unknown

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.1 does not) and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if duplicates := {repr(key) for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate key {', '.join(sorted(duplicates))}", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_scalar(text: str) -> Any:
    """Return the value of a command-line setting, parsed like the documents (`1e-3` is a number, `[1, 2]` a list)."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"cannot read the value {text!r}: it must be YAML, such as 0.1, true or [1, 2]") from None


def locate(kind: str, name: str, folder: Path) -> Path:
    """Return the file of a shipped document by name, or a user's own file by path.

    Raises UserError, suggesting the closest shipped name, if neither exists.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise UserError(f"{kind} file {name!r} does not exist; give a shipped name or the path of a YAML file")
        return Path(name)
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise unknown(kind, name, (p.stem for p in folder.glob("*.yaml")))
    return path


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises UserError with the file, the line and the error."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
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
        self.lines.append(f"{self.source}: {path}: {rule}")

    def add_value(self, path: str, value: Any, rule: str) -> None:
        """Add an error of the value at `path`."""
        self.add(f"{path} = {_REPR.repr(value)}", rule)

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


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80  # a message quotes the value, but not pages of it


def validate(document: Mapping[str, Any], model: type[T], source: str) -> T:
    """Return the document as an instance of the dataclass `model`.

    Raises UserError with a line for each error: source, key, value, rule.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        text = json.dumps(document, default=str)
    except (ValueError, RecursionError):
        raise UserError(
            f"{source}: a value contains itself or is nested too deeply; write it out without aliases"
        ) from None
    try:
        return TypeAdapter(model).validate_json(text, strict=True)
    except ValidationError as error:
        raise UserError("\n".join(_line(source, model, e) for e in error.errors())) from None


def _line(source: str, model: type[Any], error: Any) -> str:
    # In pydantic's path the branches of a union appear as class names, which are not in the document.
    path = ".".join(str(part) for part in error["loc"] if not str(part)[:1].isupper())
    rule = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{source}: {path}: is required, and is missing"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        parent, _, key = path.rpartition(".")
        return f"{source}: {path}: {unknown('key', key, _fields(model, parent))}"
    if isinstance(error["input"], dict):
        return f"{source}: {path + ': ' if path else ''}{rule}"
    return f"{source}: {path} = {error['input']!r}: {rule[:1].lower()}{rule[1:]}"


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
    return {path.stem: str(read(path).get("description", "")) for path in sorted(folder.glob("*.yaml"))}
