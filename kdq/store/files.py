"""Files that appear whole or not at all."""

import os
import tempfile
from hashlib import file_digest
from pathlib import Path

from filelock import FileLock


def publish(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader sees the old content or the new one, never a part.

    The folder is made if it is not there. A failed write raises OSError and leaves the old file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def content_hash(file: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def system_lock(path: Path, timeout: float = -1) -> FileLock:
    """A lock that the system frees when its holder dies, whatever kills it; waited for so many seconds, -1 for ever.

    On a file system that knows no locks it raises OSError, where filelock would take up one that outlives its holder.
    """
    return FileLock(path, timeout=timeout, fallback_to_soft=False)


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
