"""The run on a GPU, tried on the CPU with one step an epoch, where only torch and torchvision can be imported."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.gpu import checks, parts, prepare
from benchmarks.gpu.output import LARGEST, Output, joined
from benchmarks.gpu.settings import Clock, Settings, TimeUp
from benchmarks.gpu.study import Study, train
from kdq.models.classifier import Normalization, build
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

ROOT = Path(__file__).parents[2]
REFUSED = "ray optuna mlflow pydantic pydantic_core transformers pandas yaml pyarrow scipy sklearn rich requests psutil"
BLOCKER = f"""
import runpy, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {REFUSED.split()!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
sys.argv = ["benchmarks.gpu", *sys.argv[1:]]
runpy.run_module("benchmarks.gpu", run_name="__main__", alter_sys=True)
"""
SMALL = (
    "--device cpu --teacher resnet8 --student resnet8 --teacher-epochs 2 --student-epochs 2 --batch-size 16 "
    "--train-images 16 --val-images 16 --test-images 16 --bits 4 --calibration-images 8 --workers 0"
)
ROWS = {
    "teacher": {"method": "teacher"},
    "mixup mixup_alpha=1": {"method": "mixup", "mixup_alpha": 1},
}


def data_stage(store: StageStore) -> Path:
    """A stage of 64 training and 32 test images [3, 8, 8]."""
    random = np.random.default_rng(0)

    def write(folder: Path) -> None:
        for split, count in {"train": 64, "test": 32}.items():
            np.save(folder / f"{split}_images.npy", random.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))
            np.save(folder / f"{split}_labels.npy", np.arange(count) % 10)
        description = {"name": "cifar10", "class_names": list("abcdefghij"), "mean": [0.5] * 3, "std": [0.25] * 3}
        (folder / "data.json").write_text(json.dumps(description))

    return store.make(Stage("data", 1, {"source": {"name": "cifar10", "of": "a test"}}), write)


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for one call, as `prepare` writes it, of a small data set."""
    folder, root = tmp_path_factory.mktemp("carried"), tmp_path_factory.mktemp("store")
    stage = data_stage(StageStore(root))
    parts.split(stage, folder, most=10**6)
    (folder / "rows.json").write_text(json.dumps({"cifar10": ROWS}))
    net = build("resnet8", classes=10, normalization=Normalization((0.5,) * 3, (0.25,) * 3), seed=3).net
    torch.save({"state_dict": net.state_dict()}, folder / "resnet8.th")
    np.savez(folder / checks.EXPECTED, **checks.evidence(folder / "resnet8.th", stage, "cpu"))
    prepare.carry_package("filelock", folder / "site")
    return folder


def command(folder: Path, seconds: float, *carried: Path) -> list[str]:
    places = ["--work", folder / "work", "--output", folder / "output", "--seconds", seconds]
    return list(map(str, [sys.executable, "-c", BLOCKER, "run", *places, *SMALL.split(), "--parts", *carried]))


def call(folder: Path, seconds: float, *carried: Path) -> str:
    done = subprocess.run(command(folder, seconds, *carried), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def points(folder: Path) -> list[dict[str, str]]:
    with (folder / "output" / "points.csv").open() as file:
        return list(csv.DictReader(file))


def killed_at(line: str, arguments: list[str]) -> str:
    """The output of a run that is killed as soon as it prints a line that has this text."""
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        seen = []
        for text in process.stdout:
            seen.append(text)
            if line in text:
                break
        process.kill()
    return "".join(seen)


def test_a_stopped_and_a_killed_run_go_on_to_every_row_at_every_width(carried: Path, tmp_path: Path) -> None:
    assert "the time is up" in call(tmp_path, 2, carried)
    killed = killed_at("mixup_alpha=1: epoch 1/2", command(tmp_path, 300))
    assert "cifar10 teacher: epoch 2/2" in killed
    last = call(tmp_path, 300)
    assert "cifar10: finished" in last
    assert "cifar100: waits for cifar100.json" in last
    assert "teacher: epoch" not in last
    assert "mixup_alpha=1: epoch 2/2" in last
    assert {(point["row"], point["bits"]) for point in points(tmp_path)} == {
        (row, bits) for row in ROWS for bits in ("32", "4")
    }
    measurements = json.loads((tmp_path / "output" / "measurements.json").read_text())
    assert [row["holds"] for row in measurements["checks"]] == [True] * 5
    assert measurements["speed"]["share_of_peak"] > 0
    with zipfile.ZipFile(tmp_path / "output" / "packed.zip") as packed:
        assert sorted(packed.namelist()) == sorted(f"cifar10/{row}/4.safetensors" for row in ROWS)


def test_parts_are_joined_to_the_same_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "TALLEST", 80)  # ten images a strip
    stage = data_stage(StageStore(tmp_path / "one"))
    (tmp_path / "parts").mkdir()
    written = parts.split(stage, tmp_path / "parts", most=6_000)
    assert len(written) > 1
    moved = tmp_path / written[-1].name
    written[-1].rename(moved)
    assert parts.missing(tmp_path / "parts", "cifar10") == [moved.name]
    moved.rename(written[-1])
    again = parts.join(tmp_path / "parts", "cifar10", StageStore(tmp_path / "two"))
    assert again.name == stage.name
    for file in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(np.load(again / f"{file}.npy"), np.load(stage / f"{file}.npy"))


def test_the_rows_are_those_of_the_papers_spaces() -> None:
    for name in ("paper_cifar10", "paper_cifar100"):
        methods = [row["method"] for row in prepare.rows(name).values()]
        assert methods == ["teacher", "ce", "vkd", "mixup", "dml", "dkd", "dkd"]


def test_a_teacher_comes_back_in_pieces(tmp_path: Path) -> None:
    output, file = Output(tmp_path / "output"), tmp_path / "teacher.safetensors"
    file.write_bytes(os.urandom(2 * LARGEST + 1))
    output.keep(file)
    pieces = list((tmp_path / "output").iterdir())
    assert max(piece.stat().st_size for piece in pieces) <= LARGEST
    assert joined(tmp_path / "output", tmp_path / "teacher.safetensors")
    file.write_bytes(bytes(70_000_000))
    output.keep(file)
    assert list((tmp_path / "output").iterdir()) == []


def test_a_difference_is_found() -> None:
    same = {name: np.array([4.0, 5.0]) for name in checks.ALLOWED}
    assert all(row["holds"] for row in checks.compare(same, same))
    for name in checks.ALLOWED:
        for value in (9.0, np.nan):
            rows = checks.compare({**same, name: np.array([4.0, value])}, same)
            assert [row["check"] for row in rows if not row["holds"]] == [name]


def test_a_training_ends_between_two_epochs(carried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(carried, tmp_path / "parts")
    small = {"train_images": 16, "val_images": 16, "test_images": 16, "batch_size": 16, "teacher_epochs": 3}
    settings = Settings(tmp_path, tmp_path / "output", "cpu", "resnet8", "resnet8", **small)
    study = Study(settings, "cifar10")
    with pytest.raises(TimeUp):
        train(study, "teacher", Clock(0))
    first = capsys.readouterr().out
    assert first.startswith("cifar10 teacher: epoch 1/3")
    train(study, "teacher", Clock(1e6))
    again = capsys.readouterr().out
    assert again.startswith(first)  # to its milliseconds: it was read, not trained again
    assert [line.split(",")[0] for line in again.splitlines()] == [
        f"cifar10 teacher: epoch {epoch}/3" for epoch in (1, 2, 3)
    ]
