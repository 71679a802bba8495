"""Files that appear whole or not at all."""

import os
import tempfile
from pathlib import Path


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
