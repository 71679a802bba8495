"""Why trials fail: what Python, PyTorch, Ray and MLflow say, the likely cause, and what helps against it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from traceback import format_exception_only

from study.results.status import TrialStatus


@dataclass(frozen=True, slots=True)
class Cause:
    """What is behind every error whose text has `pattern` in it. memory: it ends a trial as `out_of_memory`."""

    pattern: str
    what: str
    remedy: str
    memory: bool = False

    def __str__(self) -> str:
        return f"likely cause: {self.what}; {self.remedy}"


def _errno(*numbers: int) -> str:
    """How Python and Rust write the system's error numbers."""
    either = "|".join(map(str, numbers))
    return rf"\[Errno (?:{either})\]|\(os error (?:{either})\)"


CAUSES = (
    Cause(
        r"CUDA out of memory|CUDA error: out of memory|_STATUS_ALLOC_FAILED|torch\.OutOfMemoryError",
        "the GPU's memory is too small for what runs on it",
        "give a trial more of it (--gpus-per-trial 1), or end what else uses it (`nvidia-smi`)",
        memory=True,
    ),
    Cause(
        rf"MemoryError\b|can't allocate memory|running low on memory|{_errno(12)}",
        "the machine's memory is too small for so many trials at a time",
        "run fewer, by a larger --cpus-per-trial",
        memory=True,
    ),
    Cause(
        rf"{_errno(28, 122)}|No space left|disk is full|inline_container\S* \. unexpected pos"
        r"|requested and \d+ written",
        "the disk is full, or a quota used up",
        "make room, for instance by the option --prune STUDY",
    ),
    Cause(
        rf"{_errno(1, 13, 30)}|readonly database",
        "this user may not write there",
        "give the right to, or run in another folder",
    ),
    Cause(
        rf"{_errno(5, 37, 38, 95, 116)}|support flock",
        "the folder is on a network's storage that failed, or that knows no locks",
        "mount it again, and with locks (NFS: without nolock)",
    ),
    Cause(_errno(24), "a process may not open so many files", "allow more: `ulimit -n 65536`, then the command"),
    Cause(
        r"ModuleNotFoundError|ImportError|undefined symbol|cannot open shared object",
        "the worker's Python lacks a package, or has another version of it",
        "install this program's requirements there",
    ),
    Cause(
        r"no kernel image|NVIDIA driver|CUDA driver|not compiled with CUDA|No CUDA GPUs|CUDA-capable device",
        "PyTorch, the driver and the GPU do not fit together",
        "install the PyTorch made for that driver (`nvidia-smi` says which), or leave the GPU: --gpus-per-trial 0",
    ),
    Cause(
        r"size mismatch for|key\(s\) in state_dict|must match the size of tensor|shapes cannot be multiplied"
        r"|to have \d+ channels|Target -?\d+ is out of bounds|device-side assert",
        "teacher, student and data do not fit together: other classes, channels or layers",
        "give a --teacher and --student for this data set",
    ),
    Cause(
        r"CUDA error|cuDNN error|CUBLAS_STATUS",
        "the GPU failed at its work",
        "look for its errors (`dmesg | grep Xid`), and use another one if there are any",
    ),
    Cause(
        rf"{_errno(2)}|No such file or directory|there is no such checkpoint|Parent directory \S+ does not exist",
        "a file of the data, the teacher or a stage has gone, or is not seen by the machine that ran the trial",
        "put it back, or remove the whole folder it was in: the same command makes a stage again",
    ),
    Cause(
        r"checkpoint file is corrupted|Error while deserializing|JSONDecodeError|EOFError",
        "a file of the data, the teacher or a stage is damaged",
        "remove the folder it is in: the same command makes a stage again",
    ),
    Cause(
        r"API request to|Max retries exceeded|Connection refused|database is locked|unable to open database",
        "MLflow's server or store does not answer",
        "start it again, or mend --tracking-uri",
    ),
    Cause(
        r"worker process has died",
        "the worker was killed, most often by the system since memory ran out (`dmesg` tells), or it crashed",
        "run fewer trials at a time, by a larger --cpus-per-trial",
    ),
    Cause(r"node has died|node failure", "a machine of the cluster was lost", "bring it back (`ray status`)"),
)
"""The first that fits is taken."""


def likely(said: str) -> Cause | None:
    """The likely cause of an error, by its text with its type; None if it is not known."""
    return next((cause for cause in CAUSES if re.search(cause.pattern, said)), None)


def ends_as(said: str) -> TrialStatus:
    """The word for how a trial ends with this error: `out_of_memory` or `failed`."""
    cause = likely(said)
    return TrialStatus.OUT_OF_MEMORY if cause and cause.memory else TrialStatus.FAILED


def kind(reason: str, said: str) -> str:
    """What failures that are alike have in common: their cause, or what they say but for its numbers."""
    cause = likely(said)
    return cause.what if cause else re.sub(r"\b[0-9a-f]{8,}\b|\d+", "#", reason)


def text(error: BaseException) -> str:
    """All that an error says, and those that led to it, each with its type."""
    return "".join(line for one in _chain(error) for line in format_exception_only(one))


def _chain(error: BaseException) -> Iterator[BaseException]:
    yield error
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before:
        yield from _chain(before)
