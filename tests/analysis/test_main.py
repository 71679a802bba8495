import io
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pandas
import pytest
from PIL import Image

from analysis.__main__ import main
from study.results.front import comparable, front_hypervolume, relative_hypervolume, with_front
from study.results.objective import OBJECTIVES
from study.results.point import COLUMNS, METRICS, from_row
from study.results.tables import from_csv, front_columns


@pytest.fixture
def run(logged, capsys):
    """Run a command on the store; returns what it printed."""

    def run(*arguments, status=0):
        assert main([*arguments, "--tracking-uri", logged.uri]) == status
        printed = capsys.readouterr()
        assert (printed.err == "") == (status == 0)
        return printed.out if status == 0 else printed.err

    return run


def expected(logged):
    return sorted(with_front(logged.points), key=lambda point: (point.trial_id, point.bits))


def test_points_in_every_format(run, logged):
    csv = run("points", "--study", "grid", "--format", "csv")
    assert csv.splitlines()[0] == ",".join(COLUMNS)
    assert from_csv(csv) == expected(logged)
    rows = json.loads(run("points", "--study", "grid", "--format", "json"))
    assert [from_row(row) for row in rows] == expected(logged)
    table = run("points", "--study", "grid").splitlines()
    assert len(table) == 1 + len(logged.points)
    empty = {"mixup_alpha", "options", *METRICS} - {"val_top5", "val_nll", "test_agreement"}
    assert table[0].split() == [name for name in COLUMNS if name not in empty]


def test_points_into_a_file(run, logged, tmp_path):
    path = tmp_path / "new" / "points.csv"
    assert run("points", "--study", "grid", "--format", "csv", "--output", str(path)) == ""
    assert from_csv(path.read_text()) == expected(logged)


def test_front_and_its_figure(run, logged, tmp_path):
    path = tmp_path / "front.png"
    text = run("front", "--study", "grid", "--figure", str(path))
    volume = relative_hypervolume(comparable(logged.points), 87.5)
    assert f"hypervolume {volume:.2f} % of the area under the best student (87.50 % at every size)" in text
    assert "from 500,000 to 2,000,000" in text
    assert str(path) in text
    with Image.open(path) as image:
        assert image.size == (1200, 800)


def test_front_as_data(run, logged):
    table = pandas.read_csv(io.StringIO(run("front", "--study", "grid", "--format", "csv")))
    assert tuple(table.columns) == front_columns(OBJECTIVES["top1"])
    assert table["bits"].tolist() == [2, 4, 8]
    assert table["alpha"].tolist() == [1, 1, 1]
    document = json.loads(run("front", "--study", "grid", "--format", "json"))
    assert document["hypervolume"] == {"grid": relative_hypervolume(comparable(logged.points), 87.5)}
    assert [row["val_top1"] for row in document["front"]] == [81.5, 83.5, 87.5]
    assert "mixup_alpha" not in document["front"][0]


def test_best_as_text(run):
    lines = run("best", "--study", "grid", "--max-bits", "1.2e6").splitlines()
    assert lines[0] == "best of grid within 1,200,000 total bits, chosen on validation"
    text = "\n".join(lines)
    for part in (
        "method=dkd alpha=1 beta=8 temperature=4 student=resnet20",
        "4 bits, 4.25 on average",
        "1,000,000 total bits, 125,000 bytes packed",
        "83.50 % (± 0.71 over 2 seeds)",
        "82.00 % (± 0.00 over 2 seeds)",
        "a1-s0 (seed 0), a1-s1 (seed 1)",
        "python study/run.py --space dkd_grid --seeds 0,1 --bits 4",
    ):
        assert part in text


def test_best_as_data_names_the_file_of_the_better_seed(run, logged):
    document = json.loads(run("best", "--study", "grid", "--max-bits", "1e9", "--format", "json"))
    assert (document["bits"], document["n"], document["alpha"]) == (8, 2, 1.0)
    assert (document["val_top1"], document["test_top1"]) == (87.5, 86.0)
    assert [point["run_id"] for point in document["points"]] == [
        logged.run_ids["a1-s0", 8],
        logged.run_ids["a1-s1", 8],
    ]
    (path,) = document["artifacts"]
    assert f"/{logged.run_ids['a1-s1', 8]}/" in path


def test_a_mixed_point_goes_by_its_label(run):
    points = from_csv(run("points", "--study", "mixed", "--format", "csv"))
    assert [(point.bits, point.on_front) for point in points] == [(2, True), ("mixed-0123abcd", True)]
    assert "mixed-0123abcd" in run("front", "--study", "mixed")
    best = ("best", "--study", "mixed", "--max-bits", "1e6")
    text = run(*best)
    assert "mixed-0123abcd, 2.75 on average" in text
    assert "python study/run.py --space mixed --seeds 0 --set method=dkd" in text  # no option names an allocation
    assert json.loads(run(*best, "--format", "json"))["bits"] == "mixed-0123abcd"


def test_list_in_both_formats(run):
    lines = run("list").splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["fresh", "running", "0", "0", "0"],
        ["grid", "completed", "5", "4", "12", "87.50"],
        ["mixed", "completed", "1", "1", "2", "85.00"],
        ["recorded", "completed", "2", "1", "2", "81.00"],
    ]
    rows = json.loads(run("list", "--format", "json"))
    assert rows[0]["best_val_top1"] is None
    assert rows[1]["best_val_top1"] == 87.5


def test_trials_with_their_ends_and_reasons(run):
    rows = json.loads(run("trials", "--study", "grid", "--format", "json"))
    ends = [(row["trial_id"], row["status"], row["reason"]) for row in rows]
    assert len(ends) == 5
    assert ends[-1] == ("bad", "diverged", "loss is nan")
    assert {end[1:] for end in ends[:-1]} == {("completed", "")}
    table = run("trials", "--study", "grid").splitlines()
    assert (len(table), table[-1].split()[2:]) == (6, ["diverged", "0", "0.0", "loss", "is", "nan"])
    csv = run("trials", "--study", "grid", "--format", "csv").splitlines()
    assert csv[0] == "trial_id,trial,status,epochs,seconds,reason"
    assert run("trials", "--study", "fresh") == "no trials yet\n"


def test_a_study_without_points(run, tmp_path):
    assert run("points", "--study", "fresh", "--format", "csv") == ",".join(COLUMNS) + "\n"
    assert json.loads(run("points", "--study", "fresh", "--format", "json")) == []
    assert "no points" in run("front", "--study", "fresh", "--figure", str(tmp_path / "front.png"))
    for budget in (("--max-bits", "1e6"), ("--max-bytes", "1e6"), ("--target-accuracy", "1")):
        error = run("best", "--study", "fresh", *budget, status=2)
        assert error == "error: study fresh: no points: no trial has started\n"
    for command in ("points", "table"):
        assert run(command, "--study", "fresh") == "no points: no trial has started\n"
    assert run("compare", "grid", "fresh").endswith("\nfresh: no points: no trial has started\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["points", "--study", "grit"], "did you mean 'grid'"),
        (["best", "--study", "grid", "--max-bits", "1000"], "the smallest has 500,000"),
        (
            ["points", "--study", "grid", "--output", f"{__file__}/points.csv"],
            "cannot write",
        ),
        (
            ["front", "--study", "grid", "--figure", f"{__file__}/front.png"],
            "cannot write",
        ),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, arguments, message):
    printed = run(*arguments, status=2)
    assert message in printed
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "many"])
def test_a_budget_must_be_a_positive_number(budget, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["best", "--study", "grid", f"--max-bits={budget}"])
    assert "must be a positive number of bits" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["best", "--max-bits", "1e6"], ["export", "--max-bits", "1e6"], ["replay"], ["compare", "a=1", "a=2"]]
)
def test_a_command_of_one_study_refuses_two(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--study", "grid", "--study", "fresh"])
    assert "argument --study: given twice: the command takes one" in capsys.readouterr().err


def test_nothing_heavy_is_imported_before_parsing():
    code = (
        "import sys, analysis.__main__ as a\n"
        "try: a.main(['best', '--help'])\n"
        "except SystemExit: print({'mlflow', 'pandas', 'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("set()\n")


def test_the_module_runs_and_a_reader_may_leave_early(logged):
    """As typed in a shell: nothing on standard error, no traceback when `head` has seen enough."""
    command = [sys.executable, "-m", "analysis", "points", "--study", "grid", "--tracking-uri", logged.uri]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_cannot_be_written_is_an_error(logged):
    """As on a full disk: one line, status 2, and nothing at the interpreter's end."""
    command = [sys.executable, "-m", "analysis", "list", "--tracking-uri", logged.uri]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (
        2,
        "error: cannot write to standard output: No space left on device\n",
    )


def test_ctrl_c_ends_a_command_without_a_traceback(logged, monkeypatch, capsys):
    monkeypatch.setattr("analysis.store.Store.studies", Mock(side_effect=KeyboardInterrupt))
    assert main(["list", "--tracking-uri", logged.uri]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_record_is_printed_and_replayed(run, tmp_path):
    """From the store, and from the file that was printed, which needs no store."""
    path, figure = tmp_path / "record.csv", tmp_path / "replay.png"
    assert run("record", "--study", "recorded", "--output", str(path)) == ""
    text = run("replay", "--record", str(path), "--orders", "5", "--figure", str(figure))
    assert text.startswith(
        "2 trials of 2 epochs, 1 of them on the true front: the study's own, of its points; "
        "means ± deviations over 5 orders\n"
    )
    assert f"figure {figure}" in text
    with Image.open(figure) as image:
        assert image.size == (1600, 800)
    table = pandas.read_csv(io.StringIO(run("replay", "--study", "recorded", "--orders", "5", "--format", "csv")))
    assert table["strategy"].tolist()[:2] == ["grid", "random"]
    assert table["epochs"].tolist()[0] == 4
    rows = json.loads(run("replay", "--record", str(path), "--orders", "5", "--format", "json"))
    assert [row["strategy"] for row in rows] == table["strategy"].tolist()
    points = from_csv(run("points", "--study", "recorded", "--format", "csv"))
    assert rows[0]["hypervolume"] == table["hypervolume"][0] == front_hypervolume(points)


def test_a_record_without_points_says_what_its_replay_ranks(run, tmp_path):
    path = tmp_path / "record.csv"
    path.write_text("trial_id,student,epoch,bits,total_bits,val_top1\nt,s,1,32,100,50\nt,s,2,32,100,60\n")
    path.write_text(path.read_text() + "t,s,1,2,10,50\nt,s,2,2,10,60\n")
    first = run("replay", "--record", str(path), "--orders", "1").splitlines()[0]
    assert "1 of them on the true front: of single trials as probed after the last epoch" in first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "--study", "grid"], "was not measured at every width"),
        (["replay", "--record", "nowhere.csv"], "cannot read nowhere.csv: No such file"),
        (["replay", "--record", __file__], "a record has the columns"),
        (["replay", "--study", "recorded", "--grace-period", "2"], "must be below the number of epochs"),
        (["replay", "--study", "recorded", "--orders", "0"], "orders = 0"),
        (["record", "--study", "grid"], "was not measured at every width"),
    ],
)
def test_a_mistake_in_a_replay_is_one_line_and_status_2(run, arguments, message):
    printed = run(*arguments, status=2)
    assert message in printed
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("name", ["front.jpg", "front", ".png", "front.svg.gz"])
def test_a_figure_of_another_format_is_refused_before_anything_is_read(name, capsys):
    with pytest.raises(SystemExit) as end:
        main(["front", "--study", "s", "--tracking-uri", "sqlite:///missing.db", "--figure", name])
    assert end.value.code == 2
    assert f"'{name}': must end in .png, .svg or .pdf" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", "--study", "s", "--orders", "9" * 5000],
        ["replay", "--study", "s", "--reduction-factor", "x" * 5000],
        ["best", "--study", "s", "--max-bits", "0x" + "f" * 5000],
    ],
)
def test_a_long_number_is_refused_in_a_short_line(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert len(capsys.readouterr().err.splitlines()[-1]) < 200
