"""MLflow's database in a SQLite file: made whole or not at all."""

import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from kdq.errors import UserError
from kdq.store.files import flush, system_lock

LOCK = "store.lock"  # beside the file: studies of several storage paths may share it
BUSY_SECONDS = 60  # for which a read of a SQLite file waits for a process that writes to it
_MAKING = ".making-"
_BESIDE = ("-journal", "-wal", "-shm")  # SQLite's own files beside a database


def ensure_database(file: Path) -> None:
    """Make MLflow's database if it is missing, else check it.

    MLflow makes its tables one by one, and cannot resume that: a process killed meanwhile would leave a file that is
    unusable for good. So they are made under another name. Raises UserError for a file that is no such database, and
    errors of the disk as they come.
    """
    file = file.resolve()  # a link stays one
    if is_made(file):
        check_database(file)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with system_lock(file.parent / LOCK):
        for left in file.parent.glob(f"{_MAKING}*"):  # by a process that was killed
            shutil.rmtree(left)
        if not is_made(file):
            _make(file)


def is_made(file: Path) -> bool:
    """Return whether there is a database, not just the empty file that it begins as."""
    return file.exists() and file.stat().st_size > 0


def _make(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import URL

    with tempfile.TemporaryDirectory(prefix=_MAKING, dir=file.parent) as folder:
        made = Path(folder) / file.name
        address = URL.create("sqlite+pysqlite", database=str(made)).render_as_string()
        store = SqlAlchemyStore(address, "./mlruns")  # type: ignore[no-untyped-call]
        store.engine.dispose()
        for suffix in _BESIDE:  # of a former file of this name, in which they do not belong
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        flush(made)
        made.replace(file)
    flush(file.parent)


def check_database(file: Path) -> None:
    """Raise UserError if a file is not a database, or a half made one, which has nothing.

    (Once its tables are complete, MLflow adds an experiment.) Waits BUSY_SECONDS for a process that writes to it. What
    a writer that was killed left half done, SQLite undoes here, for which it must open the file to write.
    """
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            is_half_made = "experiments" in tables and not database.execute("SELECT 1 FROM experiments").fetchone()
    except sqlite3.Error as error:
        raise UserError(_why_unusable(file, error)) from None
    if tables and "experiments" not in tables:
        raise UserError(f"{file} is a SQLite file, but not an MLflow tracking store; give another --tracking-uri")
    if is_half_made:
        raise UserError(
            f"{file} is half made, since the program that made it was interrupted, and has no study: remove it, and "
            f"run the same command again"
        )


def _why_unusable(file: Path, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the details of SQLite's extended codes
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"another process has locked {file} for more than {BUSY_SECONDS} s: wait until it ends, or stop it"
    if code == sqlite3.SQLITE_READONLY:
        return (
            f"{file} has an unfinished change, since the program that wrote it was killed, and this user may not undo "
            f"it: make the file and its folder writable, or run as the user to whom they belong"
        )
    return f"{file} cannot be read as a tracking store: {error}; give another --tracking-uri"
