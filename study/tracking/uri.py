"""The address of the tracking store: completed, checked and probed, without importing MLflow."""

import os
import re
import socket
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, unquote_plus, urlsplit
from urllib.request import url2pathname

from kdq.errors import UserError
from study.paths import check_home, user_path
from study.tracking.database import check_database

TIMEOUT_SECONDS = 5.0
ENVIRONMENT_VARIABLE = "MLFLOW_TRACKING_URI"
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_KINDS = "use sqlite:///FILE, http(s)://HOST:PORT, or a postgresql, mysql or mssql address"
FOLDER = Path("mlruns")
_QUOTED = "sqlite+pysqlite"
_SECRET = re.compile("pass|pwd|secret|token|auth|cred|sig|(api|access|private).?key", re.IGNORECASE)
_SPECIAL = re.compile(r"[%?\x00-\x1f\x7f]")


def tracking_uri(text: str | None, folder: Path = FOLDER) -> str:
    """Return the complete address of the tracking store.

    text: an address; None for `MLFLOW_TRACKING_URI` if set, else `mlflow.db` in `folder`. A SQLite file gets its
    absolute path and need not exist. Raises UserError, within seconds, if MLflow does not support the address or the
    server does not respond; and for a user without a home folder.
    """
    check_home()  # without one, MLflow cannot be imported
    uri = text or os.environ.get(ENVIRONMENT_VARIABLE) or sqlite_uri(folder / "mlflow.db")
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may have the password
        raise UserError(f"tracking address {shown(uri)!r}: host or port is invalid; {_KINDS}") from None
    kind = parts.scheme.partition("+")[0]
    if kind == "sqlite":
        return sqlite_uri(sqlite_path(uri))
    if kind not in _PORTS:
        raise UserError(f"tracking address {shown(uri)!r}: MLflow cannot store runs there; {_KINDS}")
    if not host:
        raise UserError(f"tracking address {shown(uri)!r} names no host; {_KINDS}")
    _probe(parts, host, port or _PORTS[kind])
    return uri


def require_store(uri: str) -> None:
    """Raise UserError if a SQLite address, as `tracking_uri` returns it, is not that of an MLflow store."""
    if not is_sqlite(uri):
        return
    path = sqlite_path(uri)
    if not path.is_file():
        raise UserError(f"no tracking store at {path}: run a study first, or give the store by --tracking-uri")
    check_database(path)


def shown(uri: str) -> str:
    """Return the address without password and query, for messages; a malformed one hides all that may be either."""
    if is_sqlite(uri):
        return uri
    scheme, separator, rest = uri.rpartition("://") if "://" in uri.partition("@")[0] else ("", "", uri)
    user, at, server = rest.rpartition("@")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{re.split('[?#]', server)[0]}"


def repeatable(uri: str) -> str:
    """Return the address for a command that repeats this one: as `shown`, with what its query has beside secrets."""
    if is_sqlite(uri):
        return uri
    query = uri.rpartition("@")[2].partition("?")[2].partition("#")[0]
    kept = [part for part in query.split("&") if part and not _SECRET.search(unquote_plus(part))]
    return "?".join([shown(uri), "&".join(kept)]) if kept else shown(uri)


def without_password(text: str, uri: str) -> str:
    """Return a text, such as an error of MLflow's, with the address as `shown` has it."""
    return text.replace(uri.rstrip("/"), shown(uri).rstrip("/"))


def is_sqlite(uri: str) -> bool:
    return uri.startswith(("sqlite:", f"{_QUOTED}:"))


def sqlite_uri(file: Path) -> str:
    """Return the address of a SQLite file. As in every address, `%`, `?` and control characters are quoted.

    MLflow makes the folder of an address that begins with `sqlite:` without undoing that; of others it does not.
    """
    path = _SPECIAL.sub(lambda letter: quote(letter[0]), str(file))
    return f"sqlite:///{path}" if path == str(file) else f"{_QUOTED}:///{path}"


def sqlite_path(uri: str) -> Path:
    """Return the absolute path of a SQLite address's file; raise UserError if it names none."""
    _, separator, path = uri.partition(":///")
    path = path.partition("?")[0]
    if not separator or path in ("", ":memory:"):
        raise UserError(f"tracking address {uri!r} names no file; use sqlite:///FILE")
    written, meant = (user_path(text).absolute() for text in (path, unquote(path)))
    if written.parent.exists() and not meant.parent.exists():
        raise UserError(f"tracking address {uri!r} means {meant}; write {sqlite_uri(written)} for {written}")
    return meant


def local_path(uri: str) -> str:
    """Return the path of a `file:` address, such as MLflow has for artifacts of a local store; others as they are."""
    return url2pathname(urlsplit(uri).path) if uri.startswith("file:") else uri


def _probe(parts: SplitResult, host: str, port: int) -> None:
    """Connect; an HTTP server must also respond with a line, since a hung one still accepts connections."""
    address = shown(parts.geturl())
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT_SECONDS) as connection:
            if parts.scheme != "http":
                return
            server = parts.netloc.rpartition("@")[2]
            path = parts.path.rstrip("/") + "/health"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n".encode())
            with connection.makefile("rb") as stream:
                response = stream.read(5)
    except (OSError, UnicodeError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"the tracking server {address} does not respond ({reason}); start it, or give another address"
        ) from None
    if response != b"HTTP/":
        raise UserError(f"the tracking server {address} does not respond as a web server; give another address")
