"""The lock of a study: one process at a time runs it; another gets an error that names the first."""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import Timeout

from kdq.errors import UserError
from kdq.store.files import system_lock
from study.console.failures import full_text, likely_cause
from study.paths import MAKE_WRITABLE

PATIENCE = 1.0  # seconds, enough for a holder that has just locked to write its holder file


@contextmanager
def study_lock(folder: Path, study: str) -> Iterator[None]:
    """Hold the study's lock in `folder`, released by the system if this process dies; raise UserError if it is held."""
    lock, holder = system_lock(folder / f"{study}.lock", timeout=PATIENCE), folder / f"{study}.holder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        holder.write_text(_this_process())
    except Timeout:
        raise UserError(f"study {study!r} is being run by {_read_holder(holder)}; wait for it, or stop it") from None
    except OSError as error:
        lock.release()
        why = likely_cause(full_text(error)) or MAKE_WRITABLE
        raise UserError(f"{folder} is not writable: {error}; {why}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # a failing disk, which has raised its own error already
            holder.unlink(missing_ok=True)
        lock.release()


def _this_process() -> str:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return f"{_user()} (process {os.getpid()} on {socket.gethostname()}) since {since}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return f"user {os.getuid()}"


def _read_holder(file: Path) -> str:
    try:
        return file.read_text() or "another process"
    except FileNotFoundError:
        return "another process"
