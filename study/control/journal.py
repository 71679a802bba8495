"""The journal of a study: what content cannot determine, written to disk before it takes effect."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kdq.errors import UserError
from kdq.store.files import flush
from kdq.store.stage import Json, canonical
from study.results.status import TrialStatus
from study.schedulers.priorities import Values
from study.schedulers.scheduler import Decision, Scheduler

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True, slots=True)
class Asked:
    """The searcher was asked. configuration: the identity of its proposal, None if none was left."""

    configuration: str | None


@dataclass(frozen=True, slots=True)
class Reported:
    """A trial was compared at a rung. values: (accuracy, total bits), None for a number that is not finite."""

    trial: str
    epoch: int
    values: tuple[tuple[float | None, float | None], ...]
    decision: Decision

    @classmethod
    def of(cls, trial: str, epoch: int, values: Values, decision: Decision) -> "Reported":
        shown = tuple((_finite(accuracy), _finite(bits)) for accuracy, bits in values)
        return cls(trial, epoch, shown, decision)


@dataclass(frozen=True, slots=True)
class Left:
    """A trial left the comparison: no rung waits for it any longer."""

    trial: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A trial ended. objectives: (score, total bits) of a completed trial."""

    trial: str
    status: TrialStatus
    reason: str
    objectives: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Retried:
    """A diverged trial is retried: its end is void."""

    trial: str


@dataclass(frozen=True, slots=True)
class Extended:
    """The study was extended. settings: its document before the extension."""

    settings: Mapping[str, Any]


Record = Asked | Reported | Left | Ended | Retried | Extended

RECORDS: dict[str, type[Record]] = {
    "ask": Asked,
    "epoch": Reported,
    "leave": Left,
    "end": Ended,
    "retry": Retried,
    "extend": Extended,
}
"""The `event` key of a line in the file -> its class; the other keys are the fields."""


class Journal:
    """An append-only file of JSON records, one per line. Only the study's driver, which holds its lock, appends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Record]:
        """Return all records. A last line that is incomplete has not taken effect, and is ignored.

        The file is not changed, so a driver may append meanwhile. Raises UserError with file and line if it is damaged.
        """
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        return [self._decode(number, line) for number, line in enumerate(whole.splitlines(), 1)]

    def _decode(self, number: int, line: bytes) -> Record:
        try:
            return decode(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{self.path}, line {number}: damaged, or written by another version of this program ({error}): choose "
                f"another --name; if the file is damaged, remove it, and the same command resumes from the finished "
                f"stages, but decides again which trials to stop"
            ) from None

    def append(self, record: Record) -> None:
        """Append a record, and return when it is on disk. Replaces a last line that a crash cut off."""
        line = canonical(encode(record)).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("a+b") as file:
            _drop_incomplete_line(file)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            flush(self.path.parent)


def _drop_incomplete_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


def encode(record: Record) -> dict[str, Json]:
    """Return a record as plain JSON."""
    kind = next(name for name, known in RECORDS.items() if isinstance(record, known))
    return {"event": kind, **asdict(record)}


def decode(line: bytes) -> Record:
    """Return the record that a line of JSON encodes. Raises ValueError with a one-line message for any other line."""
    from pydantic import ValidationError

    document = json.loads(line)
    kind = document.get("event") if isinstance(document, dict) else None
    if not isinstance(kind, str) or kind not in RECORDS:
        raise ValueError(f"event {kind!r}: must be one of {', '.join(RECORDS)}")
    try:
        return _adapter(kind).validate_json(line, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{kind}.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def _adapter(kind: str) -> "TypeAdapter[Record]":
    from pydantic import TypeAdapter

    return TypeAdapter(RECORDS[kind])


def replay(scheduler: Scheduler, records: Iterable[Reported | Left]) -> None:
    """Replay journal records on a new scheduler, to restore the state of the one that decided them.

    Raises UserError if a decision differs from the journal's: another scheduler was in force. Values that the
    scheduler cannot compare raise LookupError, ValueError or AssertionError.
    """
    for number, record in enumerate(records, 1):
        if isinstance(record, Left):
            scheduler.leave(record.trial)
            continue
        values = [(_number(accuracy), _number(bits)) for accuracy, bits in record.values]
        is_known = (record.trial, record.epoch) in scheduler.decisions
        if not is_known and all(math.isfinite(part) for pair in values for part in pair):  # others are not compared
            scheduler.priority.scores({record.trial: values})  # raises here, not later at a rung that waits for others
        decision = scheduler.report(record.trial, record.epoch, values)
        if decision is not record.decision:
            raise UserError(
                f"journal record {number}: the decision for trial {record.trial} after epoch {record.epoch} was "
                f"{record.decision.value!r}, but this scheduler decides {decision.value!r}; use the settings that the "
                f"study started with"
            )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
