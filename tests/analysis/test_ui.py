"""`make ui`: the links of every study, then MLflow's server on this machine alone."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from analysis.ui import main


@pytest.fixture
def server(monkeypatch):
    """What would have been run, and with which environment."""
    ran = SimpleNamespace(command=None, environment=None)

    def call(command, env):
        ran.command, ran.environment = command, env
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    return ran


def test_it_prints_links_to_the_views_and_serves_this_machine_alone(logged, server, capsys):
    assert main(["--port", "5123", "--tracking-uri", logged.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["fresh:", "grid:", "mixed:", "recorded:"]
    links = [line.split() for line in lines if line.startswith(" ")]
    assert {name for name, _ in links} == {"trials", "points", "front"}
    assert all(link.startswith("http://127.0.0.1:5123/#/experiments/") for _, link in links)
    assert server.command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert server.command[server.command.index("--host") + 1] == "127.0.0.1"
    assert logged.uri in server.command
    assert server.environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_without_a_store_it_starts_nothing(tmp_path, server, capsys):
    assert main(["--tracking-uri", f"sqlite:///{tmp_path}/none.db"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert server.command is None


def test_ctrl_c_is_how_it_ends(logged, monkeypatch):
    def call(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "call", call)
    assert main(["--tracking-uri", logged.uri]) == 0


def test_the_links_of_a_server_lead_to_it_and_none_is_started(logged, server, mlflow_server, tmp_path, capsys):
    with mlflow_server(tmp_path, logged.uri) as address:
        assert main(["--tracking-uri", address]) == 0
    links = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith(" ")]
    assert len(links) == 12
    assert all(link.startswith(f"{address}/#/experiments/") for link in links)
    assert server.command is None


@pytest.mark.parametrize("port", ["0", "65536", "-1", "x"])
def test_a_port_that_there_is_not_is_refused(logged, server, port, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([f"--port={port}", "--tracking-uri", logged.uri])
    assert "must be a port from 1 to 65535" in capsys.readouterr().err
    assert server.command is None
