import errno
import fcntl
import json
import multiprocessing
import os
import signal
import string
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdq.store.files import system_lock
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage, canonical, digest

STAGE = Stage("student", 3, {"seed": 0, "config": {"alpha": 0.5, "method": "dkd"}, "teacher": None})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def write(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "result.txt").write_text("done")


def contents(root: Path) -> set[str]:
    """Everything below `root` but lock files."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.suffix != ".lock"}


def test_the_identity_is_that_of_the_canonical_json():
    inputs = '{"config":{"alpha":0.5,"method":"dkd"},"seed":0,"teacher":null}'
    text = f'{{"inputs":{inputs},"kind":"student","version":3}}'
    assert STAGE.id == sha256(text.encode()).hexdigest()
    # A literal too: work that is finished must be found again by later releases.
    assert STAGE.id == "e69021cf39c189976347fa32aedd68aba4324b55a68b817e2a2731d17f4afecf"


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_order_of_keys_is_irrelevant(inputs):
    backwards = dict(reversed(inputs.items()))
    assert Stage("point", 1, inputs).id == Stage("point", 1, backwards).id
    assert json.loads(canonical(inputs)) == inputs


@given(JSON, JSON)
def test_values_that_differ_have_different_identities(a, b):
    assert (digest(a) == digest(b)) == (canonical(a) == canonical(b))


@pytest.mark.parametrize(
    "other",
    [
        Stage("teacher", 3, STAGE.inputs),
        Stage("student", 4, STAGE.inputs),
        Stage("student", 3, {**STAGE.inputs, "seed": 1}),
        Stage("student", 3, {**STAGE.inputs, "extra": None}),
        Stage("student", 3, {**STAGE.inputs, "teacher": "None"}),
    ],
)
def test_whatever_determines_the_result_changes_the_identity(other):
    assert other.id != STAGE.id


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        _ = Stage("point", 1, {"config": {"alpha": [value]}}).id


def test_an_identity_is_a_plain_hexadecimal_name():
    assert len(STAGE.id) == 64
    assert set(STAGE.id) <= set(string.hexdigits.lower())


def test_looking_up_creates_nothing(tmp_path):
    store = StageStore(tmp_path / "stages")
    assert store.find(STAGE) is None
    store.remove(STAGE)
    assert contents(tmp_path) == set()


def test_a_stage_is_made_once_and_describes_itself(tmp_path):
    store, calls = StageStore(tmp_path), []

    def build(folder: Path) -> None:
        calls.append(folder)
        write(folder)

    path = store.make(STAGE, build)
    assert store.make(STAGE, build) == path == store.path(STAGE) == store.find(STAGE)
    assert len(calls) == 1
    assert not calls[0].exists()
    assert (path / "sub" / "result.txt").read_text() == "done"
    description = json.loads((path / "stage.json").read_text())
    assert Stage(**description).id == STAGE.id


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_and_blocks_nothing(tmp_path, error):
    store = StageStore(tmp_path)

    def fail(folder: Path) -> None:
        write(folder)
        raise error("half-way")

    with pytest.raises(error, match="half-way"):
        store.make(STAGE, fail)
    assert store.find(STAGE) is None
    assert contents(tmp_path) == {"student"}
    assert (store.make(STAGE, write) / "sub" / "result.txt").exists()


def test_a_stage_is_not_visible_while_it_is_built(tmp_path):
    store = StageStore(tmp_path)

    def build(folder: Path) -> None:
        write(folder)
        assert store.find(STAGE) is None

    assert store.make(STAGE, build) == store.find(STAGE)


def test_stages_of_other_inputs_are_built_inside_another(tmp_path):
    store = StageStore(tmp_path)
    inner = Stage("student", 3, {"seed": 1})
    store.make(STAGE, lambda folder: (store.make(inner, write) / "sub" / "result.txt").rename(folder / "moved"))
    assert (store.path(STAGE) / "moved").read_text() == "done"


def test_remove_forgets_a_stage_alone(tmp_path):
    store, other = StageStore(tmp_path), Stage("student", 3, {"seed": 1})
    store.make(STAGE, write)
    kept = store.make(other, write)
    store.remove(STAGE)
    assert store.find(STAGE) is None
    assert store.find(other) == kept
    assert not any(STAGE.id in name for name in contents(tmp_path))
    assert store.make(STAGE, write) == store.path(STAGE)


def build_slowly(root: Path, log: Path, start: "multiprocessing.synchronize.Barrier") -> None:
    """Build STAGE as one of several processes; each build adds a line to the log."""

    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        write(folder)

    start.wait()
    path = StageStore(root).make(STAGE, build)
    assert (path / "sub" / "result.txt").read_text() == "done"


def test_processes_that_want_the_same_stage_build_it_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    start, log = spawn.Barrier(3), tmp_path / "log"
    workers = [spawn.Process(target=build_slowly, args=(tmp_path / "stages", log, start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


DYING_BUILDER = """
import sys, time
from pathlib import Path
from kdq.store.folder_store import Stage, StageStore

def build(folder):
    (folder / "half").write_text("half")
    print("building", flush=True)
    time.sleep(600)

StageStore(Path(sys.argv[1])).make(Stage("student", 3, {"seed": 7}), build)
"""


def test_a_killed_builder_leaves_no_stage_and_no_lock(tmp_path):
    stage, store = Stage("student", 3, {"seed": 7}), StageStore(tmp_path)
    command = [sys.executable, "-c", DYING_BUILDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "building\n"
        assert store.find(stage) is None
        builder.send_signal(signal.SIGKILL)
    assert builder.returncode == -signal.SIGKILL
    assert store.find(stage) is None
    path = store.make(stage, write)  # a lock that outlived its owner would block here until the time limit
    assert sorted(file.name for file in path.iterdir()) == ["stage.json", "sub"]


def test_a_sweep_takes_what_killed_processes_left_and_nothing_else(tmp_path):
    store = StageStore(tmp_path)
    kept = store.make(STAGE, lambda folder: (folder / "a").write_text("x"))
    dead = Stage("point", 1, {"which": "of a killed maker"})
    for left in (f".making-{dead.id}-abc", ".removing-abc"):
        (tmp_path / "point" / left / "inner").mkdir(parents=True)

    def build(folder):
        store.sweep()  # what is being made is not swept away
        (folder / "b").write_text("x")

    other = store.make(Stage("point", 1, {"which": "in the making"}), build)
    assert {path for path in tmp_path.glob("*/*") if path.is_dir()} == {kept, other}
    assert not list(store.leftovers())


def test_the_store_needs_no_torch():
    code = "import sys, kdq.store.folder_store, kdq.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_lock_is_made_up_where_the_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that outlives its holder would leave a killed trial's stage locked for ever."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="not implemented"), system_lock(tmp_path / "lock", timeout=1):
        pass
