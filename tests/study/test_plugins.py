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


EVERY_KIND = """
from dataclasses import replace
from pathlib import Path

import numpy as np
from optuna.samplers import RandomSampler
from torch import nn

from kdq.data.sources import Entry, Shape, Source, register_dataset
from kdq.distill.methods import METHODS, register_method
from kdq.models.resnets import register_architecture
from kdq.quantize.algorithms import QUANTIZERS, register_quantizer
from study.schedulers.asha import Asha
from study.schedulers.priorities import PRIORITIES
from study.schedulers.registry import SchedulerKind, register_scheduler
from study.searchers.optuna_searcher import register_sampler


def network(classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes)
    )


def split(count, seed):
    labels = np.arange(count) % 3
    images = np.random.default_rng(seed).integers(0, 100, (count, 1, 8, 8)) + 70 * labels[:, None, None, None]
    return images.astype(np.uint8), labels.astype(np.int64)


def find(data_dir: Path | None, downloads: Path) -> Source:
    return Source({"name": "stripes"}, ("a", "b", "c"), lambda: (split(120, 0), split(60, 1)))


register_method("gentle", replace(METHODS["vkd"], description="vkd once more"))
register_quantizer("nearest", QUANTIZERS["rtn"])
register_architecture("tiny", network)
register_dataset("stripes", Entry(Shape(1, 8, 3, train=120, test=60), find, is_embedded=True))
register_scheduler(
    "asha_own",
    SchedulerKind(
        "float",
        "asynchronous",
        "as asha",
        make=lambda config: Asha(PRIORITIES["float"], config.levels, config.reduction_factor),
    ),
)
register_sampler("optuna_random", lambda seed, trials: RandomSampler(seed=seed), "Optuna's random sampler")
"""
WORKLOAD = """
description: three classes of noise
dataset: stripes
teacher: train:resnet8
student: tiny
train: {epochs: 4, batch_size: 20, lr: 0.05}
val_images: 30
calibration_images: 32
quantizer: {method: nearest}
"""
SPACE = """
description: members of a plugin alone
params: {method: gentle, alpha: {uniform: [0.1, 0.9]}}
bits: [4]
searcher: optuna_random
trials: 3
scheduler: asha_own
"""


def test_every_kind_of_member_is_checked_and_planned(tmp_path: Path) -> None:
    for name, text in {"all.py": EVERY_KIND, "w.yaml": WORKLOAD, "s.yaml": SPACE}.items():
        (tmp_path / name).write_text(text)
    checked = run(tmp_path, ["-m", "kdq", "check-plugin", "all.py"])
    assert checked.returncode == 0, checked.stdout + checked.stderr
    kinds = re.findall(r"^(\w.*) (gentle|nearest|tiny|stripes|asha_own|optuna_random)$", checked.stdout, re.MULTILINE)
    assert [kind for kind, _ in kinds] == ["method", "quantizer", "architecture", "data set", "scheduler", "searcher"]
    options = ["--plugin", "all.py", "--space", "s.yaml", "--workload", "w.yaml"]
    planned = run(tmp_path, [str(ROOT / "study" / "run.py"), *options, "--dry-run"])
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert "3 trials" in planned.stdout
    assert "searcher optuna_random suggests configurations" in planned.stdout
    missing = run(tmp_path, [str(ROOT / "study" / "run.py"), *options[2:], "--dry-run"])
    assert missing.returncode == 2
    assert "unknown method 'gentle'" in missing.stderr
