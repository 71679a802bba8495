"""The command line as a user types it: help, dry runs, and every mistake in one message with status 2."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from study.run import main

Run = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ("numpy", "torch", "ray", "mlflow", "pandas", "pydantic", "matplotlib")


def test_help_shows_what_there_is_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom study.run import main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    for word in ("dkd_grid", "teacher_ptq", "digits", "cifar10_small", "cifar100", "--gpus-per-trial"):
        assert word in shown


def test_a_dry_run_plans_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--space", "dkd_grid", "--seeds", "0,1", "--bits", "2,4", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("workload digits: 1,797 real 8x8 images")
    assert "--workload cifar10" in lines[0]
    assert lines[1] == "precision of training: float32 (as the workload sets it)"
    assert "18 trials, 18 distinct students, 54 points" in lines[2]
    assert "estimate: about" in lines[-2]
    assert lines[-1].startswith("disk: at most ")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_a_search_that_decides_as_it_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--space", "joint_ranges", "--seeds", "0,1", "--trials", "4", "--bits", "2", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r": 8 trials, about \d distinct students, about 16 points$", lines[2])
    assert lines[3] == "  searcher tpe suggests configurations from the results so far"
    assert lines[4] == "every trial has 2 points: float, 2 bits"
    assert len(lines) == 7


def test_a_dry_run_of_bits_as_an_axis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--space", "smoke", "--set", "method=ce", "--set", "bits={grid: [2, [3, 4]]}", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].endswith(": 2 trials, 1 distinct students, 5 points")
    assert lines[3:5] == ["  ce bits=2 seed=0", "  ce bits=3,4 seed=0"]
    assert lines[5] == "bits are searched: every trial has a point at float, and those at one of 2 | 3,4"


MISTAKES = [
    (["--space", "dkd_gird"], "unknown space 'dkd_gird': did you mean 'dkd_grid'?"),
    (["--space", "dkd_grid", "--workload", "digit"], "unknown workload 'digit': did you mean 'digits'?"),
    (["--space", "dkd_grid", "--student", "resnet9"], "unknown architecture 'resnet9'"),
    (["--space", "dkd_grid", "--set", "method=dkdd"], "unknown method 'dkdd': did you mean 'dkd'?"),
    (["--space", "dkd_grid", "--set", "lr"], "must be key=value"),
    (["--space", "dkd_grid", "--set", "alpha={uniform: [1, 2]}"], "has infinitely many; use random, tpe or nsga2"),
    (["--space", "dkd_grid", "--set", "alpha={uniform: [2, 1]}"], "alpha.uniform = [2, 1]: the first must be below"),
    (["--space", "dkd_grid", "--trials", "0"], "must be a whole number, at least 1"),
    (["--space", "dkd_grid", "--trials", "9" * 30], "must be a whole number, at least 1 and below 2^63"),
    (["--space", "dkd_grid", "--trials", "1000000000000"], "must be at most 100,000, the most trials of a study"),
    (["--space", "dkd_grid", "--set", f"trials=0x{'f' * 5000}"], "a number of 5,002 characters"),
    (["--space", "dkd_grid", "--set", "alpha={int: [1, 1000000]}"], "3,000,000 configurations, and a study at most"),
    (
        ["--space", "dkd_grid", "--set", "train.epochs=1000000000000"],
        "epochs = 1000000000000: must be at least 1 and at",
    ),
    (
        ["--space", "dkd_grid", "--set", "train.augment.crop_padding=1000000000"],
        "must be below 8, the size of the images",
    ),
    (["--space", "dkd_grid", "--set", "teacher_train.augment.cutout=9"], "cutout = 9: must be at most 8"),
    (["--space", "dkd_grid", "--data-dir", "~nosuchuser/x"], "argument --data-dir: path '~nosuchuser/x': "),
    (["--space", "dkd_grid", "--storage-path", "x" * 300], "File name too long"),
    (["--space", "dkd_grid", "--bits", "0"], "bits = 0: must be 1 to 8, or 32"),
    (["--space", "dkd_grid", "--bits", "2,x"], "must be comma-separated whole numbers"),
    (["--space", "dkd_grid", "--epochs", "0"], "must be a whole number, at least 1"),
    (["--space", "dkd_grid", "--name", "../x"], "study name '../x'"),
    (["--space", "dkd_grid", "--cpus-per-trial", "1000"], "cores; give at most that"),
    (["--space", "dkd_grid", "--gpus-per-trial", "100"], "GPUs; give at most that"),
    (["--space", "dkd_grid", "--tracking-uri", "http://127.0.0.1:9"], "does not respond"),
    (["--space", "dkd_grid", "--teacher", "resnet20:nowhere.th"], "there is no such checkpoint"),
    (["--space", "dkd_grid", "--workload", "cifar10_small"], "--data-dir"),
    (
        ["--space", "dkd_grid", "--workload", "cifar10_small", "--data-dir", "."],
        "exactly one file must match, found none",
    ),
]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["", "dry"])
@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a[2:] or a) for a, _ in MISTAKES])
def test_a_mistake_is_one_message_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    dry: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    try:
        status: object = main([*arguments, *dry])
    except SystemExit as end:  # argparse's own
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tracking-uri", "sqlite:////proc/no/mlflow.db"], "/proc/no is not writable: "),
        (["--storage-path", "/proc"], "/proc is not writable: "),
        (["--retry-failed"], "has run no trial here: omit --retry-failed"),
        (["--name", "damaged"], "journal.jsonl"),
        (["--name", "unreadable"], "error: [Errno 21] Is a directory"),
        (["--tracking-uri", "sqlite:///a%00x.db"], "has the character NUL"),
    ],
)
def test_a_dry_run_looks_at_folders_and_at_former_studies(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    damaged = tmp_path / "mlruns" / "studies" / "damaged" / "journal.jsonl"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no record\n")
    (tmp_path / "mlruns" / "studies" / "unreadable" / "journal.jsonl").mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["--space", "dkd_grid", "--dry-run", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_dry_run_in_a_folder_that_may_not_be_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: Path) -> bool:  # as the system does, but not to root
        if tmp_path in folder.parents:
            raise PermissionError(13, "Permission denied", str(folder))
        return is_there(folder)

    is_there = Path.exists
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("study.commands.site.tracking_uri", lambda text, root: f"sqlite:///{root}/mlflow.db")
    monkeypatch.setattr("study.commands.site.root_folder", lambda path: tmp_path / "mlruns")
    monkeypatch.setattr(Path, "exists", refuse)
    assert main(["--space", "dkd_grid", "--dry-run"]) == 2
    assert f"{tmp_path / 'mlruns'} is not writable: [Errno 13] Permission denied" in capsys.readouterr().err


def test_the_script_says_a_mistake_without_a_traceback(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path, "--space", "dkd_gird")
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown space 'dkd_gird': did you mean 'dkd_grid'? known: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_study_whose_search_cannot_begin_is_not_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("study.commands.run.TrialQueue", None)
    with pytest.raises(TypeError):
        main(["--space", "smoke", "--set", "method=ce", "--name", "mine"])
    assert (tmp_path / "mlruns").exists()
    assert not list(tmp_path.rglob("study.json"))
