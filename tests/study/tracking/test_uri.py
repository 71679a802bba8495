import contextlib
import socket
import sqlite3
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from kdq.errors import UserError
from study.commands.options import RunOptions
from study.tracking import uri
from study.tracking.uri import (
    local_path,
    repeatable,
    require_store,
    shown,
    sqlite_path,
    sqlite_uri,
    tracking_uri,
    without_password,
)
from tests.patience import patient


@contextlib.contextmanager
def server(answer):
    """A server on a free port that takes one connection and answers with these bytes; None: it hangs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = []

        def serve():
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(1000))
                if answer is not None:
                    connection.sendall(answer)
                else:
                    connection.recv(1)  # until the client gives up

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join(timeout=patient(1))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(uri, "TIMEOUT_SECONDS", 0.3)


def test_the_default_is_the_store_in_the_current_folder(tmp_path):
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert list(tmp_path.iterdir()) == []


def test_the_environment_variable_comes_before_the_default_and_after_the_argument(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///theirs.db")
    assert tracking_uri(None) == f"sqlite:///{tmp_path}/theirs.db"
    assert tracking_uri("sqlite:///mine.db") == f"sqlite:///{tmp_path}/mine.db"
    assert tracking_uri(f"sqlite:///{tmp_path}/absolute.db") == f"sqlite:///{tmp_path}/absolute.db"


@pytest.mark.parametrize(
    "bad",
    [
        "mlruns",
        "file:///x",
        "databricks",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "http://",
        "http://h:x",
    ],
)
def test_addresses_that_cannot_be_used(bad):
    with pytest.raises(UserError, match="use sqlite:///FILE"):
        tracking_uri(bad)


def test_a_server_that_answers():
    with server(b"HTTP/1.1 200 OK\r\n\r\nOK") as (port, asked):
        uri = f"http://127.0.0.1:{port}/prefix/"
        assert tracking_uri(uri) == uri
    assert asked[0].startswith(b"GET /prefix/health HTTP/1.1\r\n")


@pytest.mark.parametrize("answer", [None, b"", b"SSH-2.0-OpenSSH\r\n"])
def test_a_server_that_does_not_answer(answer):
    with server(answer) as (port, _), pytest.raises(UserError, match=f"127.0.0.1:{port} does not respond"):
        tracking_uri(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_no_server_at_all_and_no_password_in_the_message(scheme):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(UserError, match="does not respond") as caught:
        tracking_uri(f"{scheme}://me:secret@127.0.0.1:{port}/x?password=secret")
    assert "secret" not in str(caught.value)


def test_a_host_name_that_is_none():
    with pytest.raises(UserError, match="does not respond"):
        tracking_uri("http://a..b")


@pytest.mark.parametrize(
    "address",
    [
        "http://me:s3cret@host:5000",
        "https://s3cret@host/team/study.mlflow",
        "HTTP://s3cret@x@host",
        "http://me:s3cret@host:port",
        "http://me:s3c@ret@host",
        "http://me:s3cret/x@host",
        "http://me:s3cret?x@host",
        "http://me:#s3cret@host",
        "http//me:s3cret@host",
        "http:/me:s3cret@host",
        "me:s3cret@host:5000",
        "ftp://me:s3cret@host",
        "http://me:s3cret@",
        "http://me:s3cret@[::1",
        "postgresql://me:s3cret@host:99999/db",
        "http://host/?token=s3cret",
        "http://h:x/db?email=a@b.c&password=s3cret",
        "http://me:s3cret",
        "http://me:@s3cret;@host",
        "databricks://me:s3cret",
        "sqlite://me:s3cret@host/x",
        "sqlite:me:s3cret@host",
        "sqlite+pysqlcipher://me:s3cret@/x:///y",
        "ftp://me%3As3cret@host",
        "ftp://me%253as3cret",
        "ftp://host/db;password=s3cret",
        "ftp://host/db?pw=s3cret",
        "ftp://host/db?password=s3c@ret",
    ],
)
def test_no_message_has_a_password(address):
    assert "s3c" not in shown(address)
    assert "s3c" not in repeatable(address)
    with pytest.raises(UserError) as refused:
        tracking_uri(address)
    assert "s3c" not in str(refused.value)
    assert "s3c" not in without_password(f"API request to {address}/api failed", address)


def test_shown_hides_secrets():
    assert shown("postgresql://me:secret@host:1/db?password=x") == "postgresql://me@host:1/db"
    assert shown("http://host/x") == "http://host/x"
    assert shown("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert shown("http://[::1]:5000/x") == "http://[::1]:5000/x"
    assert shown("http://me:secret@[fe80::1%25eth0]:5000") == "http://me@[fe80::1%25eth0]:5000"
    assert shown("http://host/a@b/c") == "http://host/a@b/c"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("postgresql://me:s3c@host/db?sslmode=require", "postgresql://me@host/db?sslmode=require"),
        ("mysql://me:s3c@host/db?password=s3c&ssl=1&ssl_ca=%2Fa%26b", "mysql://me@host/db?ssl=1&ssl_ca=%2Fa%26b"),
        ("mssql+pyodbc://h/db?driver=ODBC+18&odbc_connect=P%57D%3Ds3c", "mssql+pyodbc://h/db?driver=ODBC+18"),
        ("https://host/?access_token=s3c#x", "https://host/"),
        ("https://host/mlflow", "https://host/mlflow"),
        ("mysql://h/db?ssl_ca=/a/auth/ca.pem&pw=s3c", "mysql://h/db?ssl_ca=/a/auth/ca.pem"),
        ("postgresql://h:1/db?application_name=signal", "postgresql://h:1/db?application_name=signal"),
        ("postgresql://h/db?user=a@b.c&password=s3@c", "postgresql://h/db?user=a@b.c"),
        ("mssql://h/db?odbc_connect=UID%3Da%3BAPP%3Dauth", "mssql://h/db?odbc_connect=UID%3Da%3BAPP%3Dauth"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_a_command_keeps_the_query_and_no_secret(address, expected):
    assert repeatable(address) == expected
    assert RunOptions("dkd_grid", tracking_uri=address).arguments() == [
        "--space",
        "dkd_grid",
        "--tracking-uri",
        expected,
    ]


AROUND = st.text("a1 :/?#;@%[]=", max_size=4)
SCHEMES = st.sampled_from(["http", "postgresql", "mysql+pymysql", "databricks", "ftp", "sqlite", "sqlite+x"])


@given(SCHEMES, AROUND, AROUND)
def test_a_password_of_any_letters_is_hidden_wherever_it_is(scheme, before, after):
    password = f"{before}s3cret{after}"
    for address in (
        f"{scheme}://me:{password}@host:5000/db",
        f"{scheme}://me:{password}@host/db?email=a@b.c",
        f"{scheme}://me%3A{password}@host",
        f"{scheme}:me:{password}@host",
        f"me:a{password}@host",
        f"{scheme}://me:s3cret",
        f"{scheme}://host/db?password={password}",
        f"{scheme}://host:5000/db?email=a@b.c&pw={password}",
        f"{scheme}://host/db;password={password}",
        f"{scheme}://me@host/db?a=b&SSL_Password={password}#x",
    ):
        assert "s3cret" not in shown(address) + repeatable(address), address
        if scheme in ("databricks", "ftp", "sqlite", "sqlite+x"):  # no server is looked for
            with pytest.raises(UserError) as refused:
                tracking_uri(address)
            assert "s3cret" not in str(refused.value), address


def test_a_file_whose_name_no_system_allows_is_refused():
    with pytest.raises(UserError, match="has the character NUL"):
        tracking_uri("sqlite:///a%00x.db")


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(UserError, match="no tracking store at"):
        require_store(tracking_uri("sqlite:///no/store.db"))
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_store(tmp_path):
    (tmp_path / "text.db").write_text("no database, " * 100)
    with pytest.raises(UserError, match="cannot be read as a tracking store"):
        require_store(tracking_uri("sqlite:///text.db"))
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(UserError, match="not an MLflow tracking store"):
        require_store(tracking_uri("sqlite:///other.db"))


NAMES = st.text(st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=20)
"""What a file may be called, but for dots alone."""


@given(NAMES)
def test_an_address_leads_back_to_a_file_of_any_name(name):
    file = Path("/nowhere") / f"a{name}" / "mlflow.db"
    address = sqlite_uri(file)
    assert make_url(address).database == str(file)
    assert sqlite_path(address) == file
    assert tracking_uri(address) == shown(address) == address
    assert local_path((file / name).as_uri()) == str(file / name)


def test_addresses_of_plain_names_are_as_mlflow_has_them():
    assert sqlite_uri(Path("/a b/é#1.db")) == "sqlite:////a b/é#1.db"
    assert sqlite_uri(Path("/job%2Fmain/a.db")) == "sqlite+pysqlite:////job%252Fmain/a.db"
    assert tracking_uri("sqlite:////a%20b/c.db") == "sqlite:////a b/c.db"
    assert local_path("s3://bucket/a%20b") == "s3://bucket/a%20b"


def test_a_percent_sign_that_was_meant_as_one(tmp_path):
    (tmp_path / "job%2Fmain").mkdir()
    message = f"means {tmp_path}/job/main/a.db; write .*/job%252Fmain/a.db for {tmp_path}/job%2Fmain/a.db"
    with pytest.raises(UserError, match=message):
        tracking_uri(f"sqlite:///{tmp_path}/job%2Fmain/a.db")


def test_a_user_without_a_home_folder(monkeypatch):
    """As in a container that runs as a user without a name."""

    def unknown(_):
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match="has no home folder, which MLflow asks for: set HOME to a folder"):
        tracking_uri(None)
