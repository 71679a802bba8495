"""The example of docs/plugins.md, in a file outside the repository: checked, studied on digits, resumed, analysed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = re.findall(r"^python .*", GUIDE, re.MULTILINE)
SETTINGS = ("teacher_train.epochs=5", "teacher_train.batch_size=25", "teacher_train.lr=0.1", "calibration_images=64")
SMALL = ["--epochs", "1", "--train-images", "300", "--bits", "4", "--teacher", "train:resnet8"]
SMALL += [text for setting in SETTINGS for text in ("--set", setting)]


def run(folder: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def documented(first: str) -> list[str]:
    """The arguments of the command in the guide that begins with these words."""
    import shlex

    command = next(command for command in COMMANDS if command.startswith(first))
    return [str(ROOT / part) if part == "study/run.py" else part for part in shlex.split(command)[1:]]


def test_the_guides_example_from_the_check_to_the_front(tmp_path: Path) -> None:
    file = tmp_path / "mse.py"
    file.write_text(EXAMPLE)
    checked = run(tmp_path, documented("python -m kdq check-plugin"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert re.search(r"method mse\n  passed  .*all \d+ checks passed", checked.stdout, re.DOTALL)

    study = [*documented("python study/run.py"), *SMALL]
    done = run(tmp_path, study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trials: 2 completed" in done.stdout
    (document,) = [json.loads(path.read_text()) for path in tmp_path.glob("mlruns/studies/own/study.json")]
    assert list(document["settings"]["plugins"]) == ["mse.py"]
    students = [json.loads(path.read_text())["inputs"] for path in tmp_path.glob("mlruns/stages/student/*/stage.json")]
    named = {inputs["method"]["method"]: inputs.get("plugins") for inputs in students if inputs["teacher"]}
    assert named == {"vkd": None, "mse": {"method mse": document["settings"]["plugins"]["mse.py"]}}

    again = run(tmp_path, study)
    assert again.returncode == 0
    assert "trials: 2 completed" in again.stdout
    front = run(tmp_path, documented("python -m analysis front"))
    assert front.returncode == 0, front.stderr
    points = run(tmp_path, ["-m", "analysis", "points", "--plugin", "mse.py", "--study", "own", "--format", "csv"])
    assert re.search(r"\bmse\b", points.stdout)

    without = run(tmp_path, ["-c", "import sys; from study.run import main; sys.exit(main())", "--prune", "own"])
    assert without.returncode == 2
    assert (
        without.stderr
        == "error: study 'own' uses the plugin mse.py: give it by --plugin FILE, or install its package\n"
    )
    pruned = run(tmp_path, [str(ROOT / "study" / "run.py"), "--prune", "own", "--plugin", "mse.py", "--yes"])
    assert pruned.returncode == 0, pruned.stderr
    assert "2 students" in pruned.stdout

    file.write_text(EXAMPLE + "\n# edited\n")
    edited = run(tmp_path, study)
    assert edited.returncode == 2
    assert "plugins.mse.py was" in edited.stderr
    assert "choose another --name" in edited.stderr


def test_a_check_that_fails_and_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "mse.py").write_text(EXAMPLE.replace("centred(logits_teacher.detach())", "logits_teacher"))
    failed = run(tmp_path, ["-m", "kdq", "check-plugin", "mse.py"])
    assert failed.returncode == 1
    assert "FAILED  gradients reach the student only: the teacher's logits get one" in failed.stdout
    assert "FAILED  a shift of the teacher's logits does not matter" in failed.stdout
    assert re.search(r"^\d of 13 checks failed$", failed.stdout, re.MULTILINE)
    (tmp_path / "mse.py").write_text("import nothing_of_this_name\n")
    for arguments in (["-m", "kdq", "check-plugin", "mse.py"], documented("python study/run.py")):
        broken = run(tmp_path, arguments)
        assert broken.returncode == 2
        message = "plugin mse.py: ModuleNotFoundError: No module named 'nothing_of_this_name' (line 1)"
        assert broken.stderr == f"error: {message}\n"
