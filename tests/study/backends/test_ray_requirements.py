"""What Ray needs of this machine, found before anything is trained, in a dry run too."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kdq.errors import UserError
from study.backends import ray_requirements
from study.backends.ray_requirements import SOCKET_BYTES, check_version, temporary_folder
from study.run import main

ROOT = Path(__file__).parents[3]


def _install(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_requirements, "version", lambda name: version)


@pytest.mark.parametrize("version", ["1.13.0", "2.9.3", "2.59.1", "2", "dev"])
def test_an_older_ray_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(version, monkeypatch)
    with pytest.raises(UserError, match=f"Ray {version}: must be 2.60 or newer; install "):
        check_version()


@pytest.mark.parametrize("version", ["2.61.0", "2.100.0rc1", "3.0.0.dev0", "3"])
def test_a_newer_ray_is_warned_of(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(version, monkeypatch)
    assert check_version().startswith(f"warning: Ray {version} is newer than 2.60, the newest tested; ")


def test_no_ray_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(ray_requirements, "version", missing)
    with pytest.raises(UserError, match="is not installed; install a version that is tested"):
        check_version()


def test_a_dry_run_warns_of_a_newer_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _install("2.61.0", monkeypatch)
    assert main(["--space", "smoke", "--set", "method=ce", "--dry-run"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Ray 2.61.0 is newer")


def test_a_dry_run_here_imports_ray_and_not_mlflow(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom study.plan import estimate_time\nfrom study.run import main\n"
        "estimate_time.PROBE_SECONDS = 0.0\n"
        "assert main(['--space', 'smoke', '--set', 'method=ce', '--dry-run']) == 0\n"
        "assert 'ray' in sys.modules and 'mlflow' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True)


def test_a_dry_run_finds_a_ray_that_lacks_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("ray.experimental.internal_kv._internal_kv_put")
    assert main(["--space", "smoke", "--set", "method=ce", "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Ray ")
    assert "has no ray.experimental.internal_kv._internal_kv_put" in line


def test_a_dry_run_finds_a_ray_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('libray.so: cannot open shared object file')")
    code = "from study.run import main\nraise SystemExit(main(['--space', 'smoke', '--set', 'method=ce', '--dry-run']))"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert re.match(r"error: Ray .* cannot be imported \(libray\.so: cannot open shared object file\); install", line)


@pytest.fixture
def short() -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def _of_bytes(folder: Path, count: int) -> Path:
    """Return a new folder whose path has as many bytes."""
    made = folder / ("x" * (count - len(os.fsencode(folder)) - 1))
    made.mkdir()
    return made


def test_the_longest_path_that_sockets_allow(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = SOCKET_BYTES - len(os.fsencode(ray_requirements._SOCKET)) - 1
    longest, too_long = _of_bytes(short, most), _of_bytes(short, most + 1)
    monkeypatch.setenv("RAY_TMPDIR", str(longest))
    assert temporary_folder() == longest
    monkeypatch.setenv("RAY_TMPDIR", str(too_long))
    with pytest.raises(UserError, match=f"RAY_TMPDIR={too_long}: its path is too long .* at most {most} bytes; set it"):
        temporary_folder()
    monkeypatch.setenv("RAY_TMPDIR", "")
    monkeypatch.setenv("TMPDIR", str(longest))
    assert temporary_folder() == longest
    for folder in (too_long, short / "missing", ""):
        monkeypatch.setenv("TMPDIR", str(folder))
        assert temporary_folder() == Path("/tmp")


@pytest.mark.parametrize("arguments", [["--dry-run"], []])
def test_it_is_said_before_anything_is_trained(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    assert main(["--space", "dkd_grid", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: RAY_TMPDIR=/nowhere: is not writable (No such file or directory); set it to another")
    assert list(tmp_path.iterdir()) == []


def test_no_temporary_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_requirements, "_obstacle", lambda folder: "is not writable (Read-only file system)")
    monkeypatch.setenv("RAY_TMPDIR", "")
    with pytest.raises(UserError, match=r"for Ray \(.*/var/tmp: is not writable .*; set RAY_TMPDIR"):
        temporary_folder()
