"""What a running study shows: a live table in a terminal, a line an event where output is a pipe or a file."""

import time
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdq.bits import bits_name
from study.results.point import Point
from study.results.status import TrialStatus
from study.units import duration

SHOWN_TRIALS = 12  # rows of the live table: running trials first, then the latest that ended


@dataclass(slots=True)
class Row:
    """One trial as the table shows it."""

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


@dataclass(slots=True)
class Progress:
    """The state of a study and its picture. Every method takes what a trial reported."""

    study: str
    slots: int
    total: int
    console: Console = field(default_factory=Console)
    rows: dict[str, Row] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    best: str = ""
    best_val: float = -1.0
    live: Live | None = None

    def __enter__(self) -> "Progress":
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
        """A trial that will train so many epochs and measure so many points."""
        self.rows[trial_id] = Row(name, epochs=epochs, points_due=points)

    def start(self, trial_id: str) -> None:
        row = self.rows[trial_id]
        row.state, row.started = TrialStatus.RUNNING, time.monotonic()

    def epoch(self, trial_id: str, epoch: int, val_top1: float) -> None:
        row = self.rows[trial_id]
        if epoch <= row.epoch:
            return  # one that goes on after a pause, or in another worker, tells its past again
        row.epoch, row.val_top1 = epoch, val_top1
        # A log has a line for the first and last epoch and about four between: enough to see that it learns.
        if row.epoch in (1, row.epochs) or row.epoch % max(1, row.epochs // 5) == 0:
            self.say(f"{row.name}: epoch {row.epoch}/{row.epochs}, val {row.val_top1:.2f} %")

    def pause(self, trial_id: str, epoch: int) -> None:
        """It waits at a rung."""
        self.rows[trial_id].state = TrialStatus.PAUSED
        self.say(f"{self.rows[trial_id].name}: paused until the others are at epoch {epoch}")

    def point(self, trial_id: str, point: Point) -> None:
        row = self.rows[trial_id]
        row.points += 1
        text = f"{row.name}, {bits_name(point.bits)}: val {point.val_top1:.2f} %, {point.total_bits:,} bits"
        if point.val_top1 > self.best_val:
            self.best, self.best_val = text, point.val_top1

    def end(self, trial_id: str, status: TrialStatus, reason: str, log: str | None) -> None:
        row = self.rows[trial_id]
        row.state, row.reason, row.ended = status, reason, time.monotonic()
        done = sum(row.ended > 0 for row in self.rows.values())
        where = f" (log: {log})" if log else ""
        text = f"{row.name}: {status}{': ' + reason if reason else ''}{where}"
        self.say(f"[{done}/{self.total}] {text}; {self.time_left()}")
        if self.live and status not in (TrialStatus.COMPLETED, TrialStatus.STOPPED):
            self.note(text)

    def requeue(self, trial_id: str, text: str) -> None:
        """It waits for another try."""
        self.rows[trial_id].state = TrialStatus.WAITING
        self.tell(f"{self.rows[trial_id].name}: {text}")

    def tell(self, text: str) -> None:
        """A line of what went wrong, with or without a live table."""
        if self.live:
            self.note(text)
        self.say(text)

    def say(self, text: str) -> None:
        """A line where there is no live table."""
        if not self.live:
            self.note(f"{time.monotonic() - self.began:6.0f} s  {text}")

    def note(self, text: str) -> None:
        """A line that stays, with or without a live table."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def time_left(self) -> str:
        """Estimate from the mean time of the trials that ended here and how far the running ones are."""
        ended = [row.ended - row.started for row in self.rows.values() if row.ended and row.started]
        running = [row for row in self.rows.values() if row.started and not row.ended]
        left = self.total - sum(row.ended > 0 for row in self.rows.values())
        if left <= 0:
            return "all trials ended"
        if not ended:
            return "time left: known after the first trial"
        mean = sum(ended) / len(ended)
        now = time.monotonic()
        work = sum(max(mean - (now - row.started), 0.1 * mean) for row in running) + mean * (left - len(running))
        return f"about {duration(work / min(self.slots, left))} left"

    def render(self) -> Group:
        done = sum(row.ended > 0 for row in self.rows.values())
        spent = duration(time.monotonic() - self.began)
        head = f"{self.study}: {done}/{self.total} trials, {spent}, {self.time_left()}"
        best = f"best so far: {self.best}" if self.best else "best so far: no point yet"
        return Group(Text(head, style="bold"), self._table(), Text(best))

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "state", "epoch", "val top-1", "points"):
            table.add_column(name, no_wrap=True)
        table.add_column("reason")  # gets the room that is left; whole, with its log, it stands above the table
        rows = sorted(self.rows.values(), key=lambda r: (r.state is not TrialStatus.RUNNING, r.ended == 0, -r.ended))
        for row in rows[:SHOWN_TRIALS]:
            val = "" if row.val_top1 is None else f"{row.val_top1:.2f} %"
            points = f"{row.points}/{row.points_due}"
            table.add_row(row.name, row.state, f"{row.epoch}/{row.epochs}", val, points, _cut(row.reason))
        if len(rows) > SHOWN_TRIALS:
            table.add_row(f"… {len(rows) - SHOWN_TRIALS} more")
        return table


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
