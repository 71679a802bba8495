"""Commands on a study that is decided by its likelihood: alpha / bits for every seed, the lower the better.

Its accuracies rise with alpha, so that each answer is another one than that of the accuracies.
"""

import json

import pytest

from analysis.__main__ import main
from analysis.commands import heatmap, table
from analysis.formats import render


@pytest.fixture
def rows(shelf, capsys):
    """Run a command on the study, and return its rows."""

    def run(*arguments):
        assert main([*arguments, "--study", "by_nll", "--format", "json", "--tracking-uri", shelf]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_the_effect_is_that_on_the_objective(rows):
    found = {(row["bits"], row["value"]): row for row in rows("effect", "alpha")}
    assert found.keys() == {(bits, alpha) for bits in (2, 8, 32) for alpha in (0.5, 1.0, 9.0)}
    for (bits, alpha), row in found.items():
        assert row["val_nll"] == row["low"] == row["high"] == row["best"] == pytest.approx(alpha / bits)


def test_the_best_over_configurations_is_the_lowest(rows):
    (at_two, *_) = (row for row in rows("effect", "method") if row["bits"] == 2)
    assert at_two["val_nll"] == pytest.approx(10.5 / 3 / 2)
    assert at_two["best"] == pytest.approx(0.25)


def test_the_table_has_the_lowest_and_marks_it(rows):
    found = rows("table", "--rows", "alpha")
    assert {(row["row"], row["column"]): row["mean"] for row in found}[0.5, 8] == pytest.approx(0.5 / 8)
    assert {row["row"] for row in found if row["is_best"]} == {0.5}
    on_test = rows("table", "--measure", "test")
    assert next(row["mean"] for row in on_test if row["column"] == 2) == pytest.approx(0.25 + 0.1)


def test_a_cell_of_the_heatmap_is_its_mean_and_the_lowest_is_marked(rows):
    found = rows("heatmap", "alpha", "method", "--bits", "2")
    assert [row["mean"] for row in found] == pytest.approx([0.25, 0.5, 4.5])


@pytest.mark.parametrize(
    ("command", "given"),
    [(heatmap, ["heatmap", "alpha", "method", "--bits", "2"]), (table, ["table", "--rows", "alpha"])],
    ids=["heatmap", "table"],
)
def test_the_marked_value_is_in_its_unit(command, given, shelf):
    from analysis.__main__ import _parser

    report = command.run(_parser().parse_args([*given, "--study", "by_nll", "--tracking-uri", shelf]))
    assert "negative log-likelihood" in report.notes[0]
    assert "nats" in report.notes[0]
    assert "**0.250 ± 0.000 (2)**" in render(report, "markdown")


def test_two_configurations_are_compared_by_the_objective(rows, shelf, capsys):
    found = rows("compare", "alpha=0.5", "alpha=9")
    at_two = next(row for row in found if row["bits"] == 2)
    assert (at_two["a"], at_two["b"]) == pytest.approx((0.25, 4.5))
    assert at_two["difference"] == at_two["low"] == at_two["high"] == pytest.approx(-4.25)
    assert at_two["verdict"] == "A is better"
    assert main(["compare", "alpha=9", "alpha=0.5", "--study", "by_nll", "--tracking-uri", shelf]) == 0
    text = capsys.readouterr().out
    assert "validation negative log-likelihood (nats) of the best configuration" in text
    at_two = next(line for line in text.splitlines() if line.strip().startswith("2 bits"))
    assert at_two.split()[-9:] == ["4.500", "0.250", "+4.250", "[+4.250,", "+4.250]", "seeds", "B", "is", "better"]


def test_what_matters_is_what_the_objective_depends_on(rows):
    assert {row["parameter"]: row["importance"] for row in rows("importance") if row["bits"] == 2} == {"alpha": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "by_nll", "other"], "the studies have different objectives: nll (by_nll), top1 (other)"),
        (["effect", "alpha", "--study", "by_nll", "--study", "other"], "the studies have different objectives"),
        (["table", "--study", "by_nll", "--paper", "cifar10"], "the paper's tables are of accuracy"),
    ],
)
def test_what_has_no_common_measure_is_refused(arguments, message, shelf, capsys):
    assert main([*arguments, "--tracking-uri", shelf]) == 2
    assert message in capsys.readouterr().err
