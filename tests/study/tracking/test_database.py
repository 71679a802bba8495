"""MLflow's database, made by processes that are killed meanwhile, or whose disk is full."""

import multiprocessing
import os
import random
import resource
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from kdq.errors import UserError
from study.tracking import database
from study.tracking.database import LOCK, check_database, ensure_database
from study.tracking.tracker import open_tracker

BYTES = 900_000  # of a new database, about
FORKS = multiprocessing.get_context("fork")  # a spawned process would import MLflow, which takes seconds


def _bytes_made(folder: Path) -> int:
    with suppress(FileNotFoundError):  # what a killed process left is removed by the next one just now
        return sum(made.stat().st_size for made in folder.glob(".making-*/*.db"))
    return 0


def test_processes_killed_while_they_make_it_leave_nothing_that_matters(tmp_path: Path) -> None:
    file, draw = tmp_path / "mlflow.db", random.Random(0)
    for share in (0, draw.random()):
        process = FORKS.Process(target=ensure_database, args=(file,))
        process.start()
        while process.is_alive() and _bytes_made(tmp_path) <= share * BYTES:
            pass
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it had ended before"
        assert not file.exists()
        assert list(tmp_path.glob(".making-*"))
    link = tmp_path / "link.db"
    link.symlink_to(file)
    file.touch()  # as MLflow itself leaves it, killed before its first write
    (tmp_path / "mlflow.db-journal").write_bytes(b"of a file that was removed")
    tracker = open_tracker(f"sqlite:///{link}", "study", tmp_path, print, lambda: False)
    assert tracker.client.get_experiment_by_name("study")
    assert {path.name for path in tmp_path.iterdir()} == {"link.db", "mlflow.db", LOCK}
    assert link.is_symlink()
    before = file.read_bytes()
    ensure_database(file)
    assert file.read_bytes() == before


def test_a_disk_that_is_full_leaves_no_file(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = tmp_path / "mlflow.db"
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BYTES // 3, limits[1]))
    try:
        with pytest.raises((SQLAlchemyError, OSError)):
            ensure_database(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_file_of_a_former_version_that_is_half_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as half:
        half.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    for use in (check_database, ensure_database):
        with pytest.raises(UserError, match=f"{file} is half made, .*, and has no study: remove it"):
            use(file)


def make_store(file: Path) -> None:
    """Make what the check takes for MLflow's database, in milliseconds, of several hundred pages."""
    with closing(sqlite3.connect(file)) as store:
        store.execute("CREATE TABLE experiments (name TEXT)")
        store.executemany("INSERT INTO experiments VALUES (?)", [("before" * 100,)] * 1000)
        store.commit()


def die_while_writing(file: Path) -> None:
    store = sqlite3.connect(file)
    store.execute("PRAGMA cache_size = 1")  # so that the change reaches the file before it is committed
    store.execute("UPDATE experiments SET name = 'after'")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_store_whose_writer_was_killed_is_usable_at_once(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    for use in (check_database, ensure_database):
        file.unlink(missing_ok=True)
        make_store(file)
        before = file.read_bytes()
        writer = FORKS.Process(target=die_while_writing, args=(file,))
        writer.start()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        assert file.with_name("mlflow.db-journal").stat().st_size > 0
        assert file.read_bytes() != before
        use(file)
        assert file.read_bytes() == before


def test_a_database_that_is_locked_is_not_called_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    file = tmp_path / "mlflow.db"
    make_store(file)
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=rf"another process has locked {file} .*: wait until it ends"):
            check_database(file)
    check_database(file)
