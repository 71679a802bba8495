"""Where the tracking store is, and whether it answers. Knows nothing of MLflow but its addresses."""

import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from kdq.errors import UserError
from study.paths import user_path

TIMEOUT_SECONDS = 5.0
ENVIRONMENT_VARIABLE = "MLFLOW_TRACKING_URI"
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_KINDS = "use sqlite:///FILE, http(s)://HOST:PORT, or a postgresql, mysql or mssql address"
FOLDER = Path("mlruns")


def tracking_uri(text: str | None, folder: Path = FOLDER) -> str:
    """The address of the tracking store, complete and checked.

    text: an address or None, which means `MLFLOW_TRACKING_URI` if that is set and else `mlflow.db` in `folder`. A
    SQLite file gets its absolute path and need not exist. Raises UserError, within seconds, for an address that MLflow
    cannot use and a server that does not answer.
    """
    uri = text or os.environ.get(ENVIRONMENT_VARIABLE) or f"sqlite:///{folder}/mlflow.db"
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"tracking address: {error}; {_KINDS}") from None
    kind = parts.scheme.partition("+")[0]
    if kind == "sqlite":
        return f"sqlite:///{_sqlite_path(uri)}"
    if kind not in _PORTS:
        raise UserError(f"tracking address {shown(uri)!r}: MLflow keeps no runs there; {_KINDS}")
    if not host:
        raise UserError(f"tracking address {shown(uri)!r} names no host; {_KINDS}")
    _probe(parts, host, port or _PORTS[kind])
    return uri


def require_store(uri: str) -> None:
    """Raise UserError if a SQLite address (from `tracking_uri`) is not that of an MLflow store."""
    if not uri.startswith("sqlite:"):
        return
    path = _sqlite_path(uri)
    if not path.is_file():
        raise UserError(f"no tracking store at {path}: run a study first, or name the store by --tracking-uri")
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as store:
            found = store.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone()
    except sqlite3.Error as error:
        raise UserError(f"{path} cannot be read as a tracking store: {error}") from None
    if not found:
        raise UserError(f"{path} is a SQLite file, but not an MLflow tracking store")


def shown(uri: str) -> str:
    """The address without its password and its query, for messages."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri
    user, at, server = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}{at}{server}", query="", fragment="").geturl()


def _sqlite_path(uri: str) -> Path:
    _, separator, path = uri.partition(":///")
    path = path.partition("?")[0]
    if not separator or path in ("", ":memory:"):
        raise UserError(f"tracking address {uri!r} names no file; use sqlite:///FILE")
    return user_path(path).absolute()


def _probe(parts: SplitResult, host: str, port: int) -> None:
    """Connect; of a plain HTTP server ask one line too, because a hung one still accepts connections."""
    address = shown(parts.geturl())
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection:
            if parts.scheme != "http":
                return
            server = parts.netloc.rpartition("@")[2]
            path = parts.path.rstrip("/") + "/health"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n".encode())
            with connection.makefile("rb") as stream:
                answer = stream.read(5)
    except (OSError, UnicodeError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"the tracking server {address} does not answer ({reason}); start it, or name another"
        ) from None
    if answer != b"HTTP/":
        raise UserError(f"the tracking server {address} does not answer as a web server; name another")
