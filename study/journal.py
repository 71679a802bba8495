"""The journal of a study: what content cannot determine, written down before it takes effect."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from kdq.errors import UserError
from kdq.stages import Json, canonical, flush

Record = Mapping[str, Json]


class Journal:
    """Records as JSON, one a line, in an append-only file. Only the study's driver, who holds its lock, opens it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Record]:
        """All records. A last line that was cut off by a crash never took effect, and is removed from the file.

        Raises UserError for a damaged file.
        """
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        try:
            return [dict(json.loads(line)) for line in whole.splitlines()]
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.path}: damaged ({error}): remove it, and the same command goes on from the finished stages, "
                f"but decides anew which trials to stop; or choose another --name"
            ) from None

    def append(self, record: Record) -> None:
        """Write a record; it is on the disk when this returns."""
        line = canonical(dict(record)).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            flush(self.path.parent)
