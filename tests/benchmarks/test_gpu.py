"""The run on a GPU, tried on the CPU with one step an epoch, where only torch and torchvision can be imported."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.fx import Graph

from benchmarks.gpu import checks, figure, networks, parts, plan, prepare, quantizing, rows, speed
from benchmarks.gpu.__main__ import has_room, main
from benchmarks.gpu.output import LARGEST, Output, joined
from benchmarks.gpu.quantizing import Quantizing
from benchmarks.gpu.rows import Pace
from benchmarks.gpu.settings import Clock, Settings, TimeUp
from benchmarks.gpu.streams import as_finished
from benchmarks.gpu.study import Study, train, train_teacher
from kdq.distill.methods import MethodConfig
from kdq.distill.trainer import Diverged
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.graph import _Tracer
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
    "--device cpu --teacher resnet8 --student resnet8 --epochs 2 2 --batch-size 16 --teacher-batch-size 16 "
    "--train-images 16 --val-images 16 --test-images 16 --bits 4 --calibration-images 8 --workers 1"
)
ROWS = {"teacher": {"method": "teacher"}, "vkd": {"method": "vkd"}, "dkd": {"method": "dkd"}}


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


def empty(folder: Path) -> None:
    """As a lender leaves the folder that is brought back."""
    shutil.rmtree(folder)
    folder.mkdir()


def test_a_stopped_and_a_killed_run_go_on_to_every_row_at_every_width(carried: Path, tmp_path: Path) -> None:
    assert "the time is up" in call(tmp_path, 2, carried)
    killed = killed_at("vkd: epoch 1/2", command(tmp_path, 300))
    assert "cifar10 teacher: epoch 2/2" in killed
    kept = json.loads((tmp_path / "work" / "output" / "measurements.json").read_text())
    kept["speed"]["at_once"] = 2
    (tmp_path / "work" / "output" / "measurements.json").write_text(json.dumps(kept))
    empty(tmp_path / "output")
    last = call(tmp_path, 300)
    assert "cifar10: finished" in last
    assert "cifar100: waits for cifar100.json" in last
    assert "teacher: epoch" not in last
    assert "vkd: epoch 2/2" in last
    assert {(point["row"], point["bits"]) for point in points(tmp_path)} == {
        (row, bits) for row in ROWS for bits in ("32", "4")
    }
    measurements = json.loads((tmp_path / "output" / "measurements.json").read_text())
    assert measurements.keys() == {
        "speed",
        "quantizing",
        "checks",
        "cifar10 epochs",
        *(f"cifar10 {row}" for row in ROWS),
    }
    assert [row["holds"] for row in measurements["checks"]] == [True] * 5
    assert measurements["speed"]["share_of_peak"] > 0
    assert measurements["quantizing"]["seconds_a_point"] > 0
    with zipfile.ZipFile(tmp_path / "output" / "packed.zip") as packed:
        assert sorted(packed.namelist()) == sorted(f"cifar10/{row}/4.safetensors" for row in ROWS)
    assert {file.name for file in (tmp_path / "output").iterdir()} == {"points.csv", "measurements.json", "packed.zip"}


def test_collecting_needs_no_torch(carried: Path, tmp_path: Path) -> None:
    places = ["collect", "--parts", str(carried), "--work", str(tmp_path / "work")]
    blocker = BLOCKER.replace(repr(REFUSED.split()), repr([*REFUSED.split(), "torch", "numpy", "filelock"]))
    subprocess.run([sys.executable, "-c", blocker, *places], cwd=ROOT, check=True)
    assert sorted(file.name for file in (tmp_path / "work" / "parts").iterdir()) == sorted(
        file.name for file in carried.iterdir()
    )


def test_a_folder_that_is_missing_is_named_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["collect", "--parts", str(tmp_path / "nowhere"), "--work", str(tmp_path / "work")]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *arguments])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    assert main() == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_full_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    brought = [tmp_path / "1", tmp_path / "work" / "parts"]
    for folder, size in zip(brought, (4_000, 6_000), strict=True):
        folder.mkdir(parents=True)
        (folder / f"file of {size}").write_bytes(bytes(size))
    (brought[1] / "file of 4000").write_bytes(bytes(4_000))  # of an earlier call
    for free, is_enough in ((119_999, False), (120_000, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert has_room(tmp_path / "work", brought[:1]) == is_enough
        assert ("give a folder on a larger disk" in capsys.readouterr().err) != is_enough


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
    output, file = Output(tmp_path / "work", tmp_path / "output"), tmp_path / "teacher.safetensors"
    file.write_bytes(os.urandom(2 * LARGEST + 1))
    output.keep(file)
    pieces = {piece.name: piece.stat().st_size for piece in (tmp_path / "output").iterdir()}
    assert max(pieces.values()) <= LARGEST
    empty(tmp_path / "output")
    Output(tmp_path / "work", tmp_path / "output")
    assert {piece.name: piece.stat().st_size for piece in (tmp_path / "output").iterdir()} == pieces
    (tmp_path / "work" / min(pieces)).unlink()  # as by a kill
    output.keep(file)
    for place in ("work", "output"):
        again = tmp_path / f"from_{place}" / file.name
        assert joined(tmp_path / place, again)
        assert again.read_bytes() == file.read_bytes()
    file.write_bytes(bytes(70_000_000))
    output.keep(file)
    for place in ("work", "output"):
        assert list((tmp_path / place).iterdir()) == []


def test_the_output_begins_with_what_came_back_and_without_what_a_kill_left(tmp_path: Path) -> None:
    came, place = tmp_path / "came", tmp_path / "output"
    Output(came, tmp_path / "other").measure("speed", {"at_once": 4})
    place.mkdir()
    for name in (".points.csv-abcd", ".teacher.safetensors.piece0of4-x"):
        (place / name).touch()
    output = Output(tmp_path / "work", place)
    output.continue_from(came)
    assert output.measurements == {"speed": {"at_once": 4}}
    assert [file.name for file in place.iterdir()] == ["measurements.json"]


def test_a_difference_is_found() -> None:
    same = {name: np.array([4.0, 5.0]) for name in checks.ALLOWED}
    assert all(row["holds"] for row in checks.compare(same, same))
    for name in checks.ALLOWED:
        for value in (100.0, np.nan):
            found = checks.compare({**same, name: np.array([4.0, value])}, same)
            assert [row["check"] for row in found if not row["holds"]] == [name]
            assert [row["check"] for row in found if row["gross"]] == [name]
    slight = {"top1": np.array([4.06, 5.0]), "loss": np.array([4.03, 5.03])}
    found = checks.compare({**same, **slight}, same)
    assert [row["check"] for row in found if not row["holds"]] == ["loss"]
    assert not any(row["gross"] for row in found)


SETTINGS = {
    "train_images": 16,
    "val_images": 16,
    "test_images": 16,
    "batch_size": 16,
    "teacher_batch_size": 16,
    "bits": (4,),
    "calibration_images": 8,
    "workers": 1,
}


def small_study(carried: Path, folder: Path, epochs: int) -> Study:
    shutil.copytree(carried, folder / "parts")
    return Study(Settings(folder, "cpu", "resnet8", "resnet8", **SETTINGS), "cifar10", epochs, epochs)


class Until(Clock):
    """A clock of so many answers that there is time."""

    def __init__(self, times: int) -> None:
        super().__init__(1e6)
        self.times = times

    def need(self, seconds: float) -> None:
        self.times -= 1
        if self.times < 0:
            raise TimeUp


def test_a_training_ends_between_two_epochs(carried: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = small_study(carried, tmp_path, epochs=3)
    with pytest.raises(TimeUp):
        train(study, "teacher", Clock(100), expected=80)  # as 80 s may become more
    assert capsys.readouterr().out == ""
    with pytest.raises(TimeUp):
        train(study, "teacher", Until(1))
    first = capsys.readouterr().out
    assert first.startswith("cifar10 teacher: epoch 1/3")
    train(study, "teacher", Clock(1e6))
    again = capsys.readouterr().out
    assert again.startswith(first)  # to its milliseconds: it was read, not trained again
    assert [line.split(",")[0] for line in again.splitlines()] == [
        f"cifar10 teacher: epoch {epoch}/3" for epoch in (1, 2, 3)
    ]
    train(study, "teacher", Until(2), expected=1e9)  # it is there: only its epochs are asked about


RATES = plan.Rates(student=1e-4, answer=5e-5, teacher=2e-4, point=1.0)
PACE = Pace(at_once=2, rates=RATES, seconds=100, epochs=(1, 1))


class Points(Quantizing):
    """Starts no process; `started` has the rows that it was asked for."""

    def __init__(self, study: Study, output: Output) -> None:
        super().__init__(study, output)
        self.started: list[str] = []

    def start(self, row: str) -> None:
        self.started.append(row)


def test_a_row_that_diverges_or_fails_keeps_no_other_from_its_points(
    carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_one(study: Study, row: str, *_: object) -> dict[str, float]:
        if row in raised:
            raise raised[row]
        return {"seconds": 1.0}

    raised = {"vkd": Diverged(1, 2, "the loss is not finite"), "dkd": OSError(28, "no space"), "late": TimeUp()}
    monkeypatch.setattr(rows, "train", train_one)
    monkeypatch.setattr(Study, "answer", lambda _: None)
    study = small_study(carried, tmp_path, epochs=1)
    output = Output(tmp_path / "work", tmp_path / "output")
    with Points(study, output) as points:
        assert rows.train_students(study, ["vkd", "dkd", "late", "ce"], points, PACE, Clock(1e6))
        assert not rows.train_students(study, ["ce"], points, PACE, Clock(1e6))
        assert points.started == ["ce", "ce"]
    assert output.errors == ["cifar10 dkd: OSError: [Errno 28] no space"]
    found = json.loads((tmp_path / "output" / "measurements.json").read_text())
    assert found["cifar10 vkd"] == {"diverged": "diverged in epoch 1, step 2: the loss is not finite"}
    assert found["errors"] == output.errors
    assert rows.unfinished(study, output) == ["teacher", "dkd"]


def test_nothing_is_traced_while_students_train(carried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trace(tracer: _Tracer, model: Classifier) -> Graph:
        traced.append(threading.current_thread())
        return super(_Tracer, tracer).trace(model)

    traced: list[threading.Thread] = []
    monkeypatch.setattr(_Tracer, "trace", trace)
    study = small_study(carried, tmp_path, epochs=1)
    output = Output(tmp_path / "work", tmp_path / "output")
    train_teacher(study, output, Clock(1e6))
    with Points(study, output) as points:
        assert not rows.train_students(study, ["vkd", "dkd"], points, PACE, Clock(1e6))
        assert sorted(points.started) == ["dkd", "vkd"]
    assert set(traced) == {threading.main_thread()}
    assert output.errors == []


def test_a_point_that_fails_is_noted_and_the_processes_end(carried: Path, tmp_path: Path) -> None:
    study = small_study(carried, tmp_path, epochs=1)
    output = Output(tmp_path / "work", tmp_path / "output")
    with Quantizing(study, output) as points:
        points.start("teacher")  # which nobody has trained
        points.collect(Clock(100))
        [process] = points.pool._processes.values()
    process.join(100)
    assert not process.is_alive()
    assert sorted(error.partition(":")[0] for error in output.errors) == [
        "cifar10 teacher at 32 bits",
        "cifar10 teacher at 4 bits",
    ]


def test_more_trainings_at_once_only_where_they_are_faster() -> None:
    assert speed.best({1: 100, 2: 109, 4: 109}) == 1
    assert speed.best({1: 100, 2: 109, 4: 111}) == 4
    assert speed.best({1: 100, 2: 120, 4: 125}) == 2


def test_epochs_fit_the_time() -> None:
    methods = [MethodConfig.parse(row) for row in prepare.rows("paper_cifar10").values() if row["method"] != "teacher"]
    images = 10_000
    # Seven students, as dml has two; vkd and dkd share the teacher's passes, as do mixup and dkd with mixup.
    assert plan.student_seconds(RATES, methods, images) == pytest.approx(1.25 * (7 * 1.0 + 2 * 0.5))
    teacher, students = plan.fitting(RATES, methods, images, points=63, seconds=200)
    assert (teacher, students) == (13, 10)
    spent = teacher * plan.teacher_seconds(RATES, images) + students * plan.student_seconds(RATES, methods, images)
    assert spent + 63 <= 200
    assert plan.fitting(RATES, methods, images, points=63, seconds=80) == (4, 3)  # half of it is for training
    assert plan.fitting(RATES, methods, images, points=63, seconds=1) == (1, 1)
    assert plan.fitting(RATES, methods, images, points=63, seconds=1e9) == (40, 30)


def test_epochs_are_decided_once(carried: Path, tmp_path: Path) -> None:
    study = small_study(carried, tmp_path, epochs=1)
    output = Output(tmp_path / "work", tmp_path / "output")
    found = rows._epochs(study.settings, "cifar10", output, Pace(1, RATES, 100.0), 45_000)
    assert found == rows._epochs(study.settings, "cifar10", output, Pace(1, RATES, 1000.0), 45_000)
    assert found != rows._epochs(study.settings, "cifar10", Output(tmp_path / "a", tmp_path / "b"), PACE, 45_000)


def test_a_training_is_timed_in_its_second_epoch_beside_the_others() -> None:
    running = speed.trainers(Settings(Path(), "cpu", "resnet8", "resnet8", **SETTINGS), "resnet8", "vkd", 2, 16)
    assert speed.rate(running, "cpu") > 0
    assert [trainer.epoch for trainer in running] == [1, 1]
    running[1].views = None
    with pytest.raises((AttributeError, threading.BrokenBarrierError)):
        speed.rate(running, "cpu")


def test_jobs_end_in_their_own_order() -> None:
    released = threading.Event()
    seen = []
    for name, ended in as_finished({"slow": lambda: released.wait(100), "fast": lambda: 2}, 2, "cpu"):
        seen.append((name, ended.result()))
        released.set()
    assert seen == [("fast", 2), ("slow", True)]


def test_the_time_of_a_point_is_that_of_its_process_over_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(tmp_path, "cpu", "resnet8", "resnet8", **SETTINGS)
    assert quantizing.point_seconds(settings) > 0
    with pytest.raises(TimeUp):
        quantizing.time_points(settings, Clock(0))


def test_a_network_is_quantized_loaded_and_compared() -> None:
    model, images = networks.network("resnet8", 32), torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    line, holds = networks.measure(model, images, "rtn", "cpu")
    assert line.startswith("resnet8 rtn: 8 layers, ")
    assert "loaded 0 (on the CPU 0), same bits True (control 0.0" in line
    assert holds


def test_a_network_that_fails_is_named_and_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["networks", "--device", "cpu", "--images", "4", "--size", "32", "no", "resnet8"])
    assert networks.main() == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("no gptq: UserError: unknown architecture 'no'")
    assert lines[3].startswith("resnet8 least_squares: 8 layers")


def test_the_picture_has_every_row_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in figure.TITLES:
        shutil.copy(figure.RESULTS / f"gpu-{name}.csv", tmp_path)
        rows = figure.read(tmp_path / f"gpu-{name}.csv")
        assert set(rows) <= {"teacher", *figure.METHODS}
        assert "dkd + mixup" in rows
    monkeypatch.setattr(figure, "RESULTS", tmp_path)
    figure.main()
    with Image.open(tmp_path / "gpu.png") as picture:
        assert picture.size == (1600, 1200)


def test_the_best_of_the_paper_is_a_students() -> None:
    assert figure.paper_best("cifar100") == pytest.approx(
        {2: 33.07, 3: 47.65, 4: 59.75, 5: 65.93, 6: 68.7, 7: 69.89, 8: 70.87, 32: 75.33}
    )
