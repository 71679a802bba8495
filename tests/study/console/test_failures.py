"""What errors say, the cause they are put down to, and the word that a trial ends with."""

import ctypes
import io
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file
from torch import nn

from kdq.data.dataset import Normalization
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.models.checkpoint import Checkpoint, load
from kdq.models.classifier import build
from kdq.pipeline.student import StudentSpec
from kdq.store.folder_store import StageStore
from study.console.failures import CAUSES, end_status, failure_kind, full_text, likely_cause
from study.results.status import TrialStatus
from study.trial.events import TrialEnded
from study.trial.trial import Trial
from study.trial.worker import DataRef, Inputs, Probing, run_trial

MISSING = "is missing"
FULL = "the disk is full"
MEMORY = "the machine's memory"
FIT = "teacher, student and data"
DAMAGED = "is damaged"
STORE = "MLflow's server or store"


def teacher(folder: Path, classes: int) -> None:
    normalization = Normalization((0.5,), (0.5,))
    save_file(build("resnet8", classes=classes, normalization=normalization, seed=0).state_dict(), folder / "m")
    build("resnet8", classes=10, normalization=normalization, seed=0).load_state_dict(load_file(folder / "m"))


def locked(folder: Path) -> None:
    one, other = (sqlite3.connect(folder / "db", timeout=0) for _ in range(2))
    try:
        one.execute("begin immediate")
        other.execute("begin immediate")
    finally:
        one.close()
        other.close()


def server(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        MlflowClient(tracking_uri="http://127.0.0.1:1").search_experiments()


def cut_off(folder: Path) -> None:
    whole = io.BytesIO()
    torch.save(torch.zeros(1000), whole)
    torch.load(io.BytesIO(whole.getvalue()[:1000]), weights_only=True)


def full(folder: Path) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as device:  # which neither makes nor replaces it
        device.write(b"x")


def full_for_numpy(folder: Path) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as device:
        np.zeros(100_000).tofile(device)


def chained(folder: Path) -> None:
    try:
        bytearray(10**15)
    except MemoryError as error:
        raise ValueError("a view could not be made") from error


REAL: dict[str, tuple[str, Callable[[Path], object]]] = {
    "memory": (MEMORY, lambda folder: bytearray(10**15)),
    "memory of torch": (MEMORY, lambda folder: torch.empty(10**14)),
    "memory of numpy": (MEMORY, lambda folder: np.empty(10**15)),
    "memory at last": (MEMORY, chained),
    "full": (FULL, full),
    "full for numpy": (FULL, full_for_numpy),
    "missing": (MISSING, lambda folder: (folder / "x").read_text()),
    "missing for safetensors": (MISSING, lambda folder: load_file(folder / "x")),
    "missing folder": (MISSING, lambda folder: torch.save(torch.zeros(1), folder / "x" / "y")),
    "missing folder for safetensors": (MISSING, lambda folder: save_file({"a": torch.zeros(1)}, folder / "x" / "y")),
    "missing teacher": (
        MISSING,
        lambda folder: load(
            Checkpoint("resnet8", folder / "x"), classes=2, normalization=Normalization((0.5,), (0.5,))
        ),
    ),
    "package": ("lacks a package", lambda folder: __import__("kdq_is_not_there")),
    "library": ("lacks a package", lambda folder: ctypes.CDLL("libkdq_is_not_there.so")),
    "classes": (FIT, lambda folder: teacher(folder, classes=7)),
    "layers": (FIT, lambda folder: nn.Linear(3, 10).load_state_dict({})),
    "logits": (FIT, lambda folder: torch.zeros(4, 10) + torch.zeros(4, 100)),
    "features": (FIT, lambda folder: torch.zeros(4, 10) @ torch.zeros(11, 3)),
    "channels": (FIT, lambda folder: nn.Conv2d(3, 4, 3)(torch.zeros(1, 1, 8, 8))),
    "labels": (FIT, lambda folder: nn.functional.cross_entropy(torch.zeros(2, 10), torch.tensor([1, 11]))),
    "damaged": (DAMAGED, cut_off),
    "damaged safetensors": (DAMAGED, lambda folder: (folder / "x").write_bytes(b"abc") and load_file(folder / "x")),
    "damaged json": (DAMAGED, lambda folder: json.loads("")),
    "server": (STORE, server),
    "locked": (STORE, locked),
}

SAID = {
    "the GPU's memory": [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 39 GiB",
        "torch.AcceleratorError: CUDA error: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
    MEMORY: [
        "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 2) was "
        "1.48GB used / 23.54GB limit (0.062740)",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
    FULL: [
        "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598",
        "OSError: [Errno 122] Disk quota exceeded: '/a'",
        "OSError: 100000 requested and 1234 written",
        "mlflow.exceptions.MlflowException: (sqlite3.OperationalError) database or disk is full",
    ],
    "no write permission": [
        "PermissionError: [Errno 13] Permission denied: '/a'",
        "OSError: [Errno 30] Read-only file system: '/a'",
        "safetensors_rust.SafetensorError: Error while serializing: I/O error: Permission denied (os error 13)",
    ],
    "network storage": [
        "OSError: [Errno 116] Stale file handle: '/a'",
        "NotImplementedError: FileSystem does not appear to support flock; use SoftFileLock instead",
    ],
    "too many open files": ["OSError: [Errno 24] Too many open files: '/a'"],
    "are incompatible": [
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "RuntimeError: Found no NVIDIA driver on your system.",
        "AssertionError: Torch not compiled with CUDA enabled",
    ],
    FIT: ["torch.AcceleratorError: CUDA error: device-side assert triggered"],
    "the GPU failed": ["torch.AcceleratorError: CUDA error: an illegal memory access was encountered"],
    "worker crashed or was killed": [
        "The actor died unexpectedly before finishing this task.\n\tclass_name: ImplicitFunc\n"
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
    ],
    "cluster was lost": ["The actor died unexpectedly before finishing this task.\nits node has died.\nNode Id: 12"],
}


@pytest.mark.parametrize("name", REAL)
def test_real_errors_have_their_cause(name: str, tmp_path: Path) -> None:
    what, fail = REAL[name]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, by its text
        fail(tmp_path)
    cause = likely_cause(full_text(caught.value))
    assert cause, full_text(caught.value)
    assert what in cause.what
    assert end_status(full_text(caught.value)) == ("out_of_memory" if what == MEMORY else "failed")


def test_those_that_cannot_be_had_here_have_theirs() -> None:
    for what, errors in SAID.items():
        for said in errors:
            cause = likely_cause(said)
            assert cause, said
            assert what in cause.what, said
            assert (end_status(said) == "out_of_memory") == ("memory is too small" in cause.what)


def test_every_cause_has_an_error() -> None:
    named = [*SAID, *(what for what, _ in REAL.values())]
    assert [cause for cause in CAUSES if not any(what in cause.what for what in named)] == []


def test_others_are_unknown_and_alike_but_for_their_numbers() -> None:
    one, other = "ValueError: 3 of 00ff00ff00ff00ff", "ValueError: 14 of a0a0a0a0a0a0a0a0"
    assert likely_cause(one) is None
    assert end_status(one) == "failed"
    assert failure_kind(one, one) == failure_kind(other, other) != failure_kind("ValueError: 3 in all", "")
    assert failure_kind("a", "[Errno 28] x") == failure_kind("b", "[Errno 122] y")


def test_a_log_that_cannot_be_written_hides_no_failure() -> None:
    """As on a full disk: the trial ends with its reason all the same."""

    class Broken(Trial):
        def is_finished(self, store: StageStore) -> bool:
            raise OSError(28, "No space left on device")

    student = StudentSpec("data", None, "resnet8", MethodConfig.parse({"method": "ce"}), TrainConfig(1, 1, 0.1), 0)
    inputs = Inputs("", DataRef("", "", 0, 0))
    events = list(run_trial(Broken("", student, ()), inputs, "cpu", Path("/dev/null/log"), Probing()))
    reason = "OSError: [Errno 28] No space left on device"
    assert events == [TrialEnded(TrialStatus.FAILED, reason, None, f"{reason}\n")]
