"""The views of MLflow's UI: their shape, which MLflow does not document, and their links."""

import base64
import json
import zlib
from pathlib import Path

import mlflow
import pytest

from study.tracking.views import TAG, View, link, method_colour, tags, views

FOUND = views((32, 2, 8), ("seed", "method", "alpha"), ("seed", "method"))


def state(view: View) -> dict[str, object]:
    _, text = view.tag
    shared = json.loads(text)
    assert shared["name"] == view.name
    kind, _, packed = shared["state"].partition(";")
    assert kind == "deflate"
    found: dict[str, object] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


@pytest.mark.parametrize("view", FOUND, ids=[view.name for view in FOUND])
def test_a_view_has_what_the_ui_reads(view: View) -> None:
    """The names are those of MLflow's own page, of which a release that renames one fails here."""
    found = state(view)
    assert found == view.state
    scripts = Path(mlflow.__file__).parent.glob("server/js/build/static/js/*.js")
    page = "".join(path.read_text(errors="ignore") for path in scripts)
    for name in (*found, TAG, "deflate;", "viewStateShareKey", "compareRunsMode", "selectedMetrics", "cardHeight"):
        assert name in page
    assert len(dict([view.tag])[TAG + view.key]) < 5000  # characters, MLflow's limit for tags of experiments


def test_trials_are_seen_without_points_and_the_front_alone() -> None:
    conditions = {view.name: view.state["searchFilter"] for view in FOUND}
    assert conditions["trials"] == "tags.`kdq.kind` = 'trial'"
    assert conditions["points"] == "tags.`kdq.kind` = 'point'"
    assert conditions["front"] == "tags.`kdq.kind` = 'point' AND tags.`kdq.on_front` = 'true'"


def test_a_parallel_plot_has_only_what_every_trial_has() -> None:
    (card, *_) = FOUND[0].state["compareRunCharts"]
    assert (card["type"], card["selectedParams"]) == ("PARALLEL", ["seed", "method"])
    assert card["selectedMetrics"] == ["val_top1_2bit", "val_top1_8bit"]


def test_links_open_on_runs() -> None:
    assert link("http://h:1/", "3") == "http://h:1/#/experiments/3/runs?workflowType=machine_learning"
    assert link("http://h:1", "3", "kdq-front").endswith("&viewStateShareKey=kdq-front&compareRunsMode=CHART")
    assert [key.removeprefix(TAG) for key in tags(FOUND)] == ["kdq-trials", "kdq-points", "kdq-front"]


def test_each_method_has_a_colour_of_its_own() -> None:
    assert len({method_colour(method) for method in ("ce", "vkd", "dkd", "dml", "teacher")}) == 5
