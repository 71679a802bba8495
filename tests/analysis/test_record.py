import math
from dataclasses import asdict

import pytest

from analysis.formats import Report, render
from analysis.record import COLUMNS, StudyRecord, Target, from_csv, from_rows
from kdq.errors import UserError

HEADER = "trial_id,student,epoch,bits,total_bits,val_top1\n"


def test_a_record_by_hand(recorded):
    record = from_rows(recorded)
    small, large = 560_000.0, 8_600_000.0
    assert record.epochs == 2
    assert record.curves["a"] == (((50.0, large), (40.0, small)), ((70.0, large), (60.0, small)))
    assert record.curves["b"][0] == ((55.0, large), (30.0, small))
    assert math.isnan(record.curves["b"][1][0][0])
    assert record.points == {"a": record.curves["a"][-1]}


def test_csv_there_and_back(recorded):
    text = render(Report(COLUMNS, [asdict(row) for row in recorded]), "csv")
    header = "trial_id,student,epoch,bits,total_bits,val_top1,final_top1,configuration\n"
    assert text.startswith(header + f"a,{recorded[0].student},1,2,560000,40.0,81.0,c1\n")
    assert f"b,{recorded[-1].student},2,32,8600000,,,\n" in text
    assert repr(from_csv(text)) == repr(recorded)


def test_the_order_of_rows_is_irrelevant(recorded):
    assert repr(from_rows(recorded[::-1])) == repr(from_rows(recorded))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("t,s,1,32,100", "line 2: must have 6 cells"),
        ("t,s,1,32,100,50,60", "line 2: must have 6 cells"),
        ("t,s,one,32,100,50", "line 2: invalid literal"),
        (",s,1,32,100,50", "line 2: trial_id is empty"),
        ("t,,1,32,100,50", "line 2: student is empty"),
        ("t,s,0,32,100,50", "line 2: epoch = 0: must be at least 1"),
        ("t,s,1,16,100,50", "line 2: bits = 16: must be 1 to 8, or 32"),
        ("t,s,1,32,0,50", "line 2: total_bits = 0"),
        ("t,s,1,32,100,101", "line 2: val_top1 = 101.0: must be a percentage"),
        ("t,s,1,32,100,inf", "line 2: val_top1 = inf: must be a percentage"),
    ],
)
def test_a_wrong_row_is_named(row, message):
    with pytest.raises(UserError, match=message):
        from_csv(HEADER + row + "\n")


WITH_POINTS = HEADER.replace("\n", ",final_top1,configuration\n")


def test_configurations_are_means_over_seeds_and_found_with_all_of_them():
    """t and u have different seeds; v shares the student of u, and so its point at float; w is not compared."""
    rows = [
        *("t,s0,1,32,100,50,60,c1", "u,s1,1,32,104,50,70,c1", "v,s1,1,32,104,50,70,c1"),
        *("t,s0,1,2,10,40,30,c2", "u,s1,1,2,10,40,40,c2", "w,s2,1,32,100,99,,"),
    ]
    record = from_rows(from_csv(WITH_POINTS + "\n".join(rows)))
    whole, two = record.targets
    assert whole == Target((frozenset("t"), frozenset("uv")), 65.0, 102.0)
    assert two == Target((frozenset("t"), frozenset("u")), 35.0, 10.0)
    assert [whole.is_found_by(trials) for trials in ("", "t", "uv", "tv", "tu")] == [False, False, False, True, True]


def test_without_points_the_last_epoch_counts():
    record = from_rows(from_csv(HEADER + "t,s,1,32,100,50\nt,s,2,32,100,60\n"))
    assert record.targets == (Target((frozenset("t"),), 60.0, 100.0),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("t,s,1,32,100,50,60,\n", "line 2: final_top1 = 60.0: must be a percentage, or empty without a configuration"),
        ("t,s,1,32,100,50,,c1\n", "line 2: final_top1 = nan: must be a percentage"),
        ("t,s,1,32,100,50,60,c1\nt,s,2,32,100,50,61,c1\n", "trial t, 32 bits: epochs 1 and 2 have different points"),
    ],
)
def test_points_that_do_not_fit_are_named(rows, message):
    with pytest.raises(UserError, match=message):
        from_rows(from_csv(WITH_POINTS + rows))


def test_another_table_is_told():
    with pytest.raises(UserError, match="a record has the columns trial_id, student, epoch"):
        from_csv("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "the record is empty"),
        ("t,s,1,32,100,50\nt,s,1,32,100,50\n", "trial t, epoch 1, 32 bits: duplicated row"),
        ("t,s,1,2,100,50\n", "trial t: has no float accuracy"),
        ("t,s,1,32,100,50\nu,s,1,32,100,50\nu,s,2,32,100,50\n", "trial t, epoch 2: must have .* 32 bits.* has none"),
        ("t,s,1,32,100,50\nt,s,1,2,10,50\nt,s,2,32,100,50\n", "trial t, epoch 2: must have accuracies at 2, 32 bits"),
        ("t,s,2,32,100,50\n", "trial t, epoch 1: must have"),
        ("t,s,1,32,100,50\nt,r,2,32,100,50\n", "trial t: has two students, s and r"),
        ("t,s,1,32,100,\nt,s,2,32,100,50\n", "trial t: has rows after epoch 1, where it diverged"),
    ],
)
def test_what_is_twice_or_missing_is_named(rows, message):
    with pytest.raises(UserError, match=message):
        from_rows(from_csv(HEADER + rows))


def test_only_trials_with_all_epochs_are_worth_something():
    finite, broken = ((50.0, 1.0),), ((math.nan, 1.0),)
    record = StudyRecord({"whole": (finite, finite), "early": (broken,), "late": (finite, broken)}, {}, 2)
    assert record.points == {"whole": finite}
