import json
import math
import statistics
import subprocess
import sys
from dataclasses import replace

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdq.bits import BIT_WIDTHS
from kdq.errors import UserError
from study.results.front import best, front_hypervolume, missing_seeds, seed_groups, with_front
from study.results.objective import OBJECTIVES
from study.results.pareto import front
from study.results.point import METRICS, Point, from_row
from study.results.tables import as_table, as_text, from_csv, front_columns, front_table, to_csv, to_json

POINT = Point("t1", "dkd", 1.0, 8.0, 4.0, None, 0, "resnet20", 3, 3.2, 900_000, 112_500, 85.0, 84.0)

text = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(" ,;\"'\\"), max_size=12)
parameter = st.none() | st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-3, max_value=1e12)
any_point = st.builds(
    Point,
    trial_id=text,
    method=text,
    alpha=parameter,
    beta=parameter,
    temperature=parameter,
    mixup_alpha=parameter,
    seed=st.integers(0, 2**63),
    student=text,
    bits=st.sampled_from([*BIT_WIDTHS, "mixed-0123abcd"]),
    avg_bits=positive,
    total_bits=st.integers(1, 2**53),
    packed_bytes=st.integers(1, 2**50),
    val_top1=st.floats(0, 100),
    test_top1=st.floats(0, 100),
    on_front=st.booleans(),
    options=text,
    val_top5=st.none() | st.floats(0, 100),
    test_balanced=st.none() | st.floats(0, 100),
    val_nll=st.none() | st.floats(0, 1e6),
    test_ece=st.none() | st.floats(0, 100),
    val_agreement=st.none() | st.floats(0, 100),
)
# Few distinct values, so that configurations have several seeds and sizes tie.
study_point = st.builds(
    lambda alpha, seed, bits, accuracy: replace(
        POINT, alpha=alpha, seed=seed, bits=bits, total_bits=bits * 1000, val_top1=accuracy
    ),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 2),
    st.integers(1, 5),
    st.floats(0, 100) | st.sampled_from([10.0, 50.0]),
)
studies = st.lists(study_point, max_size=25)


def test_the_columns_are_those_that_were_promised():
    promised = (
        "trial_id, method, alpha, beta, temperature, mixup_alpha, seed, student, bits, avg_bits, total_bits, "
        "packed_bytes, val_top1, test_top1, on_front, options, val_top5, test_top5, val_balanced, test_balanced, "
        "val_nll, test_nll, val_ece, test_ece, val_agreement, test_agreement"
    )
    assert to_csv([]) == promised.replace(" ", "") + "\n"


def test_no_options_are_missing_in_a_table():
    assert as_table([POINT])["options"].isna().all()


def test_one_line_of_csv():
    line = to_csv([POINT]).splitlines()[1]
    assert line == "t1,dkd,1.0,8.0,4.0,,0,resnet20,3,3.2,900000,112500,85.0,84.0,False,,,,,,,,,,,"


def test_a_table_of_an_earlier_version_has_no_metrics():
    header, line = to_csv([POINT]).splitlines()
    before = ",".join(header.split(",")[: -len(METRICS)]) + "\n" + line[: -len(METRICS)] + "\n"
    assert before.startswith("trial_id,")
    assert before.splitlines()[0].endswith(",options")
    assert from_csv(before) == [POINT]


@given(st.lists(any_point, max_size=4))
def test_csv_and_json_bring_the_points_back(points):
    assert from_csv(to_csv(points)) == points
    assert [from_row(row) for row in json.loads(to_json(points))] == points


def test_options_are_the_parameters_without_a_column_that_are_not_at_their_defaults():
    row = {**POINT.row(), "method": "dml", "options": None}
    common = {"label_smoothing": "0.0", "handover": 0.30000000000000004, "warmup": 0.5, "mixup_alpha": 1.0}
    assert from_row({**row, **common}).options == "handover=0.30000000000000004"  # dml has no warm-up
    assert from_row({**row, **common, "label_smoothing": 0.1}).options.endswith(" label_smoothing=0.1")
    assert from_row(row).options == ""


def test_points_of_other_options_are_other_configurations():
    points = [replace(POINT, seed=seed, options=text) for seed in (0, 1) for text in ("", "warmup=0.5")]
    groups = seed_groups(points)
    assert [(group.points[0].options, group.n) for group in groups] == [("", 2), ("warmup=0.5", 2)]
    assert "options" not in groups[0].parameters
    assert groups[1].parameters["options"] == "warmup=0.5"


def test_pandas_reads_the_csv_as_the_table(tmp_path):
    smooth = replace(POINT, options="label_smoothing=0.1")
    points = with_front([smooth, replace(smooth, bits=4, total_bits=10**6, method="ce", alpha=None)])
    (tmp_path / "points.csv").write_text(to_csv(points))
    table = pandas.read_csv(tmp_path / "points.csv")
    pandas.testing.assert_frame_equal(table, as_table(points), check_dtype=False)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("method", "d\nkd"),
        ("bits", 0),
        ("bits", 9),
        ("bits", 16),
        ("bits", "4"),
        ("bits", "mixed-"),
        ("bits", "mixed-0123abcd\n"),
        ("total_bits", 0),
        ("packed_bytes", -1),
        ("avg_bits", math.nan),
        ("val_top1", math.nan),
        ("val_top1", 100.1),
        ("test_top1", -0.1),
        ("alpha", math.inf),
    ],
)
def test_impossible_values_raise(column, value):
    with pytest.raises(ValueError, match=column):
        replace(POINT, **{column: value})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("a,b\n1,2\n", "header"),
        ("", "header"),
        (to_csv([POINT]).replace("900000", "many"), "line 2: total_bits = 'many': must be a whole number"),
        (to_csv([POINT]).replace("85.0", "850"), "line 2: val_top1"),
        (
            to_csv([POINT]).replace(",3,3.2", ",three,3.2"),
            "bits = 'three': must be a whole number, or",
        ),
        (
            to_csv([POINT]).replace(",3,3.2", ",mixed-XY,3.2"),
            "bits = mixed-XY: must be 1 to 8, 32 for",
        ),
        (to_csv([POINT]).partition(",84.0,")[0] + "\n", "line 2: test_top1 = None"),
        (to_csv([POINT]).replace("False", "perhaps"), "on_front = 'perhaps': must be True or False"),
    ],
)
def test_bad_csv_is_told_with_its_line(bad, message):
    with pytest.raises(UserError, match=message):
        from_csv(bad)


def test_a_row_may_be_text_or_numbers_and_lack_inactive_parameters():
    row = {name: value for name, value in POINT.row().items() if value is not None}
    del row["on_front"]
    assert from_row(row) == from_row({name: str(value) for name, value in row.items()}) == POINT
    assert from_row({**row, "total_bits": 900_000.0, "epochs": 3}) == POINT


def test_the_front_ignores_a_lucky_seed():
    steady = [replace(POINT, alpha=1.0, seed=seed, val_top1=80.0) for seed in range(3)]
    lucky = [replace(POINT, alpha=2.0, seed=seed, val_top1=v) for seed, v in enumerate((70.0, 70.0, 90.0))]
    marked = with_front([*lucky, *steady])
    assert [point.on_front for point in marked] == [False] * 3 + [True] * 3
    assert best(marked, 1e9).parameters["alpha"] == 1.0


def test_a_lucky_survivor_of_early_stopping_never_beats_what_has_all_seeds():
    """Of alpha 2 two seeds were stopped; its one left is above the mean of alpha 1, as the others were not."""
    steady = [replace(POINT, alpha=1.0, seed=seed, val_top1=v) for seed, v in enumerate((80.0, 82.0, 84.0))]
    survivor = replace(POINT, alpha=2.0, seed=1, val_top1=84.5)
    marked = with_front([*steady, survivor])
    assert [point.on_front for point in marked] == [True] * 3 + [False]
    assert best(marked, 1e9).parameters["alpha"] == 1.0
    assert front_hypervolume(marked) == front_hypervolume(steady)
    assert missing_seeds(marked) == "not compared: 1 with fewer than 3 seeds"
    assert missing_seeds(steady) == missing_seeds([]) == missing_seeds([], 4) == missing_seeds(steady, 3) == ""


def test_where_no_configuration_has_all_seeds_it_is_reported():
    """One seed of each was stopped, so a mean over fewer is all there is."""
    points = [replace(POINT, alpha=alpha, seed=0, val_top1=80.0 + alpha) for alpha in (1.0, 2.0)]
    assert best(points, 1e9).n == 1
    assert missing_seeds(points, 2) == "no configuration has all 2 seeds: those with the most, 1, are compared"


def test_test_accuracy_never_decides():
    better_test = replace(POINT, alpha=2.0, val_top1=84.0, test_top1=99.0)
    marked = with_front([POINT, better_test])
    assert [point.on_front for point in marked] == [True, False]
    assert best(marked, 1e9).points == (marked[0],)


@given(st.lists(st.tuples(st.sampled_from([0.0, 50.0, 60.5]), st.integers(1, 4)), max_size=12))
def test_with_one_seed_it_is_the_plain_front(pairs):
    points = [
        replace(POINT, trial_id=str(i), alpha=float(i), val_top1=accuracy, total_bits=size)
        for i, (accuracy, size) in enumerate(pairs)
    ]
    assert [point.on_front for point in with_front(points)] == front(pairs).tolist()


@given(studies, st.randoms(use_true_random=False))
def test_the_order_of_points_does_not_decide(points, random):
    shuffled = points.copy()
    random.shuffle(shuffled)
    assert set(with_front(shuffled)) == set(with_front(points))
    assert front_hypervolume(shuffled) == front_hypervolume(points)


@given(studies)
def test_every_point_is_in_one_configuration_and_marked_with_it(points):
    marked = with_front(points)
    assert [replace(point, on_front=False) for point in marked] == points
    groups = seed_groups(marked)
    in_groups = [replace(point, trial_id="") for group in groups for point in group.points]
    assert len(set(in_groups)) == len(in_groups)
    assert set(in_groups) == {replace(point, trial_id="") for point in marked}
    for group in groups:
        assert len({point.seed for point in group.points}) == group.n
        assert len({point.on_front for point in group.points}) == 1


def test_trials_that_share_a_float_point_count_it_once():
    twins = [replace(POINT, trial_id=trial, bits=32) for trial in ("a", "b")]
    (group,) = seed_groups(twins)
    assert group.n == 1
    assert all(point.on_front for point in with_front(twins))
    assert len(seed_groups([*twins, replace(twins[0], val_top1=1.0)])) == 2


def test_means_and_deviations_over_seeds():
    values = (80.0, 81.0, 85.0)
    (group,) = seed_groups(replace(POINT, seed=seed, val_top1=v) for seed, v in enumerate(values))
    assert group.n == 3
    assert group.mean("val_top1") == 82.0
    assert group.deviation("val_top1") == statistics.stdev(values) == pytest.approx(math.sqrt(7))
    assert seed_groups([POINT])[0].deviation("val_top1") is None


def test_trials_that_share_a_seed_are_no_repetitions():
    """A space may search what is no column, such as the learning rate."""
    first, second = replace(POINT, trial_id="a"), replace(POINT, trial_id="b", val_top1=86.0)
    assert [group.points for group in seed_groups([first, second])] == [(first,), (second,)]
    assert [point.on_front for point in with_front([first, second])] == [False, True]


def test_best_that_finds_nothing_counts_what_it_did_not_compare():
    whole = [replace(POINT, seed=seed, trial_id=f"t{seed}") for seed in (0, 1)]
    tiny = replace(POINT, bits=1, total_bits=1)
    with pytest.raises(
        UserError, match=rf"the smallest has {POINT.total_bits:,}, not compared: 1 with fewer than 2 seeds"
    ):
        best([*whole, tiny], 10)


@given(studies.filter(bool), st.integers(1, 6000))
def test_best_equals_the_definition(points, max_bits):
    most = max(group.n for group in seed_groups(points))
    whole = [group for group in seed_groups(points) if group.n == most]
    fitting = [group for group in whole if group.points[0].total_bits <= max_bits]
    if not fitting:
        smallest = min(group.points[0].total_bits for group in whole)
        with pytest.raises(UserError, match=f"the smallest has {smallest:,}"):
            best(points, max_bits)
        return
    chosen = best(points, max_bits)
    assert chosen in fitting
    for group in fitting:
        assert chosen.mean("val_top1") >= group.mean("val_top1")
        if chosen.mean("val_top1") == group.mean("val_top1"):
            assert chosen.points[0].total_bits <= group.points[0].total_bits


def test_every_seed_must_fit_the_budget():
    with pytest.raises(UserError, match="at most 950,000 total bits"):
        best([POINT, replace(POINT, seed=1, total_bits=960_000)], 950_000)


def test_hypervolume_in_closed_form():
    points = [
        replace(POINT, total_bits=2**20, val_top1=50.0),
        replace(POINT, bits=4, total_bits=2**22, val_top1=90.0),
    ]
    assert front_hypervolume(points) == 50 * 10 + 40 * 8
    assert front_hypervolume([]) == 0


def test_front_table_holds_the_front_smallest_first():
    four = replace(POINT, bits=4, total_bits=10**6, val_top1=90.0)
    dominated = replace(POINT, bits=5, total_bits=2 * 10**6)
    twice = [replace(dominated, seed=1), four, replace(four, seed=1, val_top1=91.0), POINT, replace(POINT, seed=1)]
    table = front_table([dominated, *twice])
    assert tuple(table.columns) == front_columns(OBJECTIVES["top1"])
    assert table["bits"].tolist() == [3, 4]
    assert table["val_top1"].tolist() == [85.0, 90.5]
    assert table["n"].tolist() == [2, 2]
    assert table["val_top1_std"].tolist() == [0.0, statistics.stdev([90.0, 91.0])]


def test_text_leaves_out_what_no_row_has():
    lines = as_text(front_table([POINT])).splitlines()
    empty = ("mixup_alpha", "options", "val_top1_std", "test_top1_std")
    assert lines[0].split() == [name for name in front_columns(OBJECTIVES["top1"]) if name not in empty]
    assert " ".join(lines[1].split()) == "dkd 1 8 4 resnet20 3 3.20 900,000 112,500 85.00 84.00 1"
    assert as_text(front_table([])) == "no points"


def test_points_import_neither_torch_nor_pandas():
    heavy = "{'torch', 'pandas', 'matplotlib'}"
    code = (
        f"import sys, study.results.point, study.results.figure, study.tracking.uri; print({heavy} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
