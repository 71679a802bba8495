"""Complete records of studies: the accuracy of every trial at every width after every epoch, none stopped early."""

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import fmean

from kdq.bits import BIT_WIDTHS, FLOAT_BITS
from kdq.errors import UserError
from study.schedulers.priorities import Values


@dataclass(frozen=True, slots=True)
class Row:
    """One trial at one width after one epoch. The fields are the columns of a record's CSV file, in order.

    student: the same for trials that differ only in bits, and so share it; epoch: from 1; bits: 1 to 8, or 32 for
    float; val_top1: in percent, NaN where the trial diverged; final_top1: of the trial's point at this width, which is
    quantized with all calibration images; configuration: the same for points that differ only in their seeds, empty,
    and `final_top1` NaN, for a point that the study's front does not compare. Raises ValueError for any other value.
    """

    trial_id: str
    student: str
    epoch: int
    bits: int
    total_bits: int
    val_top1: float
    final_top1: float = math.nan
    configuration: str = ""

    def __post_init__(self) -> None:
        for name in ("trial_id", "student"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty")
        if self.epoch < 1:
            raise ValueError(f"epoch = {self.epoch}: must be at least 1")
        if self.bits not in BIT_WIDTHS:
            raise ValueError(f"bits = {self.bits}: must be 1 to 8, or 32 for float")
        if self.total_bits < 1:
            raise ValueError(f"total_bits = {self.total_bits}: must be at least 1")
        if not (math.isnan(self.val_top1) or 0 <= self.val_top1 <= 100):
            raise ValueError(f"val_top1 = {self.val_top1}: must be a percentage, 0 to 100, or empty where it diverged")
        if not (0 <= self.final_top1 <= 100 if self.configuration else math.isnan(self.final_top1)):
            raise ValueError(f"final_top1 = {self.final_top1}: must be a percentage, or empty without a configuration")


COLUMNS = tuple(field.name for field in fields(Row))
WITHOUT_POINTS = COLUMNS[:-2]  # of files that earlier versions wrote


@dataclass(frozen=True, slots=True)
class Target:
    """A configuration that the front compares: mean accuracy in percent and mean total bits over its seeds.

    trials: for each seed those that measure its point, any of which is enough.
    """

    trials: tuple[frozenset[str], ...]
    accuracy: float
    total_bits: float

    def is_found_by(self, completed: Collection[str]) -> bool:
        """Return whether the completed trials have measured it with every seed."""
        return not any(each.isdisjoint(completed) for each in self.trials)


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """curves: trial -> its values after each epoch, float first; students: trial -> its student; epochs: of a training;
    configurations: what the study's front compares, empty if the record has no points.

    The curve of a diverged trial is shorter, and ends with NaN.
    """

    curves: Mapping[str, tuple[Values, ...]]
    students: Mapping[str, str]
    epochs: int
    configurations: tuple[Target, ...] = ()

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the study is to find: its configurations, or without them each trial's values after its last epoch."""
        return self.configurations or tuple(
            Target((frozenset([trial]),), *pair) for trial, values in self.points.items() for pair in values
        )

    @property
    def points(self) -> dict[str, Values]:
        """The values of each completed trial after its last epoch."""
        return {
            trial: curve[-1]
            for trial, curve in self.curves.items()
            if len(curve) == self.epochs and all(math.isfinite(accuracy) for accuracy, _ in curve[-1])
        }


def from_rows(rows: Iterable[Row]) -> StudyRecord:
    """Return the record of rows in any order. Raises UserError if a row is duplicated or missing."""
    rows = list(rows)
    trials: dict[str, dict[int, dict[int, Row]]] = {}
    students: dict[str, str] = {}
    for row in rows:
        if students.setdefault(row.trial_id, row.student) != row.student:
            raise UserError(f"trial {row.trial_id}: has two students, {students[row.trial_id]} and {row.student}")
        epoch = trials.setdefault(row.trial_id, {}).setdefault(row.epoch, {})
        if row.bits in epoch:
            raise UserError(f"trial {row.trial_id}, epoch {row.epoch}, {row.bits} bits: duplicated row; remove one")
        epoch[row.bits] = row
    if not trials:
        raise UserError("the record is empty: it needs one row for each trial, epoch and width")
    epochs = max(max(trial) for trial in trials.values())
    return StudyRecord(
        {trial: _curve(trial, trials[trial], epochs) for trial in sorted(trials)},
        dict(sorted(students.items())),
        epochs,
        _configurations(rows),
    )


def _configurations(rows: Sequence[Row]) -> tuple[Target, ...]:
    """Return the configurations of a record's points. Raises UserError if a point differs between epochs."""
    points: dict[tuple[str, int], Row] = {}
    for row in rows:
        point = points.setdefault((row.trial_id, row.bits), row)
        if (row.configuration, repr(row.final_top1)) != (point.configuration, repr(point.final_top1)):
            raise UserError(
                f"trial {row.trial_id}, {row.bits} bits: epochs {point.epoch} and {row.epoch} have different points"
            )
    groups: dict[str, dict[str, list[Row]]] = {}
    for point in points.values():
        if point.configuration:
            # Trials that share a student share its point.
            groups.setdefault(point.configuration, {}).setdefault(point.student, []).append(point)
    return tuple(
        Target(
            tuple(frozenset(row.trial_id for row in same) for _, same in sorted(seeds.items())),
            fmean(same[0].final_top1 for same in seeds.values()),
            fmean(same[0].total_bits for same in seeds.values()),
        )
        for _, seeds in sorted(groups.items())
    )


def _curve(trial: str, rows_by_epoch: Mapping[int, Mapping[int, Row]], epochs: int) -> tuple[Values, ...]:
    widths = sorted(rows_by_epoch[min(rows_by_epoch)], key=lambda bits: (bits != FLOAT_BITS, bits))
    if widths[0] != FLOAT_BITS:
        raise UserError(f"trial {trial}: has no float accuracy (bits {FLOAT_BITS})")
    curve: list[Values] = []
    for epoch in range(1, epochs + 1):
        rows = rows_by_epoch.get(epoch, {})
        if set(rows) != set(widths):
            names, found = _joined(widths), _joined(rows) or "none"
            raise UserError(
                f"trial {trial}, epoch {epoch}: must have accuracies at {names} bits like its first epoch, but has "
                f"{found}; a replay needs every trial run to its last epoch ({epochs}), unless it diverged"
            )
        curve.append(tuple((rows[bits].val_top1, float(rows[bits].total_bits)) for bits in widths))
        if any(math.isnan(rows[bits].val_top1) for bits in widths):
            break
    if len(curve) < len(rows_by_epoch):
        raise UserError(f"trial {trial}: has rows after epoch {len(curve)}, where it diverged; remove them")
    return tuple(curve)


def _joined(widths: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(widths)))


def from_csv(text: str) -> list[Row]:
    """Return the rows of a CSV text. Raises UserError with the line of an error."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = tuple(reader.fieldnames or ())
    if header not in (COLUMNS, WITHOUT_POINTS):
        raise UserError(f"header {reader.fieldnames}: a record has the columns {', '.join(COLUMNS)}")
    rows = []
    for cells in reader:
        try:
            rows.append(_row(cells, len(header)))
        except ValueError as error:
            raise UserError(f"line {reader.line_num}: {error}") from None
    return rows


def _row(cells: Mapping[str, str], columns: int) -> Row:
    if None in cells or None in cells.values():
        raise ValueError(f"must have {columns} cells")
    epoch, bits, total_bits = (int(cells[name]) for name in ("epoch", "bits", "total_bits"))
    accuracy, final = (float(cells.get(name) or math.nan) for name in ("val_top1", "final_top1"))
    configuration = cells.get("configuration", "")
    return Row(cells["trial_id"], cells["student"], epoch, bits, total_bits, accuracy, final, configuration)
