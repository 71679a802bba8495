"""The progress of a running study: a live table in a terminal, one line per event in a pipe or a file."""

import os
import sys
import time
from dataclasses import dataclass, field
from math import inf
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdq.bits import bits_name
from study.results.front import SeedGroup, best
from study.results.objective import TOP1
from study.results.point import Point
from study.results.status import TrialStatus
from study.units import duration, exact

SHORTEST_NAME = 16  # characters of a trial's name that a narrow terminal shows at least
OTHER_COLUMNS = 52  # characters for state, epoch, accuracy, points and the beginning of a reason
WORKERS_START = 8.0  # seconds from Ray's start to the first trial's, about
SHOWN_TRIALS = 12  # rows of the live table: running trials first, then the latest that ended


@dataclass(slots=True)
class Row:
    """A trial as the table shows it.

    training, measuring: the expected seconds of its training and of its points; busy: the seconds that it ran here, up
    to its last event; trained: epochs that were trained here.
    """

    name: str
    state: TrialStatus = TrialStatus.WAITING
    epoch: int = 0
    epochs: int = 0
    val_top1: float | None = None
    points: int = 0
    points_due: int = 0
    started: float = 0.0
    ended: float = 0.0
    reason: str = ""
    training: float = 0.0
    measuring: float = 0.0
    busy: float = 0.0
    seen: float = 0.0
    trained: int = 0

    @property
    def done(self) -> float:
        """The expected seconds of what it has done here, without epochs that were reused."""
        epochs = self.training * self.trained / max(self.epochs, 1)
        return epochs + self.measuring * self.points / max(self.points_due, 1)

    @property
    def undone(self) -> float:
        """The expected seconds of what it has not done, neither here nor before."""
        if self.state is TrialStatus.COMPLETED:
            return 0.0
        epochs = self.training * (1 - self.epoch / max(self.epochs, 1))
        return epochs + self.measuring * (1 - self.points / max(self.points_due, 1))

    def look(self) -> None:
        """Count the time since it was last looked at, if it ran meanwhile."""
        now = time.monotonic()
        self.busy += now - self.seen if self.state is TrialStatus.RUNNING else 0.0
        self.seen = now


@dataclass(slots=True)
class LiveTable:
    """The progress of a study's trials, updated by their events. expected: the seconds of a trial that is not in it."""

    study: str
    slots: int
    total: int
    console: Console = field(default_factory=lambda: Console(force_terminal=_is_live()))
    rows: dict[str, Row] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    measured: list[Point] = field(default_factory=list)
    expected: float = 0.0
    _best_of: tuple[int, str] = (0, "no point yet")
    live: Live | None = None

    def __enter__(self) -> "LiveTable":
        if self.console.is_terminal:
            self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def add(self, trial_id: str, name: str, epochs: int, points: int) -> None:
        """Add a trial. epochs: the length of its training; points: the number it will measure."""
        self.rows[trial_id] = Row(name, epochs=epochs, points_due=points)

    def expect(self, trial_id: str, training: float, measuring: float) -> None:
        """Set the expected seconds of a trial's training and of its points."""
        self.rows[trial_id].training, self.rows[trial_id].measuring = training, measuring

    def start(self, trial_id: str) -> None:
        row = self.rows[trial_id]
        row.look()
        row.state, row.started = TrialStatus.RUNNING, time.monotonic()

    def epoch(self, trial_id: str, epoch: int, val_top1: float, *, is_reused: bool = False) -> None:
        """Show an epoch; is_reused: it was trained earlier, by this or another trial."""
        row = self.rows[trial_id]
        if epoch <= row.epoch:
            return  # a trial that resumes reports its earlier epochs again
        row.look()
        row.epoch, row.val_top1 = epoch, val_top1
        row.trained += not is_reused
        # A log has the first and last epoch and about four between: enough to see that the student learns.
        if row.epoch in (1, row.epochs) or row.epoch % max(1, row.epochs // 5) == 0:
            reused = " (reused)" if is_reused else ""
            self.log(f"{row.name}: epoch {row.epoch}/{row.epochs}, val {row.val_top1:.2f} %{reused}")

    def pause(self, trial_id: str, epoch: int) -> None:
        """Show that a trial waits at a rung."""
        self.rows[trial_id].look()
        self.rows[trial_id].state = TrialStatus.PAUSED
        self.log(f"{self.rows[trial_id].name}: paused until the other trials reach epoch {epoch}")

    def point(self, trial_id: str, point: Point) -> None:
        self.rows[trial_id].points += 1
        self.rows[trial_id].look()
        self.measured.append(point)

    def end(self, trial_id: str, status: TrialStatus, reason: str, log: str | None) -> None:
        row = self.rows[trial_id]
        row.look()
        row.state, row.reason, row.ended = status, reason, time.monotonic()
        where = f" (log: {log})" if log else ""
        text = f"{row.name}: {status}{': ' + reason if reason else ''}{where}"
        if not self.live:
            done = sum(row.ended > 0 for row in self.rows.values())
            self.log(f"[{done}/{self.total}] {text}; {self.time_left()}")
        elif status not in (TrialStatus.COMPLETED, TrialStatus.STOPPED):
            self.print(text)

    def requeue(self, trial_id: str, text: str) -> None:
        """Show that a trial waits to be retried. text: the reason."""
        self.rows[trial_id].state = TrialStatus.WAITING
        self.warn(f"{self.rows[trial_id].name}: {text}")

    def warn(self, text: str) -> None:
        """Print what went wrong, with or without a live table."""
        if self.live:
            self.print(text)
        self.log(text)

    def log(self, text: str) -> None:
        """Print an event with the elapsed time, unless there is a live table."""
        if not self.live:
            self.print(f"{time.monotonic() - self.began:6.0f} s  {text}")

    def print(self, text: str) -> None:
        """Print a line; a live table stays below it."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def time_left(self) -> str:
        """Estimate the time left from the expected costs of what is left, corrected by how long trials here took.

        At first one expected trial counts as much as what was measured. Without expected costs, such as on a GPU,
        trials count alike, and nothing is known before the first has ended.
        """
        waiting = self.total - sum(row.ended > 0 for row in self.rows.values())
        if waiting <= 0:
            return "all trials ended"
        started = [row for row in self.rows.values() if row.started]
        ended = [row for row in started if row.ended]
        if self.expected:
            left = sum(row.undone for row in self.rows.values() if not row.ended)
            left += self.expected * max(0, self.total - len(self.rows))
            busy, done = sum(row.busy for row in started), sum(row.done for row in started)
            pace = (self.expected + busy) / (self.expected + done)
            # A scheduler stops the others as early as those before them.
            used = self.expected + sum(row.done for row in ended)
            left *= used / (used + sum(row.undone for row in ended))
        elif ended:
            mean, now = sum(row.busy for row in ended) / len(ended), time.monotonic()
            running = [max(mean - (now - row.started), 0.1 * mean) for row in started if not row.ended]
            pace, left = 1.0, sum(running) + mean * (waiting - len(running))
        else:
            return "time left: known after the first trial"
        starting = 0.0 if started else WORKERS_START
        return f"about {duration(left * pace / min(self.slots, waiting) + starting)} left"

    def render(self) -> Group:
        done = sum(row.ended > 0 for row in self.rows.values())
        spent = duration(time.monotonic() - self.began)
        head = f"{self.study}: {done}/{self.total} trials, {spent}, {self.time_left()}"
        return Group(Text(head, style="bold"), self._table(), Text(f"best so far: {self._best()}"))

    def _best(self) -> str:
        """The best configuration, by the rule of `analysis best`."""
        if len(self.measured) != self._best_of[0]:
            self._best_of = len(self.measured), _described(best(self.measured, inf))
        return self._best_of[1]

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        # A long name is cut in its middle: it begins with the method, and ends with what tells it from others.
        room = max(SHORTEST_NAME, self.console.width - OTHER_COLUMNS)
        table.add_column("trial", no_wrap=True)
        for name in ("state", "epoch", "val top-1", "points"):
            table.add_column(name, no_wrap=True)
        table.add_column("reason")  # truncated to the remaining width; printed in full, with its log, above the table
        rows = sorted(self.rows.values(), key=lambda r: (r.state is not TrialStatus.RUNNING, r.ended == 0, -r.ended))
        for row in rows[:SHOWN_TRIALS]:
            val = "" if row.val_top1 is None else f"{row.val_top1:.2f} %"
            points = f"{row.points}/{row.points_due}"
            table.add_row(
                _shortened(row.name, room), row.state, f"{row.epoch}/{row.epochs}", val, points, _cut(row.reason)
            )
        if len(rows) > SHOWN_TRIALS:
            table.add_row(f"… {len(rows) - SHOWN_TRIALS} more")
        return table


def _described(group: SeedGroup) -> str:
    values = {key: value for key, value in group.parameters.items() if not isinstance(value, str)}
    name = " ".join([str(group.parameters["method"]), *(f"{key}={exact(value)}" for key, value in values.items())])
    seeds = f", mean of {group.n} seeds" if group.n > 1 else ""
    size, metric = group.mean("total_bits"), "" if group.decides.name == TOP1 else f" {group.decides.name}"
    return f"{name}, {bits_name(group.bits)}: val{metric} {group.decides.show(group.value)}, {size:,.0f} bits{seeds}"


def _is_live() -> bool:
    """Whether standard output can show a table that changes: FORCE_COLOR does not make a file a terminal."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _shortened(name: str, width: int) -> str:
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[head + 1 - width :]}"


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
