"""The wheel, installed beside nothing of the checkout: it holds the program and its data, and runs from any folder."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("kdq", "study", "analysis", "search_spaces")
OTHERS = ("tests", "docs", "benchmarks")
SPACES = sorted(file.stem for file in (ROOT / "search_spaces").glob("*.yaml"))
WORKLOADS = sorted(file.stem for file in (ROOT / "study" / "workloads").glob("*.yaml"))


def call(folder: Path, *command: str | Path, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, where no variable leads Python to the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "MLFLOW_"))}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)


def succeed(folder: Path, *command: str | Path) -> str:
    """The output of a command that must succeed."""
    done = call(folder, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the checkout, since setuptools leaves files, and takes up old ones, where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*PACKAGES, *OTHERS):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    succeed(folder, sys.executable, "-m", "pip", "wheel", *offline, "--wheel-dir", folder, source)
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the programs of a fresh environment: the wheel in it, its requirements from this one.

    Those come by a path file, from which Python reads no other path file: an editable kdq beside them stays unseen.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    succeed(folder, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    [packages] = folder.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "requirements.pth").write_text("\n".join(ours))
    return folder / "bin"


def test_it_holds_the_packages_and_their_data_and_no_tests_docs_or_benchmarks(wheel: Path) -> None:
    files = {Path(name) for name in ZipFile(wheel).namelist()}
    described = {file for file in files if file.parts[0].endswith(".dist-info")}
    kinds = ("py", "yaml", "csv", "html", "css", "js")
    sources = [file for name in PACKAGES for end in kinds for file in (ROOT / name).rglob(f"*.{end}")]
    assert {file.parts[0] for file in files - described} == set(PACKAGES)
    assert files - described == {file.relative_to(ROOT) for file in sources}


def test_the_packages_are_imported_from_the_wheel(programs: Path, tmp_path: Path) -> None:
    code = "import kdq, study, analysis\nfor module in (kdq, study, analysis): print(module.__file__)"
    files = succeed(tmp_path, programs / "python", "-c", code).splitlines()
    assert [Path(file).is_relative_to(programs.parent) for file in files] == [True] * 3


def test_help_names_the_console_script_and_what_is_shipped(programs: Path, tmp_path: Path) -> None:
    shown = succeed(tmp_path, programs / "kdq-study", "--help")
    assert shown.startswith("usage: kdq-study ")
    assert {f"  {name} " for name in SPACES + WORKLOADS} <= {
        line[: line.find(" ", 2) + 1] for line in shown.splitlines()
    }


def test_the_console_script_refuses_what_is_unknown(programs: Path, tmp_path: Path) -> None:
    refused = call(tmp_path, programs / "kdq-study", "--space", "smok")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("error: unknown space 'smok': did you mean 'smoke'?")


def test_a_study_runs_and_is_analysed(programs: Path, tmp_path: Path) -> None:
    """Its workers, too, have no other code than the wheel's."""
    small = ["--trials", "1", "--epochs", "1", "--bits", "4", "--set", "teacher_train.epochs=1"]
    done = call(tmp_path, programs / "kdq-study", "--space", "smoke", "--name", "small", *small)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "study small: completed after " in done.stdout
    points = succeed(tmp_path, programs / "python", "-m", "analysis", "points", "--study", "small", "--format", "csv")
    assert len(points.splitlines()) == 1 + 2, "the head, float and 4 bits"


def test_analysis_has_help(programs: Path, tmp_path: Path) -> None:
    assert succeed(tmp_path, programs / "python", "-m", "analysis", "--help").startswith("usage: python -m analysis ")
