"""The front on a study's page: figure, tables, description, curves, and which points are on it."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric

from study.results.figure import draw_front
from study.results.front import comparable, front_hypervolume, with_front
from study.results.objective import OBJECTIVES, TOP1
from study.results.point import Point
from study.results.tables import front_table, to_csv
from study.tracking import schema
from study.tracking.run_table import STUDY, RunTable
from study.tracking.schema import RunKind, point_metric

FIGURE_SECONDS = 10.0  # the front is redrawn at most this often while trials finish
SHARE = 0.02  # of the driver's time at most, since reporting trials wait meanwhile
FIRST = ("bits", "total_bits", "val_top1", "test_top1")
"""The columns with which the table begins that the UI shows."""


class FrontLog:
    """Logs the front of a study while trials finish.

    describe: the description of the study's run, given its points; teacher: its validation accuracy, once it is known.
    """

    def __init__(
        self, client: MlflowClient, table: RunTable, study: str, describe: Callable[[Sequence[Point]], dict[str, str]]
    ) -> None:
        self.client, self.table, self.study, self.describe = client, table, study, describe
        self.teacher: float | None = None
        self.is_logged = False  # no point is new in MLflow since
        self._logged: int | None = None  # points of the front logged last by this command
        self._draw_next = self._count_next = 0.0
        self._last_step: int | None = None

    def log(self, points: Sequence[Point], *, always: bool) -> None:
        """Log the front, if it has points that were not in it before; unless `always`, at most every FIGURE_SECONDS."""
        began = time.monotonic()
        if self._is_current(points) or not points or (not always and began < self._draw_next):
            return
        marked = with_front(points)
        run_id = self.table.id_of(STUDY)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "points.csv").write_text(to_csv(marked))
            front_table(marked).to_csv(Path(folder) / "front.csv", index=False)
            decides = marked[0].decides
            title = f"{self.study}: {decides.title} against total bits"
            draw_front(marked, Path(folder) / "front.png", title, self.teacher if decides.name == TOP1 else None)
            self.client.log_artifacts(run_id, folder)
        self.client.log_dict(run_id, _mlflow_table(front_table(marked)), "front.json")
        self._mark(marked)
        self.table.tag(STUDY, self.describe(marked))
        self.is_logged, self._logged = True, len(points)
        now = time.monotonic()
        self._draw_next = now + max(FIGURE_SECONDS, (now - began) / SHARE)

    def count(self, points: Sequence[Point], finished: int, *, always: bool) -> None:
        """Log the curves over finished trials: hypervolume, size of the front, the best accuracy at each width.

        A step is logged once. At the end (`always`), values that an extension or a retry changed are logged again at
        the last step, so that the run's latest values are those of its points, even with fewer trials than before.
        """
        began = time.monotonic()
        if self._is_current(points) or not points or (not always and began < self._count_next):
            return
        run_id = self.table.id_of(STUDY)
        if self._last_step is None:
            logged = self.client.get_metric_history(run_id, schema.FRONT_SIZE)
            self._last_step = max((metric.step for metric in logged), default=-1)
        is_next = finished > self._last_step
        if not is_next and not always:
            return
        values = _progress(points)
        if not is_next:
            before = self.client.get_run(run_id).data.metrics
            values = {name: value for name, value in values.items() if before.get(name) != value}
        step, now = max(finished, self._last_step), int(time.time() * 1000)
        self.client.log_batch(run_id, [Metric(name, value, now, step) for name, value in values.items()])
        self._last_step = step
        ended = time.monotonic()
        self._count_next = ended + (ended - began) / SHARE

    def _is_current(self, points: Sequence[Point]) -> bool:
        """Return whether the front of these points is logged: of points that were in MLflow before, some may be
        missing in what was logged while the others were found."""
        return self.is_logged and self._logged in (None, len(points))

    def _mark(self, marked: Sequence[Point]) -> None:
        """Set the tag of the points that came to the front or left it; those of former trials are not on it."""
        former = {key: False for key, run in self.table.runs.items() if run.kind == RunKind.FORMER_POINT}
        current = {f"{point.trial_id}/{point.bits}": point.on_front for point in marked}
        for key, is_on in (former | current).items():
            value = str(is_on).lower()
            if key in self.table.runs and self.table.runs[key].tags.get(schema.ON_FRONT, "false") != value:
                self.table.tag(key, {schema.ON_FRONT: value})


def _progress(points: Sequence[Point]) -> dict[str, float]:
    """Return the values of the curves: the best means of the configurations compared, of accuracy and the objective."""
    groups = comparable(with_front(points))
    best: dict[str, float] = {}
    widths = [(group, group.bits) for group in groups if isinstance(group.bits, int)]
    for group, bits in widths:
        for metric in {OBJECTIVES[TOP1], group.decides}:
            name, value = f"best_{point_metric(metric.column, bits)}", group.mean(metric.column)
            best[name] = max(best.get(name, value), value, key=metric.score)
    size = sum(group.on_front for group in groups)
    return {schema.HYPERVOLUME: front_hypervolume(points), schema.FRONT_SIZE: float(size), **best}


def _mlflow_table(table: Any) -> dict[str, Any]:
    """Return a data frame in the JSON layout that MLflow's UI shows as a table, what matters most on the left."""
    ordered = table[[*FIRST, *(name for name in table if name not in FIRST)]]
    plain = ordered.astype(object).where(ordered.notna(), None)
    return dict(plain.to_dict(orient="split", index=False))
