"""Why trials fail: the errors of Python, PyTorch, Ray and MLflow, their likely causes and remedies."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from traceback import format_exception_only

from study.results.status import TrialStatus


@dataclass(frozen=True, slots=True)
class Cause:
    """The likely cause of errors whose text matches `pattern`. memory: the trial ends as `out_of_memory`."""

    pattern: str
    what: str
    remedy: str
    memory: bool = False

    def __str__(self) -> str:
        return f"likely cause: {self.what}; {self.remedy}"


def _errno(*numbers: int) -> str:
    """Return a pattern for system error numbers as Python and Rust write them."""
    either = "|".join(map(str, numbers))
    return rf"\[Errno (?:{either})\]|\(os error (?:{either})\)"


CAUSES = (
    Cause(
        r"CUDA out of memory|CUDA error: out of memory|_STATUS_ALLOC_FAILED|torch\.OutOfMemoryError",
        "the GPU's memory is too small for the processes on it",
        "give each trial more of it (--gpus-per-trial 1), or stop other processes that use it (`nvidia-smi`)",
        memory=True,
    ),
    Cause(
        rf"MemoryError\b|can't allocate memory|running low on memory|{_errno(12)}",
        "the machine's memory is too small for this many concurrent trials",
        "use a larger --cpus-per-trial to run fewer",
        memory=True,
    ),
    Cause(
        rf"{_errno(28, 122)}|No space left|disk is full|inline_container\S* \. unexpected pos"
        r"|requested and \d+ written",
        "the disk is full, or a quota exceeded",
        "free space, for example with --prune STUDY",
    ),
    Cause(
        rf"{_errno(1, 13, 30)}|readonly database",
        "this user has no write permission there",
        "grant it, or run in another folder",
    ),
    Cause(
        rf"{_errno(5, 37, 38, 95, 116)}|support flock",
        "the folder is on network storage that failed, or that does not support locks",
        "mount it again with locks (NFS: without nolock)",
    ),
    Cause(
        _errno(24),
        "a process has too many open files",
        "raise the limit with `ulimit -n 65536`, then rerun the command",
    ),
    Cause(
        r"ModuleNotFoundError|ImportError|undefined symbol|cannot open shared object",
        "the worker's Python lacks a package, or has another version of it",
        "install this program's requirements there",
    ),
    Cause(
        r"no kernel image|NVIDIA driver|CUDA driver|not compiled with CUDA|No CUDA GPUs|CUDA-capable device",
        "PyTorch, the driver and the GPU are incompatible",
        "install the PyTorch build for this driver (see `nvidia-smi`), or use the CPU: --gpus-per-trial 0",
    ),
    Cause(
        r"size mismatch for|key\(s\) in state_dict|must match the size of tensor|shapes cannot be multiplied"
        r"|to have \d+ channels|Target -?\d+ is out of bounds|device-side assert",
        "teacher, student and data do not match: different classes, channels or layers",
        "choose a --teacher and --student for this data set",
    ),
    Cause(
        r"CUDA error|cuDNN error|CUBLAS_STATUS",
        "the GPU failed",
        "look for its errors (`dmesg | grep Xid`); if there are any, use another GPU",
    ),
    Cause(
        rf"{_errno(2)}|No such file or directory|there is no such checkpoint|Parent directory \S+ does not exist",
        "a file of the data, the teacher or a stage is missing, or not visible to the machine that ran the trial",
        "restore it, or remove its whole folder: the same command builds a stage again",
    ),
    Cause(
        r"checkpoint file is corrupted|failed reading zip archive|Error while deserializing|JSONDecodeError|EOFError",
        "a file of the data, the teacher or a stage is damaged",
        "remove its folder: the same command builds a stage again",
    ),
    Cause(
        r"API request to|Max retries exceeded|Connection refused|database is locked|unable to open database",
        "MLflow's server or store does not respond",
        "restart it, or fix --tracking-uri",
    ),
    Cause(
        r"worker process has died",
        "the worker crashed or was killed, usually by the system when memory ran out (see `dmesg`)",
        "use a larger --cpus-per-trial to run fewer trials at a time",
    ),
    Cause(r"node has died|node failure", "a machine of the cluster was lost", "restart it (see `ray status`)"),
)
"""The first match is used."""


def likely_cause(error: str) -> Cause | None:
    """Return the likely cause of an error, given its text with its type; None if unknown."""
    return next((cause for cause in CAUSES if re.search(cause.pattern, error)), None)


def end_status(error: str) -> TrialStatus:
    """Return the status of a trial that ends with this error: `out_of_memory` or `failed`."""
    cause = likely_cause(error)
    return TrialStatus.OUT_OF_MEMORY if cause and cause.memory else TrialStatus.FAILED


def failure_kind(reason: str, error: str) -> str:
    """Return what failures of one kind share: their cause, or their reason without its numbers."""
    cause = likely_cause(error)
    return cause.what if cause else re.sub(r"\b[0-9a-f]{8,}\b|\d+", "#", reason)


def full_text(error: BaseException) -> str:
    """Return the types and messages of an error and of the errors that caused it."""
    return "".join(line for one in _chain(error) for line in format_exception_only(one))


def _chain(error: BaseException) -> Iterator[BaseException]:
    yield error
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before:
        yield from _chain(before)
