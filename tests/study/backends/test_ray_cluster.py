"""A study on a Ray cluster, here on one machine: what is refused before it starts, and a node that dies."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from kdq.distill.precision import Choice, choose
from kdq.errors import UserError
from study.backends import ray_cluster
from study.backends.ray_cluster import Answer, Task, check, code_version, preflight
from study.plan.resources import Machine, Resources
from study.run import main
from tests.patience import patient

SCRIPT = Path(__file__).parents[3] / "study" / "run.py"
PATIENCE = patient(80)
ATTEMPTS, START = 3, patient(30)
SPACE = "description: two students\nparams: {method: dkd, warmup: 0, beta: {grid: [2, 4]}}\nbits: [2]\n"
SETTINGS = {
    "teacher": "train:resnet8",
    "teacher_train.epochs": 10,
    "teacher_train.batch_size": 32,
    "train_images": 400,
    "val_images": 20,
    "train.epochs": 30,
    "calibration_images": 8,
    "quantizer.method": "rtn",
}
STUDY = ["--space", "space.yaml", "--name", "s", *(f"--set={key}={value}" for key, value in SETTINGS.items())]


@dataclass
class Node:
    """A node of a cluster: its `ray start`, which has all its processes below it."""

    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        if self.process.poll() is None:
            for each in self._processes():
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            self.process.wait()

    def is_training(self, store: Path) -> bool:
        """Whether one of its processes has the lock of a student in hand."""
        opened: list[str] = []
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                opened += [file.path for file in process.open_files()]
        return any(Path(path).is_relative_to(store / "stages" / "student") for path in opened)

    def _processes(self) -> list[psutil.Process]:
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]


@dataclass
class Cluster:
    """A head that runs no trials, and two nodes with a core each. address: HOST:PORT."""

    address: str
    head: Node
    nodes: list[Node]

    def in_training(self, store: Path) -> Node | None:
        return next((node for node in self.nodes if node.is_training(store)), None)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One for all tests: the first that kills a node leaves another, the last kills the head."""
    with (
        pytest.MonkeyPatch.context() as environment,
        tempfile.TemporaryDirectory(prefix="kdq-ray-") as folder,  # sockets need a short path
        ExitStack() as started,
    ):
        environment.setenv("RAY_AUTH_MODE", "disabled")  # else those who have a token of Ray's could not join
        head = _start(
            started, "--head", "--port=0", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}"
        )
        written = Path(folder) / "ray_current_cluster"
        _wait(written.exists, "the head of the cluster")
        address = written.read_text().strip()
        yield Cluster(address, head, [_start(started, f"--address={address}", "--num-cpus=1") for _ in range(2)])


def _start(started: ExitStack, *arguments: str) -> Node:
    """Start a node, again if Ray cannot: it draws ports that another program may take before Ray does."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-gpus=0", "--disable-usage-stats"]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
    command += ["--object-store-memory=100000000"]
    output = Path(started.enter_context(tempfile.TemporaryDirectory()), "output")
    for _ in range(ATTEMPTS):
        with output.open("wb") as file:
            process = subprocess.Popen([*command, *arguments], stdout=file, stderr=subprocess.STDOUT)
        node = Node(started.enter_context(process))
        started.callback(node.kill)
        end = time.monotonic() + START
        while "Ray runtime started" not in output.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        if "Ray runtime started" in output.read_text() and process.poll() is None:
            return node
        node.kill()
        print(output.read_text())
    raise AssertionError(f"no node in {ATTEMPTS} attempts; the last said: {output.read_text()}")


def _wait(until: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, f"no sign of {what} in {PATIENCE} s"
        time.sleep(0.05)


def _points(store: Path) -> str:
    command = [sys.executable, "-m", "analysis", "points", "--study", "s", "--format", "csv"]
    command += ["--tracking-uri", f"sqlite:///{store}/mlflow.db"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def _driver(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """The study's command in a folder, which has what it prints in `output`."""
    command = [sys.executable, "-u", str(SCRIPT), *STUDY, *arguments]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_a_study_loses_nothing_with_a_node(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serially: Callable[..., None]
) -> None:
    """A node killed in mid-training: its trial goes on at the other, to the same points as on one machine alone."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there, there / "store"):
        folder.mkdir()
        (folder / "space.yaml").write_text(SPACE)

    def output() -> str:
        return (there / "output").read_text()

    def is_under_way() -> bool:
        return "epoch 6/30" in output() and cluster.in_training(there / "store") is not None

    with _driver(there, "--address", cluster.address, "--storage-path", "store") as driver:
        _wait(lambda: driver.poll() is not None or is_under_way(), "a trial in mid-training")
        node = cluster.in_training(there / "store")
        assert node, output()
        node.kill()
        status = driver.wait(PATIENCE)
    assert status == 0, output()
    assert "its worker died and another resumes it" in output()
    assert "2 completed" in output()
    assert list((there / "store" / "ray").iterdir()) == []

    monkeypatch.chdir(here)
    serially()
    assert main(STUDY) == 0
    assert _points(there / "store") == _points(here / "mlruns")


def test_a_study_whose_head_dies_says_so(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "space.yaml").write_text(SPACE)
    output = tmp_path / "output"
    with _driver(tmp_path, "--address", cluster.address, "--storage-path", "store") as driver:
        _wait(lambda: driver.poll() is not None or "epoch 6/30" in output.read_text(), "a trial in mid-training")
        cluster.head.kill()
        assert driver.wait(PATIENCE) == 2, output.read_text()
    assert f"Ray's head at {cluster.address} died" in output.read_text()
    assert "run the same command again to resume" in output.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "somewhere"], "--address somewhere: must be auto, HOST:PORT"),
        (["--address", "http://127.0.0.1:8265"], "--address http://127.0.0.1:8265: must be auto, HOST:PORT"),
        (["--address", "127.0.0.1:many"], "--address 127.0.0.1:many: must be auto, HOST:PORT"),
        (["--address", "127.0.0.1:1"], "nothing responds there"),
        (["--address", "ray://127.0.0.1:1"], "nothing responds there"),
        (["--storage-path", "s3://bucket/kdq"], "must be a folder"),
        (["--storage-path", "missing"], "there is no such folder"),
    ],
)
def test_what_is_no_cluster_and_no_storage_is_refused(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--space", "dkd_grid", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Task]:
    """What a node checks, without a problem."""
    folder, data = tmp_path / "preflight", tmp_path / "data"
    for made in (folder, data):
        made.mkdir()
    (folder / "driver").write_text("token")
    (data / "data.json").write_text("{}")
    with FileLock(folder / "lock"):
        yield Task("node", folder, "token", data, code_version(), "cpu")


def test_a_node_without_problems(task: Task) -> None:
    assert check(task) == []
    assert (task.folder / "node").read_text() == "token"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: replace(task, token="another"), "cannot see what the driver writes"),
        (lambda task: replace(task, folder=task.folder / "elsewhere"), "cannot see what the driver writes"),
        (lambda task: replace(task, node="no/such/folder"), "cannot use"),
        (lambda task: replace(task, data=task.data / "elsewhere"), "cannot see the data"),
        (lambda task: replace(task, code="another"), "imports different code from the driver's"),
        (lambda task: replace(task, device="cuda"), "PyTorch finds none"),
    ],
)
def test_each_problem_of_a_node_is_reported(
    change: Callable[[Task], Task], message: str, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (problem,) = check(change(task))
    assert message in problem
    assert "; " in problem  # the remedy


def test_a_node_that_does_not_see_locks(task: Task) -> None:
    (task.folder / "lock").unlink()
    (problem,) = check(task)
    assert "locks" in problem


FAST, SLOW = Choice("bf16", "this processor has AMX"), Choice("float32", "this processor has neither")


def preflight_on_two(root: Path, answer: Callable[[Task], list[str]]) -> dict[str, Choice]:
    """Check a head that runs no trials and nodes `1` and `2`, of which the first trains fast in bf16, with these
    problems."""
    machines = [Machine("head", 0, 0, "0"), Machine("node one", 1, 0, "1"), Machine("node two", 1, 0, "2")]
    (root / "data.json").write_text("{}")
    before = set(root.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        answers = {"1": FAST, "2": SLOW}
        patch.setattr(ray_cluster, "_run", lambda tasks: [Answer(answer(t), answers[t.node]) for t in tasks])
        try:
            return preflight(machines, Resources(1, 0), root, root)
        finally:
            assert set(root.iterdir()) == before


def test_a_cluster_that_is_ready(tmp_path: Path) -> None:
    asked: list[str] = []

    def answer(task: Task) -> list[str]:
        asked.append(task.node)
        return check(task)

    assert preflight_on_two(tmp_path, answer) == {"node one": FAST, "node two": SLOW}
    assert asked == ["1", "2"]


def test_the_problems_of_every_node_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        preflight_on_two(tmp_path, lambda task: check(replace(task, code="another")) if task.node == "2" else [])
    first, one, two = str(error.value).splitlines()
    assert first == "the cluster is not ready, and nothing was started:"
    assert one.startswith(f"  node one: what it writes to {tmp_path} is not visible here immediately; ")
    assert two.startswith("  node two: imports different code from the driver's")


def test_a_node_that_hangs_is_reported_and_not_waited_for(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    """Its answer is never asked for: `ray.get` would wait for ever."""
    asked: list[str] = []

    class Remote:
        def options(self, *, scheduling_strategy: Any) -> "Remote":
            self.node = scheduling_strategy.node_id
            return self

        def remote(self, task: Task) -> str:
            return self.node

    def get(pending: str) -> Answer:
        asked.append(pending)
        return Answer([], FAST)

    monkeypatch.setattr(ray_cluster.ray, "remote", lambda **_: lambda _: Remote())
    monkeypatch.setattr(ray_cluster.ray, "wait", lambda pending, **_: (pending[1:], pending[:1]))
    monkeypatch.setattr(ray_cluster.ray, "get", get)
    nodes = ["a" * 56, "b" * 56]  # as long as Ray's
    hanging, fast = ray_cluster._run([replace(task, node=node) for node in nodes])
    assert "has not responded in" in hanging.problems[0]
    assert fast == Answer([], FAST)
    assert asked == nodes[1:]


def test_a_node_reports_its_precision(task: Task) -> None:
    assert ray_cluster.answer(task) == Answer([], choose("cpu"))
