"""The journal of a study: what content cannot determine, written down before it takes effect."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdq.errors import UserError
from kdq.store.files import flush
from kdq.store.stage import Json, canonical
from study.schedulers.priorities import Values
from study.schedulers.scheduler import Decision, Rungs

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


def report_record(trial: str, epoch: int, values: Values, decision: Decision) -> dict[str, Any]:
    """A report and its decision as plain JSON; a number that is not finite is null."""
    shown = [[number if math.isfinite(number) else None for number in pair] for pair in values]
    return {"trial": trial, "epoch": epoch, "values": shown, "decision": decision.value}


def leave_record(trial: str) -> dict[str, Any]:
    """A trial's leaving as plain JSON."""
    return {"trial": trial, "epoch": None, "values": None, "decision": None}


def replay(rule: Rungs, records: Iterable[Mapping[str, Any]]) -> None:
    """Bring a new rule to the state in which a journal of records left another.

    Raises UserError if it decides otherwise than the journal says: it is not the rule that was in force.
    """
    for number, record in enumerate(records, 1):
        trial, epoch = record["trial"], record["epoch"]
        if epoch is None:
            rule.leave(trial)
            continue
        values = [(_number(accuracy), _number(bits)) for accuracy, bits in record["values"]]
        decision = rule.report(trial, epoch, values)
        if decision.value != record["decision"]:
            raise UserError(
                f"journal record {number}: trial {trial} was told {record['decision']!r} after epoch {epoch}, where "
                f"this scheduler says {decision.value!r}; the settings must be those that the study began with"
            )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
