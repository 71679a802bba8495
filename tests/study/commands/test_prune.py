"""What a finished study can spare goes, after it was listed; what others may want, and all results, stay."""

import errno
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from kdq.errors import UserError
from kdq.store.folder_store import StageStore
from study.commands.options import ROOT, PruneOptions
from study.commands.prune import prune
from study.control.lock import study_lock
from study.control.study_file import FILE, planned
from study.plan.plan import Plan
from study.run import main
from study.space.load import load_space
from study.space.workload import load_workload

Result = subprocess.CompletedProcess[str]


@pytest.fixture
def folder(finished: tuple[Path, Result], tmp_path: Path) -> Path:
    """A finished study of two students, to be spoilt."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def stages(folder: Path) -> dict[str, int]:
    """How many there are of each kind."""
    kinds = (folder / "mlruns" / "stages").iterdir()
    return {kind.name: count for kind in kinds if (count := len(list(kind.glob("[0-9a-f]*/stage.json"))))}


def renote(folder: Path, name: str, **changes: Any) -> None:
    """Another study, as its folder would have it if it were the finished one but for these changes."""
    note = json.loads((folder / "mlruns" / "studies" / "small" / FILE).read_text())
    path = folder / "mlruns" / "studies" / name / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(note | changes))


def test_a_pruned_study_has_its_results_and_its_command_does_nothing(
    folder: Path, run_inline: Callable[..., Result], small_study: list[str], finished: tuple[Path, Result]
) -> None:
    assert stages(folder) == {"accuracy": 1, "data": 1, "logits": 2, "point": 6, "student": 3}
    listed = run_inline(folder, "--prune", "small")
    assert listed.returncode == 2
    assert "give --yes" in listed.stderr
    assert stages(folder)["student"] == 3
    done = run_inline(folder, "--prune", "small", "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(listed.stdout)
    assert "2 students: 6" in done.stdout
    assert "2 parts of the teacher's logits: " in done.stdout
    left = {"accuracy": 1, "data": 1, "point": 6, "student": 1}  # the teacher was trained here, as a student is
    assert stages(folder) == left
    again = run_inline(folder, *small_study)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 completed" in again.stdout
    assert front(again) == front(finished[1])
    assert stages(folder) == left
    assert run_inline(folder, "--prune", "small").stdout == "study small: nothing to remove\n"


def front(result: Result) -> list[str]:
    lines = result.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Pareto front"))
    return lines[start : start + 3]


def test_what_a_study_that_is_not_finished_may_want_stays(folder: Path) -> None:
    root = folder / "mlruns"
    renote(folder, "other", status="running")
    prune(PruneOptions("small", str(root), yes=True))
    assert stages(folder)["student"] == 3
    assert stages(folder)["logits"] == 2
    settings = json.loads((root / "studies" / "small" / FILE).read_text())["settings"]
    renote(folder, "other", status="failed", settings={**settings, "seeds": [1]})
    prune(PruneOptions("small", str(root), yes=True))
    assert stages(folder)["student"] == 1
    assert "logits" not in stages(folder)


def test_the_teacher_of_another_study_stays(folder: Path) -> None:
    inputs = json.loads((folder / "mlruns" / "studies" / "small" / FILE).read_text())["inputs"]
    first = json.loads(next((folder / "mlruns" / "stages" / "logits").glob("*/stage.json")).read_text())["inputs"]
    assert first["teacher"] == inputs["teacher"]
    students = {file.parent.name for file in (folder / "mlruns" / "stages" / "student").glob("*/stage.json")}
    taught = min(students - {inputs["teacher"]})
    renote(folder, "other", status="completed", inputs={**inputs, "peer": taught})
    prune(PruneOptions("small", str(folder / "mlruns"), yes=True))
    left = {file.parent.name for file in (folder / "mlruns" / "stages" / "student").glob("*/stage.json")}
    assert left == {inputs["teacher"], taught}


def make_former(folder: Path, **changes: Any) -> None:
    """Have another version of the program have run the study, which gave its trials other ids."""
    file = folder / "mlruns" / "studies" / "small" / FILE
    note = json.loads(file.read_text())
    note["settings"]["versions"]["point"] -= 1
    note["settings"] |= changes
    file.write_text(json.dumps(note))
    journal = file.with_name("journal.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    former = [record | {"trial": record["trial"][::-1]} if "trial" in record else record for record in records]
    journal.write_text("".join(json.dumps(record) + "\n" for record in former))


def test_a_study_of_a_former_version_is_pruned(folder: Path) -> None:
    make_former(folder)
    prune(PruneOptions("small", str(folder / "mlruns"), yes=True))
    assert stages(folder) == {"accuracy": 1, "data": 1, "point": 6, "student": 1}


@pytest.mark.parametrize(
    ("searcher", "quantizer", "why"),
    [
        ("grid", "gpfq_plain", "cannot read its settings .*gpfq_plain"),
        ("tpe", "rtn", "cannot list the trials that tpe"),
    ],
)
def test_a_former_study_whose_trials_are_unknown_is_refused_with_its_remedy(
    folder: Path, searcher: str, quantizer: str, why: str
) -> None:
    settings = json.loads((folder / "mlruns" / "studies" / "small" / FILE).read_text())["settings"]
    space = settings["space"] | {"searcher": searcher}
    workload = settings["workload"] | {"quantizer": {"method": quantizer, "params": {}}}
    make_former(folder, space=space, workload=workload)
    with pytest.raises(UserError, match=rf"was run by another version .* {why}.*: prune it with that version"):
        prune(PruneOptions("small", str(folder / "mlruns"), yes=True))
    assert stages(folder)["student"] == 3


def test_former_studies_do_not_keep_others_from_being_pruned(folder: Path) -> None:
    settings = json.loads((folder / "mlruns" / "studies" / "small" / FILE).read_text())["settings"]
    former = settings | {"versions": {"point": 1}, "space": {"unknown": 1}}
    renote(folder, "former", status="completed", settings=former)
    prune(PruneOptions("small", str(folder / "mlruns"), yes=True))
    assert stages(folder)["student"] == 1


DAMAGE: list[tuple[str, Any]] = [
    ("workload", 5),
    ("workload", {}),
    ("workload", {"student": 5}),
    ("seeds", 5),
    ("seeds", [[1]]),
    ("seeds", []),
    ("versions", [1]),
    ("versions", {"student": []}),
    ("versions", None),
]


@pytest.mark.parametrize("former", [False, True])
def test_a_damaged_study_is_named_and_keeps_what_it_may_need(
    folder: Path, former: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder / "mlruns"
    whole = (root / "studies" / "small" / FILE).read_text()
    settings = json.loads(whole)["settings"] | ({"versions": {"point": 1}} if former else {})
    prune_small = PruneOptions("small", str(root), yes=True)
    for key, value in DAMAGE:
        renote(folder, "other", status="failed", settings=settings | {key: value})
        assert prune(prune_small) == 0
        assert re.search(rf"other/{FILE}: damaged, .*{key}.*: run its command", capsys.readouterr().out)
        assert stages(folder)["student"] == 3
        renote(folder, "small", settings=settings | {key: value})
        with pytest.raises(UserError, match=rf"small/{FILE}: damaged, .*: run its command again, or remove"):
            prune(prune_small)
        (root / "studies" / "small" / FILE).write_text(whole)
    other = root / "studies" / "other" / FILE
    for cut in {0, 1, len(whole) // 2, len(whole) - 2}:
        other.write_text(whole[:cut])
        assert prune(prune_small) == 0
        assert f"other/{FILE}: damaged" in capsys.readouterr().out
        assert stages(folder)["student"] == 3


def test_a_damaged_study_of_other_data_keeps_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder / "mlruns"
    (root / "stages" / "data" / "0123abcd").mkdir()
    renote(folder, "other", inputs={"data": "0123abcd", "peer": None, "teacher": None})
    other = root / "studies" / "other" / FILE
    other.write_text(other.read_text()[:-1])
    prune(PruneOptions("small", str(root), yes=True))
    assert f"other/{FILE}: damaged" in capsys.readouterr().out
    assert stages(folder)["student"] == 1


@pytest.mark.parametrize("text", ["", "{", "5", "[]", "{}", '{"inputs": 5}', '{"inputs": []}', "[" * 100_000, "\xff"])
def test_a_damaged_stage_is_named_and_kept(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder / "mlruns"
    damaged = [next((root / "stages" / kind).glob("[0-9a-f]*/stage.json")) for kind in ("student", "logits")]
    for file in damaged:
        file.write_text(text, "latin-1")
    assert prune(PruneOptions("small", str(root), yes=True)) == 0
    shown = capsys.readouterr().out
    assert all(f"{file}: damaged, so it is kept" in shown and file.exists() for file in damaged)
    assert stages(folder)["logits"] == 1


def test_a_stage_whose_inputs_are_of_wrong_types_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next((folder / "mlruns" / "stages" / "logits").glob("*/stage.json"))
    stage = json.loads(file.read_text())
    file.write_text(json.dumps(stage | {"inputs": stage["inputs"] | {"teacher": [1]}}))
    prune(PruneOptions("small", str(folder / "mlruns"), yes=True))
    assert f"{file}: damaged, so it is kept" in capsys.readouterr().out
    assert file.exists()


def test_asked_at_a_terminal_only_yes_removes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", Mock(side_effect=EOFError))  # Ctrl-D
    assert main(["--prune", "small"]) == 0
    assert stages(folder)["student"] == 3
    for answer, students in {"": 3, "n": 3, "Y": 1}.items():
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: answer)
        assert main(["--prune", "small"]) == 0
        assert stages(folder)["student"] == students
    assert "removed; its points" in capsys.readouterr().out


def test_a_dry_run_lists_and_removes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert main(["--prune", "small", "--yes", "--dry-run"]) == 0
    assert "2 students: " in capsys.readouterr().out
    assert stages(folder)["student"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--prune", "small", "--seeds", "1", "--extend"],
            "--prune: not allowed with --seeds, --extend; it takes --yes, --dry",
        ),
        (["--prune", "small", "--set", "train.lr=1"], "--prune: not allowed with --set; "),
        (["--space", "dkd_grid", "--yes"], "--yes: only allowed with --prune"),
    ],
)
def test_options_that_mean_nothing_there_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("status", "word"), [("running", "interrupted"), ("failed", "failed")])
def test_a_study_that_is_not_finished_is_refused(folder: Path, status: str, word: str) -> None:
    renote(folder, "small", status=status)
    with pytest.raises(UserError, match=rf"'small' is not finished \({word}\): run its command again"):
        prune(PruneOptions("small", str(folder / "mlruns"), yes=True))
    assert stages(folder)["student"] == 3


def test_a_study_that_runs_or_is_unknown_is_refused(folder: Path) -> None:
    root = folder / "mlruns"
    with study_lock(root / "running", "small"), pytest.raises(UserError, match="'small' is being run by"):
        prune(PruneOptions("small", str(root), yes=True))
    with pytest.raises(UserError, match="unknown study 'smal': did you mean 'small'"):
        prune(PruneOptions("smal", str(root), yes=True))
    with pytest.raises(UserError, match="there is no study in"):
        prune(PruneOptions("small", str(folder.parent), yes=True))
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("space", sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml")))
def test_a_plan_is_read_back_from_what_it_was_noted_as(space: str) -> None:
    for workload in (ROOT / "study" / "workloads").glob("*.yaml"):
        plan = Plan(space, workload.stem, load_space(space, {}), load_workload(workload.stem, {}), (0, 3))
        assert planned(plan.document()).document() == plan.document()
        assert [one.identity for one in planned(plan.document()).expected] == [one.identity for one in plan.expected]


def test_a_disk_that_fails_is_one_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.chdir(folder)
    monkeypatch.setattr(StageStore, "discard", fail)
    assert main(["--prune", "small", "--yes"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"error: [Errno {errno.EROFS}] Read-only file system"
    assert second.startswith("likely cause: ")
