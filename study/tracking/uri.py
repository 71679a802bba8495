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
_SECRET = re.compile("pass|pwd?|secret|token|jwt|auth|cred|sig|(api|access|account|private).?key", re.IGNORECASE)
_COLON = re.compile("(?::|%(?:25)*3a)", re.IGNORECASE)
_HOST = re.compile(rf"\[[0-9a-f:.]*(?:%25\w+)?\]|(?:(?!{_COLON.pattern})[^/])*", re.IGNORECASE)
_PORT = re.compile(r":\d+(?=/|$)")
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
    """Return the address without password and query, for messages; a malformed one hides all that may be either.

    A web server's user without a password is hidden too: it is usually a token.
    """
    if is_sqlite(uri):
        return uri.partition("?")[0]
    head = _split(uri)[0]
    scheme = re.match(r"[a-z][\w+.-]*://|", head, re.IGNORECASE)[0]  # type: ignore[index]
    rest = head.removeprefix(scheme)
    if _hides_query(uri):
        return f"{scheme}{_COLON.split(rest)[0]}"
    user, at, server = rest.rpartition("@")
    if scheme.lower().startswith("http") and "/" not in user and not _COLON.search(user):
        user = at = ""
    end = _HOST.match(server).end()  # type: ignore[union-attr]
    if port := _PORT.match(server, end):
        end = port.end()
    return f"{scheme}{_COLON.split(user)[0]}{at}{server[:end]}{_COLON.split(server[end:])[0]}"


def repeatable(uri: str) -> str:
    """Return the address for a command that repeats this one: as `shown`, with what its query has beside secrets."""
    query = "" if _hides_query(uri) else _split(uri)[1]
    kept = [part for part in query.split("&") if "=" in part and not _is_secret(part)]
    return "?".join([shown(uri), "&".join(kept)]) if kept else shown(uri)


def _split(uri: str) -> tuple[str, str]:
    """Return the address before its query, fragment or `;` parameters, and its query."""
    head, *rest = re.split("([?#;])" if not is_sqlite(uri) else "([?])", uri, maxsplit=1)
    return head, rest[1].partition("#")[0] if rest and rest[0] == "?" else ""


def _hides_query(uri: str) -> bool:
    """Return whether what seems to be a query may belong to a password that is not quoted: `user:a?b@host`."""
    head = _split(uri)[0]
    return not is_sqlite(uri) and "@" in uri[len(head) :] and bool(_COLON.search(head.partition("://")[2] or head))


def _is_secret(part: str) -> bool:
    """Return whether a part of a query sets a secret, by its name or by one in its value, as in `odbc_connect`."""
    return any(map(_SECRET.search, re.findall("([^=;&?]*)=", unquote_plus(part))))


def without_password(text: str, uri: str) -> str:
    """Return a text, such as an error of MLflow's, with the address as `shown` has it."""
    return text.replace(uri.rstrip("/"), shown(uri).rstrip("/"))


def is_sqlite(uri: str) -> bool:
    """Return whether this is the address of a SQLite file; another that begins with `sqlite:` may have a password."""
    return uri.startswith(("sqlite:///", f"{_QUOTED}:///"))


def sqlite_uri(file: Path) -> str:
    """Return the address of a SQLite file. As in every address, `%`, `?` and control characters are quoted.

    MLflow makes the folder of an address that begins with `sqlite:` without undoing that; of others it does not.
    """
    path = _SPECIAL.sub(lambda letter: quote(letter[0]), str(file))
    return f"sqlite:///{path}" if path == str(file) else f"{_QUOTED}:///{path}"


def sqlite_path(uri: str) -> Path:
    """Return the absolute path of a SQLite address's file; raise UserError if it names none."""
    kind, separator, path = uri.partition(":///")
    path = path.partition("?")[0]
    if not separator or ":" in kind or path in ("", ":memory:"):
        raise UserError(f"tracking address {shown(uri)!r} names no file; use sqlite:///FILE")
    written, meant = (user_path(text).absolute() for text in (path, unquote(path)))
    if written.parent.exists() and not meant.parent.exists():
        raise UserError(f"tracking address {shown(uri)!r} means {meant}; write {sqlite_uri(written)} for {written}")
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
