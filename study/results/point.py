"""Points, the measurements of a study, and how they are read from text."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from kdq.bits import Bits, is_bits
from kdq.distill.methods import options
from kdq.errors import UserError
from study.results.objective import OBJECTIVES, TOP1, Objective
from study.units import exact

PARAMETERS = ("method", "alpha", "beta", "temperature", "mixup_alpha", "options", "student")

TEACHER = "teacher"
"""The method of a trial that quantizes the teacher itself, without distillation."""

PERCENTAGES = tuple(f"{part}_{name}" for name in ("top5", "balanced", "ece", "agreement") for part in ("val", "test"))
METRICS = tuple(
    f"{part}_{name}" for name in ("top5", "balanced", "nll", "ece", "agreement") for part in ("val", "test")
)
"""Metrics beyond top-1 accuracy, as `kdq.models.metrics` defines them; each may be missing."""


@dataclass(frozen=True, slots=True)
class Point:
    """One student at one bit allocation. The fields are the columns of a points table, in order.

    Accuracies are percent, `total_bits` counts everything stored, `bits` is 1 to 8, 32 for float, or the label of a
    mixed allocation. A parameter that the method does not have is None. `options` names the parameters without a column
    that are not at their defaults, as in `handover=1 label_smoothing=0.1`. The metrics after it are None where they
    were not measured: top5 and balanced accuracy, the expected calibration error and the agreement with the teacher are
    in percent, the negative log-likelihood in nats. `objective`, which is no column, names the one of `OBJECTIVES`
    that decides in the point's study. Raises ValueError for a value outside these.
    """

    trial_id: str
    method: str
    alpha: float | None
    beta: float | None
    temperature: float | None
    mixup_alpha: float | None
    seed: int
    student: str
    bits: Bits
    avg_bits: float
    total_bits: int
    packed_bytes: int
    val_top1: float
    test_top1: float
    on_front: bool = False
    options: str = ""
    val_top5: float | None = None
    test_top5: float | None = None
    val_balanced: float | None = None
    test_balanced: float | None = None
    val_nll: float | None = None
    test_nll: float | None = None
    val_ece: float | None = None
    test_ece: float | None = None
    val_agreement: float | None = None
    test_agreement: float | None = None
    objective: str = TOP1

    @property
    def decides(self) -> Objective:
        """The objective of its study."""
        return OBJECTIVES[self.objective]

    @property
    def value(self) -> float:
        """The objective's value."""
        return float(getattr(self, self.decides.column))

    @property
    def score(self) -> float:
        """The objective's score, see `Objective.score`: higher is better."""
        return self.decides.score(self.value)

    def __post_init__(self) -> None:
        for name in ("trial_id", "method", "student", "options"):
            if not getattr(self, name).isprintable():
                raise ValueError(f"{name} = {getattr(self, name)!r}: must be printable, on one line")
        if not is_bits(self.bits):
            raise ValueError(f"bits = {self.bits}: must be 1 to 8, 32 for float, or a label such as mixed-0123abcd")
        for name in ("avg_bits", "total_bits", "packed_bytes"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: must be positive and finite")
        for name in ("val_top1", "test_top1"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name} = {getattr(self, name)}: must be a percentage, 0 to 100")
        for name in PERCENTAGES:
            if not 0 <= (getattr(self, name) or 0) <= 100:
                raise ValueError(f"{name} = {getattr(self, name)}: must be a percentage, 0 to 100, or None")
        for name in ("alpha", "beta", "temperature", "mixup_alpha", "val_nll", "test_nll"):
            if not math.isfinite(getattr(self, name) or 0):
                raise ValueError(f"{name} = {getattr(self, name)}: must be finite, or None")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective = {self.objective}: must be {', '.join(OBJECTIVES)}")
        for name in (self.decides.column, self.decides.test_column):
            if getattr(self, name) is None:
                raise ValueError(f"{name} = None: must be measured, since it is the study's objective")

    def row(self) -> dict[str, Any]:
        """Return its columns by name."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS = tuple(field.name for field in fields(Point) if field.name != "objective")


def from_row(row: Mapping[str, object]) -> Point:
    """Return the point of a row: column name -> value, as text or a number.

    A parameter that is absent or empty is None. If `options` is absent, it is composed from the parameters among
    the other keys. The objective is `TOP1` if it is absent. Raises UserError naming the column that is missing or
    wrong.
    """
    values: dict[str, Any] = {}
    if row.get("options") is None:
        row = {**row, "options": _options(row)}
    row = {"objective": TOP1, **row}
    for field in fields(Point):
        parse = _PARSERS[field.type]
        try:
            values[field.name] = parse(row.get(field.name))
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{field.name} = {row.get(field.name)!r}: must be {parse.__doc__}") from None
    try:
        return Point(**values)
    except ValueError as error:
        raise UserError(str(error)) from None


def _options(row: Mapping[str, object]) -> str:
    return " ".join(f"{name}={exact(value)}" for name, value in options(str(row.get("method")), row).items())


def _text(value: Any) -> str:
    """text"""
    if not isinstance(value, str):
        raise TypeError
    return value


def _integer(value: Any) -> int:
    """a whole number"""
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


def _bits(value: Any) -> Bits:
    """a whole number, or the label of a mixed allocation"""
    return value if isinstance(value, str) and value.startswith("mixed-") else _integer(value)


def _float(value: Any) -> float:
    """a number"""
    return float(value)


def _optional(value: Any) -> float | None:
    """a number, or empty"""
    return None if value is None or value == "" else float(value)


def _boolean(value: Any) -> bool:
    """True or False"""
    if value not in (None, True, False, "True", "False"):
        raise ValueError
    return value is True or value == "True"


_PARSERS: dict[object, Callable[[Any], object]] = {
    str: _text,
    int: _integer,
    Bits: _bits,
    float: _float,
    float | None: _optional,
    bool: _boolean,
}
