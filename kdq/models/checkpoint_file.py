"""Checkpoint files as they were saved: recognised by their first bytes, their checksums verified, never run.

A torch checkpoint is read with weights_only=True: one that holds code is refused, except for arguments and numbers that
training scripts save beside the weights (BESIDE), which are passed over. The zip format (torch 1.6 and later) has a
CRC-32 of every record, a safetensors file of our own a SHA-256 (`sealed`), and both are verified. The format before it
has no checksum; one whose name ends in the first digits of its SHA-256, as published for `torch.hub`, is compared with
those.
"""

import re
import warnings
from io import BytesIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO
from zipfile import ZipFile

import torch
from safetensors import safe_open

from kdq.errors import UserError, first_line, printable
from kdq.models.sealed import find_seal, is_intact
from kdq.store.files import content_hash

AGAIN = "copy or download it again"
ALONE = 'save the weights alone, where the model was trained: torch.save(model.state_dict(), "weights.pt")'
FOREIGN = (
    (rb"\Z", "it is empty", AGAIN),
    (rb"version https://git-lfs", "it is a git-LFS pointer to the file", "fetch the file itself: git lfs pull"),
    (
        rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|\?xml)",
        "it is a web page",
        "download the file itself, not the page about it",
    ),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|\x28\xb5\x2f\xfd|Rar!",
        "it is compressed",
        "unpack it, and name the file that was in it",
    ),
    (rb"\x00{64}", "it begins with zeros, as an incomplete download does", AGAIN),
    (rb"[\t\n\r -~]+\Z", "it is text", "download the file itself, not a page or a message about it"),
    (rb"\x89HDF", "it is an HDF5 file, as Keras saves them", "save the weights as safetensors"),
    (rb"\x93NUMPY", "it is a NumPy array", "save the weights as safetensors"),
)
"""Files that are no checkpoints: the pattern of their first bytes, what they are, the remedy."""

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
LARGEST_HEADER = 100_000_000  # of a safetensors file, by its format
PUBLISHED = re.compile(r".*-(?=\d*[a-f])([0-9a-f]{8,64})")
BESIDE = (
    "argparse.Namespace", "numpy.dtype", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar",
)  # fmt: skip
"""What training scripts save beside the weights: their arguments, and numbers of NumPy."""
CLASS = re.compile(r"GLOBAL (\S+)|got <class '([^']+)'>|function <?(?:class |function |built-in function )?'?([\w.]+)")


class _Unread:
    """Stands for an object of BESIDE; no code of that object's class runs."""

    def __init__(self, *given: object) -> None:
        """Take what the object was made of."""

    def __setstate__(self, state: object) -> None:
        """Take its attributes."""


def read(path: Path) -> object:
    """Return the content of a checkpoint: mappings, lists, numbers, text and tensors on the CPU, no object of BESIDE.

    Raises UserError for a file that is missing, damaged or of another kind, or that holds code.
    """
    head = check_kind(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of torch about its own formats
            return _read_safetensors(path) if _is_safetensors(path, head) else _read_torch(path, head)
    except UserError:
        raise
    except Exception as error:  # torch's reader raises almost any exception for damaged bytes
        raise _refusal(path, error) from error


def check_kind(path: Path) -> bytes:
    """Return the first bytes of a file. Raises UserError if it is missing, or one of FOREIGN."""
    head = _head(path)
    for pattern, what, remedy in FOREIGN:
        if re.match(pattern, head):
            raise _invalid(path, what, remedy)
    return head


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty for every other file."""
    if not _is_safetensors(path, check_kind(path)):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:
        raise _refusal(path, error) from error


def identity(path: Path) -> str:
    """Return the SHA-256 of the file. Raises UserError if it is missing or cannot be read."""
    _head(path)
    return content_hash(path)


def _head(path: Path) -> bytes:
    """Return the first bytes of the file. Raises UserError if it is missing, unreadable or no regular file."""
    try:
        mode = path.stat().st_mode  # is_file swallows errors, in some versions of Python
        if S_ISDIR(mode):
            raise UserError(f"{path}: a folder; give ARCH:PATH of a checkpoint file, or transformers:FOLDER")
        if not S_ISREG(mode):
            raise UserError(f"{path}: no regular file; give ARCH:PATH of a checkpoint file")
        with path.open("rb") as file:
            return file.read(512)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: there is no such checkpoint; give ARCH:PATH of an existing file") from error
    except OSError as error:  # no permission, a name that is too long
        raise UserError(f"{path}: cannot be read ({error.strerror}); give ARCH:PATH of a readable file") from error


def _is_safetensors(path: Path, head: bytes) -> bool:
    """Return whether a file is safetensors by its first bytes; if they are those of no format, by its name."""
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LARGEST_HEADER:
        return True
    return path.suffix == ".safetensors" and not head.startswith((ZIP, PICKLE))


def _read_safetensors(path: Path) -> object:
    with safe_open(path, framework="pt") as file:
        seal = find_seal(file.metadata() or {})
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if seal and not is_intact(*seal, tensors):
        raise _invalid(path, "the checkpoint file is corrupted: its SHA-256 is not the one stored in it", AGAIN)
    return tensors


def _read_torch(path: Path, head: bytes) -> object:
    if head.startswith(ZIP):
        return _load(_verified(path))
    if (name := PUBLISHED.fullmatch(path.stem)) and not (found := content_hash(path)).startswith(name[1]):
        raise _invalid(
            path,
            f"its SHA-256 begins with {found[: len(name[1])]}, not with {name[1]} as its name says",
            f"{AGAIN}, or rename it if these digits are no checksum",
        )
    with path.open("rb") as file:  # of a path, torch takes the format from the name
        return _load(file)


def _load(file: IO[bytes]) -> object:
    with torch.serialization.safe_globals([(_Unread, name) for name in BESIDE]):
        return torch.load(file, map_location="cpu", weights_only=True)


def _verified(path: Path) -> BytesIO:
    """Return torch's archive with its records written anew, each compared with its CRC-32 when it was read.

    torch's own reader ignores the CRC, and reads a record of whose header a bit is wrong where zipfile does not.
    """
    copy = BytesIO()
    with ZipFile(path) as archive, ZipFile(copy, "w") as verified:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
        if "constants.pkl" in names:
            remedy = f'save its weights: torch.save(torch.jit.load("{path.name}").state_dict(), "weights.pt")'
            raise _invalid(path, "it is a TorchScript archive, which holds code", remedy)
        if "data.pkl" not in names:
            raise _invalid(path, "it is a zip archive that torch.save did not write", ALONE)
        for record in archive.infolist():
            verified.writestr(record.filename, archive.read(record))
    copy.seek(0)
    return copy


def _refusal(path: Path, error: Exception) -> UserError:
    cause = error.__context__ or error  # torch wraps what its unpickler says in advice to run the code
    if found := CLASS.search(str(cause)):
        name = next(name for name in found.groups() if name)
        reason = f"it holds an object of {printable(name)}, which is refused since reading it could run code"
        return _invalid(path, reason, ALONE)
    if "weights_only" in str(cause):  # torch advises to run the file's code
        return _invalid(path, "it is of an old format, which cannot be read without running code", ALONE)
    what = f"{type(cause).__name__}: {printable(first_line(cause))}"
    return _invalid(path, f"truncated, damaged or of another kind: {what}", AGAIN)


def _invalid(path: Path, reason: str, remedy: str) -> UserError:
    return UserError(f"{path}: not a valid checkpoint of plain tensors ({reason}); {remedy}")
