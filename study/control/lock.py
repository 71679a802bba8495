"""One process at a time runs a study; another that tries is told who does, and since when."""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import Timeout

from kdq.errors import UserError
from kdq.store.files import system_lock

PATIENCE = 1.0  # seconds: a holder that has just come has written down by then who it is


@contextmanager
def alone(folder: Path, study: str) -> Iterator[None]:
    """Hold the study's lock in `folder`; the system frees it if this process dies. Raises UserError if it is held."""
    lock, note = system_lock(folder / f"{study}.lock", timeout=PATIENCE), folder / f"{study}.holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        note.write_text(_ourselves())
    except Timeout:
        raise UserError(f"study {study!r} is being run by {_holder(note)}; wait for it, or stop it") from None
    except OSError as error:
        lock.release()
        raise UserError(f"{folder} cannot be written: {error}; run where it can") from None
    try:
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _ourselves() -> str:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return f"{_user()} (process {os.getpid()} on {socket.gethostname()}) since {since}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return f"user {os.getuid()}"


def _holder(note: Path) -> str:
    try:
        return note.read_text() or "another process"
    except FileNotFoundError:
        return "another process"
