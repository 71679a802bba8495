"""Paths that a user gives, and the home folder."""

import os
from pathlib import Path

from kdq.errors import UserError, quoted

ROOT = Path(__file__).parents[1]
"""The folder that the packages of this program are in."""

MAKE_WRITABLE = "make it writable, or run in another folder"
"""What helps with a folder that is not writable."""


def user_path(text: str) -> Path:
    """Return the path that `text` names, with `~` and `~USER` as home folders; it need not exist.

    Raises UserError for an unknown user and for a path that the system refuses, such as one with a name that is too
    long, or with the character NUL.
    """
    if "\0" in text:
        raise UserError(f"path {quoted(text)}: has the character NUL (in an address, %00); give another path")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "there is no such user"
        raise UserError(f"path {quoted(text)}: {reason}; give another path") from None
    return path


def check_home() -> None:
    """Raise UserError for a user without a home folder, as in a container: MLflow cannot be imported then."""
    try:
        Path.home()
    except RuntimeError:
        raise UserError(
            f"user {os.getuid()} has no home folder, which MLflow asks for: set HOME to a folder, such as HOME=/tmp"
        ) from None
