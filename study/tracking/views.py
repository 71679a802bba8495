"""Ready-made views of a study in MLflow's UI: its trials, its points, its front.

A view is a tag of the experiment that the UI's own "share" button would write. MLflow does not document the format; it
was read from MLflow 3.17. A tag that the UI does not understand shows the plain run table instead.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from kdq.distill.methods import METHODS
from study.tracking import schema
from study.tracking.schema import RunKind, point_metric

TAG = "mlflow.sharedViewState."
COLOUR = "mlflow.runColor"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""The colours of Okabe and Ito (2008), which people with colour vision deficiencies can tell apart."""

State = dict[str, Any]
_SECTION = "kdq"


@dataclass(frozen=True, slots=True)
class View:
    """A view. key: of its tag and its link; state: of the UI's run page."""

    key: str
    name: str
    state: State

    @property
    def tag(self) -> tuple[str, str]:
        packed = base64.b64encode(zlib.compress(json.dumps(self.state).encode(), 9)).decode()
        shared = {"name": self.name, "createdAt": 0, "updatedAt": 0, "state": f"deflate;{packed}"}
        return TAG + self.key, json.dumps(shared)


def views(widths: Sequence[int], parameters: Sequence[str], common: Sequence[str]) -> tuple[View, ...]:
    """Return the views of a study.

    widths: those of its points, 32 for float; parameters: the names of what its trials differ in; common: those of them
    that every trial has (a parallel plot leaves out trials that lack one of its axes).
    """
    best = [point_metric("val_top1", bits) for bits in widths]
    of_trials = [*_columns("params", parameters), *_columns("tags", [schema.STATUS]), *_columns("metrics", best)]
    of_points = _columns("metrics", ["total_bits", "val_top1", "test_top1", "avg_bits"])
    of_points += _columns("params", ["bits", *parameters])
    parallel = _card("PARALLEL", selectedParams=list(common), selectedMetrics=best[1:3] or best, showAllRuns=True)
    return (
        _view("trials", RunKind.TRIAL, of_trials, [parallel], _column("metrics", best[-1])),
        _view("points", RunKind.POINT, of_points, [_SCATTER], _column("metrics", "total_bits"), is_ascending=True),
        _view(
            "front",
            RunKind.POINT,
            of_points,
            [_SCATTER],
            _column("metrics", "total_bits"),
            is_ascending=True,
            condition=f" AND tags.`{schema.ON_FRONT}` = 'true'",
        ),
    )


def link(server: str, experiment_id: str, view: str = "") -> str:
    """Return the address of an experiment's run page, on a view if one is named, rather than on MLflow's GenAI page."""
    shown = {"viewStateShareKey": view, "compareRunsMode": "CHART"} if view else {}
    query = urlencode({"workflowType": "machine_learning", **shown})
    return f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?{query}"


def method_colour(method: str) -> str:
    """Return the colour of a method's points, so that a scatter shows them by method."""
    known = list(METHODS)
    return COLOURS[known.index(method) % (len(COLOURS) - 1)] if method in known else COLOURS[-1]  # the teacher: black


def _view(
    name: str,
    kind: RunKind,
    columns: Sequence[str],
    cards: Sequence[State],
    order: str,
    *,
    is_ascending: bool = False,
    condition: str = "",
) -> View:
    state = {
        "searchFilter": f"tags.`{schema.KIND}` = '{kind}'{condition}",
        "orderByKey": order,
        "orderByAsc": is_ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(columns),
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [{**card, "uuid": f"{name}-{n}"} for n, card in enumerate(cards)],
        "compareRunSections": [_section(_SECTION, name), _section("others", "Model metrics", is_open=False)],
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    return View(f"kdq-{name}", name, state)


def _section(uuid: str, name: str, *, is_open: bool = True) -> State:
    """Return a section of charts, one column wide, whose axes fit on a laptop's screen.

    The UI adds a chart of every metric to `Model metrics`.
    """
    size = {"columns": 1, "cardHeight": 420} if is_open else {}
    return {"uuid": uuid, "name": name, "display": is_open, "isReordered": True, "deleted": False, **size}


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _columns(kind: str, names: Sequence[str]) -> list[str]:
    return [_column(kind, name) for name in names]


def _card(kind: str, **settings: Any) -> State:
    common = {"runsCountToCompare": 100, "metricSectionId": _SECTION, "deleted": False, "isGenerated": False}
    return {"type": kind, **common, **settings}


_SCATTER = _card("SCATTER", xaxis={"key": "total_bits", "type": "METRIC"}, yaxis={"key": "val_top1", "type": "METRIC"})


def tags(found: Sequence[View]) -> Mapping[str, str]:
    """Return the tags of views, for the experiment."""
    return dict(view.tag for view in found)
