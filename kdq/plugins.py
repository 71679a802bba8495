"""Plugins: Python files and installed packages that add methods, quantizers, data sets, models, schedulers, searchers.

A plugin registers what it adds when it is run, by the function beside each table: `register_method` in
`kdq.distill.methods`, and so on. Its members stand in the same tables as ours. The content of the file that registered
a member is part of the identity of every stage that uses it: an edited file makes new students and points.
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdq.errors import USER_CODE, UserError, first_line, quoted
from kdq.python_file import execute

GROUP = "kdq.plugins"
"""The group of entry points by which an installed package names modules that register what they add."""
PREFIX = "kdq_plugin_"
"""The beginning of the names of the modules that plugins' files become."""
NAME = re.compile(r"[a-z][a-z0-9_]*")


class MissingPlugin(UserError):  # noqa: N818 - the user's mistake is that it is missing
    """A study needs a plugin that was not given."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A file, with its content, or a module of an installed package, without. sha256: of the file or the package."""

    name: str
    sha256: str
    content: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Member:
    """What a plugin has added. kind: such as `method`; checks: the module whose CHECKS it must pass."""

    kind: str
    name: str
    plugin: Plugin
    checks: str
    table: MutableMapping[str, Any] = field(repr=False)


_plugins: dict[str, Plugin] = {}  # by name
_members: dict[tuple[str, str], Member] = {}  # by kind and name
_running: list[Plugin] = []  # the plugin that registers members now, if any


def add(kind: str, table: MutableMapping[str, Any], name: str, member: Any, checks: str) -> None:
    """Add a member of the plugin that runs now to a table.

    Raises UserError outside of a plugin, for a name that is taken, and for one that is not lower-case.
    """
    if not _running:
        raise UserError(
            f"{kind} {quoted(name)}: can be registered by a plugin only, whose content identifies its results; put it "
            "into a file, and give --plugin FILE (in Python: kdq.plugins.load(FILE))"
        )
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"{kind} {quoted(name)}: a name must be lower-case letters, digits and _, such as my_{kind[:4]}"
        )
    if name in table:
        owner = _members.get((kind, name))
        whose = f"the plugin {owner.plugin.name}" if owner else "kdq"
        raise UserError(f"{kind} {name!r}: {whose} has one of this name; choose another")
    table[name] = member
    _members[kind, name] = Member(kind, name, _running[-1], checks, table)


def load(path: Path) -> Plugin:
    """Run a plugin's file, unless its content has been run before, and return it.

    A former version of a file of this name is removed first. Raises UserError for a file that is missing, that fails,
    or that registers nothing; then none of its members is left.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"plugin {path}: {error.strerror}; give the path of a Python file") from None
    return _load(Plugin(path.name, sha256(content).hexdigest(), content), str(path))


def load_all(paths: Sequence[Path]) -> None:
    """Run the plugins of installed packages, then those files. Raises UserError as `load`, and for two of one name."""
    names = [path.name for path in paths]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"plugin {double}: is given twice; rename one of the files, whose names tell them apart")
    load_installed()
    for path in paths:
        load(path)


def load_installed() -> None:
    """Run the modules that installed packages name in the group `kdq.plugins`. Raises UserError for one that fails."""
    for entry in entry_points(group=GROUP):
        name = f"{entry.dist.name if entry.dist else entry.module}:{entry.name}"
        if name not in _plugins:
            _run(Plugin(name, _package_hash(entry.module)), entry.load)


def ensure(plugins: Iterable[Plugin]) -> None:
    """Have these plugins loaded, in a worker. Raises UserError if an installed one is missing here, or is another."""
    for plugin in plugins:
        if plugin.content is not None:
            _load(plugin, plugin.name)
    load_installed()
    for plugin in plugins:
        found = _plugins.get(plugin.name)
        if found is None or found.sha256 != plugin.sha256:
            here = "is not installed here" if found is None else "has another content here than on the driver"
            raise UserError(f"plugin {plugin.name}: {here}; install the same version of its package on every machine")


def loaded() -> tuple[Plugin, ...]:
    """Return all plugins that were run."""
    return tuple(_plugins.values())


def members(plugin: Plugin) -> list[Member]:
    """Return what a plugin has added."""
    return [member for member in _members.values() if member.plugin == plugin]


def identity(*names: tuple[str, str]) -> dict[str, dict[str, str]]:
    """Return the inputs by which a stage knows its plugins, none for members of our own. names: kinds with names."""
    found = {f"{kind} {name}": _members[kind, name].plugin.sha256 for kind, name in names if (kind, name) in _members}
    return {"plugins": found} if found else {}


def used(names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the plugins that have added any of these members: name -> SHA-256."""
    found = [_members[name].plugin for name in names if name in _members]
    return {plugin.name: plugin.sha256 for plugin in found}


def require(wanted: Mapping[str, str], whose: str) -> None:
    """Raise MissingPlugin unless these plugins, name -> SHA-256, are loaded."""
    for name, digest in wanted.items():
        if name not in _plugins:
            raise MissingPlugin(f"{whose} uses the plugin {name}: give it by --plugin FILE, or install its package")
        if _plugins[name].sha256 != digest:
            raise MissingPlugin(f"{whose} uses another version of the plugin {name}: give that one by --plugin FILE")


def unload(name: str) -> None:
    """Remove what the plugin of this name has added, if it is loaded."""
    if plugin := _plugins.pop(name, None):
        _forget(plugin)


def _load(plugin: Plugin, path: str) -> Plugin:
    if (known := _plugins.get(plugin.name)) and known.sha256 == plugin.sha256:
        return known
    unload(plugin.name)
    assert plugin.content is not None
    content = plugin.content
    _run(plugin, lambda: execute(content, path, PREFIX))
    return plugin


def _run(plugin: Plugin, work: Any) -> None:
    """Run a plugin's code. Raises UserError, and leaves nothing registered, if it fails or registers nothing."""
    _running.append(plugin)
    try:
        work()
        if not members(plugin):
            raise UserError("registers nothing; call register_method(…) or another of the functions in docs/plugins.md")
    except UserError as error:
        _forget(plugin)
        raise UserError(f"plugin {plugin.name}: {error}") from error
    except USER_CODE as error:
        _forget(plugin)
        raise UserError(f"plugin {plugin.name}: {type(error).__name__}: {first_line(error)}{_line(error)}") from error
    finally:
        _running.pop()
    _plugins[plugin.name] = plugin


def _line(error: BaseException) -> str:
    """Return in which line of the plugin an error arose, as far as known."""
    trace, found = error.__traceback__, getattr(error, "lineno", None)
    while trace:
        if trace.tb_frame.f_globals.get("__name__", "").startswith(PREFIX):
            found = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {found})" if found else ""


def _forget(plugin: Plugin) -> None:
    for member in members(plugin):
        del member.table[member.name], _members[member.kind, member.name]


def _package_hash(module: str) -> str:
    """Return the SHA-256 of the Python files of the package that a module is in, or of a module by itself."""
    spec = find_spec(module.partition(".")[0])
    if spec is None or spec.origin is None:
        raise UserError(f"plugin {module}: its package has no __init__.py; add one, or install it again")
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
    total = sha256()
    for file in files:
        total.update(f"{file.relative_to(origin.parent)}\0{sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
