"""The commands table, compare, hypervolume and rungs on the studies of a shelf."""

import json

import pandas
import pytest

from analysis.__main__ import main
from analysis.formats import Report, render
from analysis.method_table import paper_cells
from analysis.progress import hypervolume_over_epochs, hypervolume_over_trials, rung_summary, rungs
from analysis.results import read
from analysis.store import open_store
from analysis.volumes import scale
from kdq.errors import UserError


@pytest.fixture
def run(shelf, capsys):
    """Run a command on the shelf; returns what it printed, parsed if it is JSON."""

    def run(*arguments, status=0):
        assert main([*arguments, "--tracking-uri", shelf]) == status
        printed = capsys.readouterr()
        text = printed.out if status == 0 else printed.err
        return json.loads(text) if "json" in arguments else text

    return run


@pytest.fixture
def studies(shelf):
    def studies(*names):
        return read(open_store(shelf), names)

    return studies


def test_a_table_has_the_best_configuration_of_each_cell(run):
    (row,) = [row for row in run("table", "--study", "normal", "--format", "json") if row["column"] == 2]
    assert (row["row"], row["mean"], row["n"]) == ("dkd", pytest.approx(84.2), 2)
    assert row["deviation"] == pytest.approx(0.5**0.5)
    assert "alpha=0.5" in row["configuration"]


def test_the_best_of_a_column_is_marked_in_every_format(run):
    arguments = ("table", "--study", "normal", "--rows", "alpha")
    assert "84.20 ± 0.71 (2) *" in run(*arguments)
    assert "| **84.20 ± 0.71 (2)** |" in run(*arguments, "--format", "markdown")
    assert r"\textbf{84.20 $\pm$ 0.71 (2)}" in run(*arguments, "--format", "latex")
    best = [row["row"] for row in run(*arguments, "--format", "json") if row["is_best"]]
    assert best == [0.5, 0.5, 0.5]


def test_a_table_shows_test_accuracy_chosen_on_validation(run):
    rows = run("table", "--study", "normal", "--measure", "test", "--format", "json")
    assert {row["mean"] for row in rows} == {84.0}


def test_studies_can_be_the_rows_of_a_table(run):
    rows = run("table", "--study", "normal", "--study", "other", "--rows", "study", "--format", "json")
    assert {(row["row"], row["is_best"]) for row in rows} == {("normal", True), ("other", False)}


def test_the_paper_s_numbers_are_beside(run):
    lines = run("table", "--study", "normal", "--paper", "cifar100").splitlines()
    names = [line.split("  ")[0].strip() for line in lines[1:7]]
    assert names[:2] == ["dkd", "dkd (paper)"]
    assert sorted(names[2:]) == ["dml (paper)", "mixup (paper)", "teacher (paper)", "vkd (paper)"]
    assert "22.20" in lines[2]
    assert len(paper_cells("cifar10")) == len(paper_cells("cifar100")) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "alhpa"], "did you mean 'alpha'"),
        (["--rows", "bits"], "must differ"),
        (["--paper", "cifar11"], "did you mean 'cifar10'"),
        (["--paper", "cifar10", "--rows", "alpha"], "methods × widths"),
    ],
)
def test_a_wrong_table_is_one_line_and_status_2(run, arguments, message):
    printed = run("table", "--study", "normal", *arguments, status=2)
    assert message in printed
    assert printed.count("\n") == 1


def test_studies_that_differ_by_much_are_told_apart(run):
    rows = run("compare", "normal", "other", "--format", "json")
    assert [row["bits"] for row in rows] == [2, 8, 32, "hypervolume"]
    assert {row["verdict"] for row in rows} == {"A is better"}
    back = run("compare", "other", "normal", "--format", "json")
    for row, other in zip(rows, back, strict=True):
        assert other["verdict"] == "B is better"
        assert (other["difference"], other["low"]) == (pytest.approx(-row["difference"]), pytest.approx(-row["high"]))


def test_configurations_that_hardly_differ_are_not_told_apart(run):
    rows = run("compare", "alpha=0.5", "method=dkd,alpha=1.0", "--study", "normal", "--format", "json")
    assert [round(row["difference"], 6) for row in rows[:3]] == [0.5, 0.5, 0.5]
    assert {row["verdict"] for row in rows} == {"no difference"}


def test_seeds_are_paired_where_both_have_the_same(run):
    """Another study's same configuration and seeds: it is 24 points worse with each seed, so the seeds add nothing."""
    rows = run("compare", "normal", "other", "--format", "json")
    assert all(row["over_seeds"] for row in rows)
    assert all(row["high"] - row["low"] < 7 for row in rows)


def test_the_hypervolume_of_one_width_is_its_accuracy(studies):
    normal, other = studies("normal", "other")
    named = scale([normal, other])
    for each in (normal, other):
        groups = [group for group in each.groups if group.bits == 32]
        (_, at_float), volume = max((group.mean("val_top1"), group.mean("val_top1")) for group in groups), None
        volume = scale([each], groups).percent(groups)
        assert volume == pytest.approx(100 * at_float / scale([each]).reference.value)
    assert named.reference.name == "the teacher of normal"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["normal", "normal"], "are the same"),
        (["alpha=1", "normal"], "need --study NAME"),
        (["alpha=7", "normal", "--study", "normal"], "known settings: alpha=0.5, alpha=1"),
        (["alpha", "normal", "--study", "normal"], "unknown study"),
        (["alpha=", "normal", "--study", "normal"], "must be a setting such as alpha=1"),
    ],
)
def test_a_wrong_comparison_is_one_line_and_status_2(run, arguments, message):
    printed = run("compare", *arguments, status=2)
    assert message in printed
    assert printed.count("\n") == 1


def test_the_hypervolume_grows_with_trials_and_ends_at_the_study_s(studies):
    several = studies("normal", "other", "empty", "all_failed")
    table = hypervolume_over_trials(several)
    assert list(table.columns) == ["study", "finished_trials", "hypervolume"]
    assert table.groupby("study").size().to_dict() == {"all_failed": 2, "normal": 6, "other": 4}
    assert table.groupby("study")["hypervolume"].apply(lambda values: values.is_monotonic_increasing).all()
    for each in several[:2]:
        own = table[table["study"] == each.name]["hypervolume"]
        assert own.iloc[0] == 0  # one seed of two
        assert own.iloc[-1] == pytest.approx(scale(several).percent(each.groups))


def test_the_hypervolume_over_epochs_counts_those_of_all_trials(studies):
    table = hypervolume_over_epochs(studies("normal"))
    assert table["epochs"].tolist() == [3, 6, 9, 12, 15, 18]


def test_rungs_that_rank_as_the_end_does_have_correlations_of_1(studies):
    table = rungs(studies("normal"))
    assert list(table.columns) == ["study", "trial", "rung", "value", "survived", "final"]
    assert sorted(set(table["rung"])) == [1, 2]
    assert (table["final"] - table["value"]).round(6).tolist() == [6.0, 3.0] * 6
    first, second = rung_summary(table)
    assert (first["rung"], first["trials"], first["stopped"], first["completed"]) == (1, 6, 0, 6)
    assert (second["kendall"], second["spearman"]) == (pytest.approx(1), pytest.approx(1))


def test_rungs_against_the_end_have_correlations_of_minus_1():
    rows = [("s", f"t{n}", 1, float(n), n > 0, 9.0 - n if n else None) for n in range(5)]
    table = pandas.DataFrame(rows, columns=["study", "trial", "rung", "value", "survived", "final"])
    (row,) = rung_summary(table)
    assert (row["trials"], row["stopped"], row["completed"]) == (5, 1, 4)
    assert (row["kendall"], row["spearman"]) == (pytest.approx(-1), pytest.approx(-1))


def test_a_study_without_rungs_is_reported(logged):
    with pytest.raises(UserError, match="'grid' has no scheduler that stops trials"):
        rungs(read(open_store(logged.uri), ["grid"]))


def test_the_front_of_several_studies_names_them(run):
    document = run("front", "--study", "normal", "--study", "other", "--format", "json")
    assert {row["study"] for row in document["front"]} == {"normal"}
    assert document["hypervolume"]["all together"] == document["hypervolume"]["normal"]
    assert document["hypervolume"]["other"] < document["hypervolume"]["normal"]


def test_trials_have_their_epochs_seconds_and_accuracies(run):
    rows = run("trials", "--study", "lacking", "--format", "json")
    done = next(row for row in rows if row["trial"] == "dkd alpha=0.5 seed=0")
    assert (done["epochs"], done["seconds"], done["val_top1_8bit"]) == (3, 6.0, 84.8)
    failed = next(row for row in rows if row["status"] == "failed")
    assert (failed["epochs"], "val_top1_8bit" in failed) == (0, False)


def test_cells_show_alike_in_every_format():
    rows = [{"name": "a|b_c-1 [-1.5]", "total_bits": 1234567, "val_top1": 90.0, "nothing": None, "alpha": 0.5}]
    report = Report(
        ("name", "total_bits", "val_top1", "nothing", "alpha"), rows, ["50 % & <i>"], bold={(0, "val_top1")}
    )
    assert render(report, "table").splitlines()[1].split() == ["a|b_c-1", "[-1.5]", "1,234,567", "90.00", "*", "0.5"]
    assert render(report, "csv") == "name,total_bits,val_top1,nothing,alpha\na|b_c-1 [-1.5],1234567,90.0,,0.5\n"
    assert render(report, "markdown").splitlines()[2] == r"| a\|b\_c-1 \[-1.5\] | 1,234,567 | **90.00** | 0.5 |"
    assert r"a|b\_c-1 [$-$1.5] & 1,234,567 & \textbf{90.00} & 0.5 \\" in render(report, "latex")
    assert json.loads(render(report, "json")) == [
        {"name": "a|b_c-1 [-1.5]", "total_bits": 1234567, "val_top1": 90.0, "alpha": 0.5}
    ]
