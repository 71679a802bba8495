"""Atomic writes, content hashes and locks of files."""

import os
import tempfile
from hashlib import file_digest
from pathlib import Path

from filelock import FileLock


def publish(path: Path, content: bytes) -> None:
    """Write a file atomically: a reader sees the old content or the new, never a part.

    The parent folder is created if missing, and a link stays one. A failed write raises OSError and leaves the old
    file. What is no file, such as /dev/stdout or a pipe, is written to and not replaced.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = Path(os.path.realpath(path))  # Path.resolve refuses a link to itself
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
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def system_lock(path: Path, timeout: float = -1) -> FileLock:
    """Return a lock that the operating system releases when its holder dies, whatever the cause.

    timeout: seconds to wait for it, -1 without limit. On a file system without locks, acquiring it raises OSError;
    filelock's default would be a lock file that outlives its holder.
    """
    return FileLock(path, timeout=timeout, fallback_to_soft=False)


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
