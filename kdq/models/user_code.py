"""A user's own networks: built by a function in a Python file, which is run only because the user named it."""

from collections.abc import Callable
from functools import cache
from hashlib import sha256 as digest
from pathlib import Path
from typing import Any

from kdq.errors import USER_CODE, UserError, first_line
from kdq.python_file import execute
from kdq.store.files import content_hash


def hash_of(file: Path, arch: str) -> str:
    """Return the SHA-256 of a file's content. Raises UserError if it is missing or unreadable."""
    try:
        known = file.stat()
        return _hash(file, known.st_size, known.st_mtime_ns)
    except OSError as error:
        raise _unreadable(file, arch, error) from error


def _unreadable(file: Path, arch: str, error: OSError) -> UserError:
    return UserError(f"{arch}: {file}: {error.strerror or error}; name a file that exists")


@cache
def _hash(file: Path, size: int, changed: int) -> str:
    """Return the SHA-256 of a file that was so large, and changed then: stages ask for it again and again."""
    return content_hash(file)


def function_in(file: Path, name: str, arch: str, sha256: str | None) -> Callable[..., Any]:
    """Run a file and return one of its functions.

    sha256: of the content that the study began with, or that a packed file was made with; None for any. Raises
    UserError for another content, for a file that fails, and for one without that function.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, arch, error) from error
    found = digest(content).hexdigest()
    if sha256 not in (None, found):
        raise UserError(
            f"{arch}: {file} has changed: its SHA-256 is {found[:12]}…, must be {str(sha256)[:12]}…; give the "
            "file as it was, or begin a new study with it"
        )
    try:
        module = execute(content, str(file), "kdq_user_")
    except USER_CODE as error:
        raise UserError(f"{arch}: {file} fails: {type(error).__name__}: {first_line(error)}; fix it") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{arch}: {file} has no function {name}; it must be {name}(classes, channels) -> nn.Module")
    return function  # type: ignore[no-any-return]
