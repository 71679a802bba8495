"""Figures of how studies went, from tables as `analysis hypervolume` and `analysis rungs` make them."""

import math
import re
from html import unescape

import numpy as np
import pandas
import pytest
from PIL import Image

from analysis.figures.progress import draw_hypervolume, draw_rungs

HOSTILE = r"$x_{^$ <b>&amp; \frac ü λ"


def growth(trials, studies=("a",), counted="finished_trials"):
    random = np.random.default_rng(0)
    rows = []
    for name in studies:
        best = np.maximum.accumulate(100 - 40 * random.random(trials) ** 0.2)
        rows += [{"study": name, counted: n, "hypervolume": volume} for n, volume in enumerate(best, 1)]
    return pandas.DataFrame(rows, columns=["study", counted, "hypervolume"])


def successive(trials, studies=("a",), levels=(1, 3, 9)):
    """At each rung the upper half goes on."""
    random = np.random.default_rng(0)
    rows = []
    for name in studies:
        for trial in range(trials):
            skill = random.normal(80, 4)
            for number, level in enumerate(levels):
                value = skill + 3 * number + random.normal()
                survived = value > 80 + 3 * number
                final = skill + 10 if survived and level == levels[-1] else math.nan
                row = {"study": name, "trial": f"t{trial}", "rung": level, "value": value, "survived": survived}
                rows.append({**row, "final": final})
                if not survived:
                    break
        done = {row["trial"]: row["final"] for row in rows if row["study"] == name and row["final"] > 0}
        rows = [{**row, "final": done.get(row["trial"], math.nan)} if row["study"] == name else row for row in rows]
    columns = ["study", "trial", "rung", "value", "survived", "final"]
    return pandas.DataFrame(rows, columns=columns).astype({"survived": bool})


FIGURES = {
    (draw.__name__, name): (draw, table)
    for draw, make in ((draw_hypervolume, growth), (draw_rungs, successive))
    for name, table in {
        "empty": make(0),
        "one": make(1),
        "normal": make(30),
        "several": make(20, ("a", "_b", HOSTILE)),
        "many studies": make(3, [f"study {n}" for n in range(25)]),
    }.items()
}


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_table_is_drawn_in_every_format_equal_tables_alike(name, suffix, tmp_path):
    draw, table = FIGURES[name]
    files = [tmp_path / f"{copy}{suffix}" for copy in range(2 if name[1] == "several" else 1)]
    for file in files:
        draw(table, file, HOSTILE)
    content, *others = (file.read_bytes() for file in files)
    assert all(other == content for other in others)
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])


@pytest.mark.parametrize(("draw", "make"), [(draw_hypervolume, growth), (draw_rungs, successive)])
def test_ten_thousand_trials_are_drawn(draw, make, tmp_path):
    draw(make(10_000), tmp_path / "many.png", "many")
    with Image.open(tmp_path / "many.png") as image:
        assert len(image.convert("RGB").getcolors(maxcolors=2**20)) > 10


def texts(draw, table, path, title):
    """The texts of a figure, which an SVG has as comments."""
    draw(table, path, title)
    return [unescape(text).strip() for text in re.findall(r"<!--(.*?)-->", path.read_text(), flags=re.DOTALL)]


@pytest.mark.parametrize("draw", [draw_hypervolume, draw_rungs])
def test_names_are_drawn_literally(draw, tmp_path):
    _, table = FIGURES[draw.__name__, "several"]
    drawn = texts(draw, table, tmp_path / "f.svg", HOSTILE)
    assert drawn.count(HOSTILE) == 2
    assert "_b" in drawn


@pytest.mark.parametrize("draw", [draw_hypervolume, draw_rungs])
def test_a_long_name_is_cut_in_the_middle(draw, tmp_path):
    _, table = FIGURES[draw.__name__, "one"]
    title = next(text for text in texts(draw, table, tmp_path / "f.svg", "begin" + "x" * 500 + "end") if "x" in text)
    assert re.fullmatch("beginx+…x+end", title)
    assert len(title) < 120


@pytest.mark.parametrize(("draw", "line"), [(draw_hypervolume, "no finished trials"), (draw_rungs, "no trial has")])
def test_an_empty_figure_says_so(draw, line, tmp_path):
    _, table = FIGURES[draw.__name__, "empty"]
    assert any(line in text for text in texts(draw, table, tmp_path / "f.svg", "nothing"))


def test_the_axis_names_what_is_counted(tmp_path):
    for counted, name in {"finished_trials": "finished trials", "epochs": "epochs trained by all"}.items():
        drawn = texts(draw_hypervolume, growth(5, counted=counted), tmp_path / "f.svg", "growth")
        assert any(text.startswith(name) for text in drawn)


def test_each_rung_has_its_counts(tmp_path):
    rows = [
        ("s", "a", 1, 50.0, False, math.nan),
        ("s", "b", 1, 60.0, True, 75.0),
        ("s", "b", 3, 70.0, True, 75.0),
        ("s", "c", 1, 61.0, True, math.nan),
        ("s", "c", 3, 65.0, False, math.nan),
    ]
    table = pandas.DataFrame(rows, columns=["study", "trial", "rung", "value", "survived", "final"])
    drawn = texts(draw_rungs, table, tmp_path / "f.svg", "rungs")
    assert drawn[:4] == ["epoch 1", "epoch 3", "end", drawn[3]]
    at = drawn.index("3 trials")
    assert drawn[at : at + 6] == ["3 trials", "1 stopped", "2 trials", "1 stopped", "1", "completed"]


def test_a_legend_says_that_not_every_trial_has_a_line(tmp_path):
    for trials, expected in {300: [], 301: ["lines: one trial in 2"]}.items():
        drawn = texts(draw_rungs, successive(trials), tmp_path / "f.svg", "rungs")
        assert [text for text in drawn if text.startswith("lines")] == expected


def test_the_title_says_that_not_every_study_is_drawn(tmp_path):
    _, table = FIGURES["draw_rungs", "many studies"]
    drawn = texts(draw_rungs, table, tmp_path / "f.svg", "rungs")
    assert "rungs (the first 12 of 25 studies)" in drawn
    assert [text for text in drawn if text.startswith("study ")] == [f"study {n}" for n in range(12)]


def test_trials_stopped_at_equal_accuracies_are_all_visible(tmp_path):
    rows = [("s", f"t{n}", 1, 50.0, False, math.nan) for n in range(20)]
    table = pandas.DataFrame(rows, columns=["study", "trial", "rung", "value", "survived", "final"])
    draw_rungs(table, tmp_path / "f.svg", "rungs")
    crosses = re.search(r'<g id="PathCollection_3">.*?</g>\s*</g>', (tmp_path / "f.svg").read_text(), flags=re.DOTALL)
    spots = re.findall(r'<use \S+ x="([\d.]+)" y="([\d.]+)"', crosses[0])
    assert len(spots) == len({x for x, _ in spots}) == 20
    assert len({y for _, y in spots}) == 1


def test_the_axis_resolves_what_follows_the_first_complete_configuration(tmp_path):
    rows = [
        {"study": "a", "finished_trials": n, "hypervolume": volume} for n, volume in ((1, 0.0), (4, 99.0), (9, 100))
    ]
    drawn = texts(draw_hypervolume, pandas.DataFrame(rows), tmp_path / "f.svg", "growth")
    ticks = [float(text) for text in drawn if re.fullmatch(r"\d+\.\d+", text)]
    assert min(ticks) > 90
