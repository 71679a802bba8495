"""A stage: a unit of work identified by everything that determines its result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

Json = Any


def canonical(value: Json) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Json) -> str:
    """Return the SHA-256 of the canonical JSON of a value as 64 hexadecimal digits."""
    return sha256(canonical(value).encode()).hexdigest()


@dataclass(frozen=True)
class Stage:
    """A unit of work identified by everything that determines its result.

    kind: `data`, `teacher`, `student`, `point`, …; version: incremented whenever a change of code changes the results
    of this kind; inputs: JSON values, parent stages by their ids.
    """

    kind: str
    version: int
    inputs: Mapping[str, Json]

    @cached_property
    def id(self) -> str:
        return digest({"kind": self.kind, "version": self.version, "inputs": dict(self.inputs)})
