"""A stage: a unit of work named by everything that determines its result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

Json = Any


def canonical(value: Json) -> str:
    """The one JSON text of a value: sorted keys, no spaces; NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Json) -> str:
    """SHA-256 of the canonical JSON of a value, as 64 hexadecimal digits."""
    return sha256(canonical(value).encode()).hexdigest()


@dataclass(frozen=True)
class Stage:
    """A unit of work named by everything that determines its result.

    kind: what it is (`data`, `teacher`, `student`, `point`); version: raised whenever the code that makes
    this kind changes its results; inputs: JSON values, parent stages by their ids.
    """

    kind: str
    version: int
    inputs: Mapping[str, Json]

    @cached_property
    def id(self) -> str:
        return digest({"kind": self.kind, "version": self.version, "inputs": dict(self.inputs)})
