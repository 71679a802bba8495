"""What Ray needs of this machine, found without importing it: a tested version, a folder for its own files."""

import os
import re
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kdq.errors import UserError, first_line

OLDEST = NEWEST = (2, 60)
"""The versions of Ray, major and minor, on which the tests have run."""

SOCKET_BYTES = 107 if sys.platform == "linux" else 103  # of a socket's path, which the system limits
PREFIX = "kdq-"
_SOCKET = f"{PREFIX}12345678/r/session_2026-01-01_12-00-00_123456_1234567/sockets/plasma_store"
"""The longest path of a socket below the temporary folder: our folder, Ray's session in it, its socket."""


def check_version() -> str:
    """Return a warning if the installed Ray is newer than those tested, else nothing; raise UserError if too old."""
    found = ray_version()
    if _parse(found) < OLDEST:
        raise UserError(f"Ray {found}: must be {_shown(OLDEST)} or newer; {remedy()}")
    if _parse(found) <= NEWEST:
        return ""
    return f"warning: Ray {found} is newer than {_shown(NEWEST)}, the newest tested; if it fails, {remedy()}"


def ray_version() -> str:
    try:
        return version("ray")
    except PackageNotFoundError:
        raise UserError(f"Ray, which runs the trials, is not installed; {remedy()}") from None


def remedy() -> str:
    return f"install a version that is tested: pip install 'ray[tune]=={_shown(NEWEST)}.*'"


def broken(error: ImportError) -> UserError:
    """Return the error for an installed Ray that cannot be imported."""
    return UserError(f"Ray {ray_version()} cannot be imported ({first_line(error)}); {remedy()}")


def _parse(text: str) -> tuple[int, int]:
    major, minor, *_ = [*map(int, re.findall(r"\d+", text)), 0, 0]
    return major, minor


def _shown(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def temporary_folder() -> Path:
    """Return the folder for Ray's own files: RAY_TMPDIR; else TMPDIR, /tmp or /var/tmp, the first that is fit.

    Raises UserError if it is not writable, or if the paths of Ray's sockets would be too long there.
    """
    if given := os.environ.get("RAY_TMPDIR"):
        if obstacle := _obstacle(Path(given)):
            raise UserError(f"RAY_TMPDIR={given}: {obstacle}; set it to another folder, such as /tmp")
        return Path(given).absolute()
    known = [Path(folder) for folder in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp") if folder]
    obstacles = {str(folder): _obstacle(folder) for folder in known}
    if fit := [folder for folder in known if not obstacles[str(folder)]]:
        return fit[0].absolute()
    listing = "; ".join(f"{folder}: {obstacle}" for folder, obstacle in obstacles.items())
    raise UserError(f"there is no temporary folder for Ray ({listing}); set RAY_TMPDIR to a writable one")


def _obstacle(folder: Path) -> str:
    """Return why Ray cannot use a folder, or an empty text."""
    if (excess := len(os.fsencode(folder.absolute() / _SOCKET)) - SOCKET_BYTES) > 0:
        most = len(os.fsencode(folder.absolute())) - excess
        return f"its path is too long for Ray's sockets, must have at most {most} bytes"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"is not writable ({error.strerror})"
