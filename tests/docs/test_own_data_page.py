"""The commands of docs/own_data.md run as they are shown, but for trainings of one epoch, on a small set made here."""

import os
import re
import shlex
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdq.data.torchvision_sets import SETS
from study.space.workload import load_workload
from tests.kdq.data.own import encoded, write_table
from tests.study.inline_study import call, inline_main

PAGE = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if "study/run.py" in line]
QUICK = shlex.split("--epochs 1 --bits 4 --set calibration_images=16 --set quantizer.method=rtn")
"""Options that make a study one of seconds."""
SMALL = shlex.split(
    "--teacher train:resnet8 --student resnet8 --set method=dkd "
    "--set 'teacher_train={epochs: 8, batch_size: 16, lr: 0.05}'"
)
"""The same for models, where a command names none."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the photographs and the table of the page."""
    folder = tmp_path_factory.mktemp("own")
    random = np.random.default_rng(0)
    for label, name in enumerate(("daisy", "rose", "tulip")):
        (folder / "flowers" / name).mkdir(parents=True)
        for number in range(30):
            pixels = random.integers(0, 100, (60 + number, 80, 3), dtype=np.uint8)
            pixels[..., label] += 100
            Image.fromarray(pixels).save(folder / "flowers" / name / f"{number}.jpg")
    Image.open(folder / "flowers" / "rose" / "0.jpg").convert("CMYK").save(folder / "flowers" / "rose" / "cmyk.jpg")
    labels = [number % 3 for number in range(60)]
    features = {"image": {"_type": "Image"}, "labels": {"_type": "ClassLabel", "names": ["angular", "rust", "healthy"]}}
    images = [encoded(label, number) for number, label in enumerate(labels)]
    write_table(folder / "beans" / "train-00000-of-00001.parquet", images, features, labels=labels)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(command: str, folder: Path) -> None:
    words = shlex.split(command.removeprefix("python study/run.py "))
    result = call(inline_main, folder, *words, *QUICK, *([] if "--student" in words else SMALL))
    assert result.returncode == 0, result.stdout + result.stderr
    if "--dry-run" not in words:
        assert "Pareto front" in result.stdout
        assert re.search(r"data: (folder|parquet):\w+: \d+ images of 3 classes", result.stdout)
    if "folder:flowers" in words and "--dry-run" not in words:
        assert "91 images of 3 classes (daisy, rose, tulip), of 80x60 to 80x89 pixels" in result.stdout
        assert "data: converted: 1 CMYK" in result.stdout


def test_what_it_does_with_the_answer(folder: Path) -> None:
    (named,) = [command for command in COMMANDS if "--name flowers" in command]
    test_its_commands_run(named, folder)
    analyses = [line for line in LINES if line.startswith("python -m analysis ")]
    assert [shlex.split(line)[3] for line in analyses] == ["best", "export"]
    for line in analyses:
        done = subprocess.run(
            [sys.executable, *shlex.split(line)[1:]], cwd=folder, capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr
    assert {file.name for file in folder.glob("flowers.*")} == {"flowers.onnx", "flowers.onnx.md"}


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def test_the_data_sets_that_it_names_are_all() -> None:
    listed = re.search(r"`torchvision:NAME` is one of (.*?), downloaded", PAGE)
    assert listed
    assert re.split(r", | and ", listed[1]) == list(SETS)


def test_every_setting_that_it_names_exists() -> None:
    names = re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE)
    assert len(names) > 5
    workload = load_workload("images", {})
    for name in names:
        reduce(getattr, name.split("."), workload)
