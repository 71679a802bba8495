import math
import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from analysis.figures.replay import draw_replay
from analysis.record import StudyRecord, Target
from analysis.replay import GRID, RANDOM, Outcome, Setting, curve, mean_curves, on_front, play, simulate, summary
from kdq.errors import UserError
from study.results.pareto import hypervolume
from study.schedulers.asha import Asha
from study.schedulers.priorities import FLOAT as FLOAT_ONLY
from study.schedulers.registry import SCHEDULERS, make_scheduler, stopping
from study.schedulers.scheduler import RungConfig

EPOCHS = 9
FLOAT, FOUR, TWO = 8e6, 1e6, 5e5


def record_of(finals, progress=lambda trial, epoch: epoch / EPOCHS):
    """Trials by their final accuracies at float, 4 and 2 bits, of which they show a part at each epoch."""
    return StudyRecord(
        {
            trial: tuple(
                tuple(
                    (accuracy * progress(trial, epoch), bits)
                    for accuracy, bits in zip(final, (FLOAT, FOUR, TWO), strict=True)
                )
                for epoch in range(1, EPOCHS + 1)
            )
            for trial, final in finals.items()
        },
        {trial: trial for trial in finals},
        EPOCHS,
    )


def ranked():
    """Nine trials; t8 is the best in everything, at every epoch, and t0 the worst."""
    return record_of({f"t{i}": (80.0 + i, 70.0 + i, 60.0 + i) for i in range(9)})


def traded():
    """Nine trials, of which three are the front: one in float, one at 4 bits, one at 2, each weak in the rest."""
    front = {"float": (90.0, 50.0, 20.0), "four": (70.0, 80.0, 30.0), "two": (60.0, 40.0, 60.0)}
    return record_of(front | {f"t{i}": (75.0 + i, 49.0 - i, 19.0 - i) for i in range(6)})


def scheduler(name, trials=9, **changes):
    return make_scheduler(name, RungConfig(EPOCHS, trials, **changes))


@pytest.mark.parametrize("slots", [1, 2, 5, 20])
@pytest.mark.parametrize("name", [name for name in stopping() if SCHEDULERS[name].promotion == "synchronous"])
def test_halving_in_closed_form(name, slots):
    """Scheduler after epochs 1 and 3: 9 trials train 1 epoch, 3 train 2 more, and 1 trains 6 more; in any order."""
    record = ranked()
    for seed in range(5):
        order = random.Random(seed).sample(list(record.curves), 9)
        assert simulate(scheduler(name), record, order, slots) == Outcome(9 + 3 * 2 + 6, ((21, "t8"),))


@pytest.mark.parametrize("name", [name for name in stopping() if SCHEDULERS[name].promotion == "asynchronous"])
def test_asha_saves_nothing_when_the_worst_come_first(name):
    record = ranked()
    best_first = sorted(record.curves, reverse=True)
    assert simulate(scheduler(name), record, best_first[::-1], slots=1).epochs == 9 * EPOCHS
    assert simulate(scheduler(name), record, best_first, slots=1) == Outcome(EPOCHS + 8, ((EPOCHS, "t8"),))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_student_that_trials_share_is_trained_once(slots):
    """Trials in pairs without a scheduler; then all of them with one student, of which each rung compares the bits."""
    record = ranked()
    paired = replace(record, students={trial: f"s{int(trial[1:]) // 2}" for trial in record.curves})
    whole = simulate(Asha(FLOAT_ONLY, (), 3), paired, list(record.curves), slots)
    assert whole.epochs == 5 * EPOCHS
    assert len(whole.completed) == 9
    assert max(spent for spent, _ in whole.completed) == 5 * EPOCHS
    one = replace(record, students=dict.fromkeys(record.curves, "s"))
    assert simulate(scheduler("halving"), one, list(record.curves), slots) == Outcome(EPOCHS, ((EPOCHS, "t8"),))


def test_slots_share_the_epochs():
    """Three trials, two at a time: the third begins when the first two have ended."""
    record = record_of(dict.fromkeys("abc", (80.0, 70.0, 60.0)))
    (grid,) = play(record, Setting(orders=1))[GRID]
    assert grid.epochs == 27
    assert [spent for spent, _ in grid.completed] == [17, 18, 27]


def test_what_diverges_stops_and_no_rung_waits_for_it():
    record = ranked()
    broken = tuple((math.nan, bits) for bits in (FLOAT, FOUR, TWO))
    record = StudyRecord(
        {**record.curves, "t8": (broken,), "t7": (*record.curves["t7"][:2], broken)}, record.students, EPOCHS
    )
    assert on_front(record) == {"t6"}
    outcome = simulate(scheduler("halving"), record, sorted(record.curves), slots=3)
    assert outcome == Outcome(9 + 3 * 2 + 6, ((21, "t6"),))
    (grid,) = play(record, Setting(orders=1))[GRID]
    assert grid.epochs == 7 * EPOCHS + 1 + 3


def test_the_true_front_is_of_all_last_epochs():
    assert on_front(traded()) == {"float", "four", "two"}
    assert on_front(ranked()) == {"t8"}


def test_pareto_keeps_what_float_accuracy_loses():
    """One rung after epoch 3: a third of the trials survives it, which is the front, if the scheduler can see it."""
    record = traded()
    table = summary(record, play(record, Setting(orders=20, grace_period=3))).set_index("strategy")
    assert table.loc["halving_pareto", ["front_lost", "front_lost_std"]].tolist() == [0, 0]
    assert table.loc["halving", ["front_lost", "front_lost_std"]].tolist() == pytest.approx([200 / 3, 0])
    assert table.loc["halving", "saved"] == table.loc["halving_pareto", "saved"] == pytest.approx(100 * 36 / 81)
    assert table.loc["halving_pareto", "hypervolume"] == table.loc[GRID, "hypervolume"]
    assert table.loc["halving", "hypervolume"] < table.loc[GRID, "hypervolume"] - 1
    assert table.loc["asha_pareto", "front_lost"] < 10 < 30 < table.loc["asha", "front_lost"]


def test_no_rule_keeps_a_late_bloomer():
    """Curves that cross after the last rung: the best at the end was the worst at every rung."""
    finals = {f"t{i}": (80.0 + i, 70.0 + i, 60.0 + i) for i in range(8)} | {"late": (95.0, 85.0, 75.0)}
    record = record_of(
        finals, lambda trial, epoch: (0.01 if trial == "late" and epoch < EPOCHS else 1) * epoch / EPOCHS
    )
    assert on_front(record) == {"late"}
    table = summary(record, play(record, Setting(orders=10))).set_index("strategy")
    for name in stopping():
        lost = table.loc[name, "front_lost"]
        assert lost == 100 if SCHEDULERS[name].promotion == "synchronous" else lost > 0
    assert table.loc[GRID, "front_lost"] == 0


def test_random_search_spends_what_asha_pareto_does():
    record = traded()
    played = play(record, Setting(orders=10))
    spent = np.mean([outcome.epochs for outcome in played["asha_pareto"]])
    assert {outcome.epochs for outcome in played[RANDOM]} == {EPOCHS * round(spent / EPOCHS)}


def test_all_strategies_are_played_on_the_same_orders_every_time():
    record = traded()
    played = play(record, Setting(orders=4))
    assert list(played) == [GRID, RANDOM, *stopping()]
    assert play(record, Setting(orders=4)) == played
    for whole, part in zip(played[GRID], played[RANDOM], strict=True):
        assert whole.completed[: len(part.completed) - 1] == part.completed[:-1]
    assert len({outcome.completed for outcome in played[GRID]}) > 1


def test_the_progress_of_every_strategy_is_shown_and_changes_nothing():
    record, seen = traded(), []

    def track(orders, name):
        for order in orders:
            seen.append(name)
            yield order

    played = play(record, Setting(orders=3), track)
    assert played == play(record, Setting(orders=3))
    assert sorted(seen) == sorted(name for name in played for _ in range(3))


def test_a_configuration_counts_once_all_its_seeds_are_complete():
    """Two configurations of two seeds, of which a and b share a student: any of them measures the first seed."""
    record = traded()
    first = Target((frozenset("ab"), frozenset("c")), 50.0, 2.0**20)
    second = Target((frozenset("b"), frozenset("c")), 40.0, 2.0**10)
    record = replace(record, configurations=(first, second))
    outcome = Outcome(40, ((10, "a"), (20, "c"), (30, "b"), (40, "d")))
    both = hypervolume([(50, 20), (40, 10)], (0, 30))
    assert curve(record, outcome, np.array([10, 20, 30, 40])).tolist() == [0, 50 * (30 - 20), both, both]


def test_a_curve_by_hand():
    record = traded()
    pairs = [[(accuracy, math.log2(bits)) for accuracy, bits in record.points[name]] for name in ("t0", "two")]
    first, both = hypervolume(pairs[0], (0, 30)), hypervolume(pairs[0] + pairs[1], (0, 30))
    outcome = Outcome(20, ((9, "t0"), (18, "two")))
    assert curve(record, outcome, np.array([0, 8, 9, 17, 18, 81])).tolist() == [0, 0, first, first, both, both]


def test_means_and_deviations_over_orders():
    record = traded()
    played = {GRID: [Outcome(81, ((9, "float"), (81, "two"))), Outcome(81, ((9, "two"), (81, "float")))]}
    curves = mean_curves(record, played).set_index("epochs")
    halves = [hypervolume([(a, math.log2(b)) for a, b in record.points[name]], (0, 30)) for name in ("float", "two")]
    assert curves.loc[9, "mean"] == pytest.approx(np.mean(halves))
    assert curves.loc[9, "deviation"] == pytest.approx(np.std(halves, ddof=1))
    assert curves.loc[81, "deviation"] == 0
    (row,) = summary(record, played).to_dict(orient="records")
    assert (row["saved"], row["n"], row["front_lost"]) == (0, 2, pytest.approx(100 / 3))
    assert row["equal_budget"] == pytest.approx(np.mean(halves))
    assert row["equal_budget_std"] == pytest.approx(np.std(halves, ddof=1))


def test_one_order_has_no_deviation():
    table = summary(traded(), play(traded(), Setting(orders=1)))
    assert table["epochs_std"].isna().all()


def test_a_replay_is_drawn(tmp_path):
    record = traded()
    for orders in (1, 5):
        played = play(record, Setting(orders=orders))
        path = tmp_path / "new" / f"{orders}.png"
        draw_replay(mean_curves(record, played), summary(record, played), path, "a $ study_x")
        with Image.open(path) as image:
            assert image.size == (1600, 800)
            assert len(image.convert("RGB").getcolors(maxcolors=2**20)) > 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": 0}, "orders = 0: must be at least 1"),
        ({"orders": 10**9}, "orders = 1000000000: must be at least 1 and at most 10,000"),
        ({"slots": 0}, "slots = 0: must be at least 1"),
        ({"grace_period": 9}, "must be below the number of epochs"),
        ({"reduction_factor": 1}, "reduction_factor = 1: must be"),
    ],
)
def test_settings_that_make_no_replay(change, message):
    with pytest.raises(UserError, match=message):
        play(traded(), replace(Setting(), **change))


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({"t": (((math.nan, 1e6), (1.0, 1e5)),)}, "no trial of the record completed"),
        ({"t": (((50.0, 1e6),),) * EPOCHS}, "float accuracy only"),
    ],
)
def test_records_that_make_no_replay(curves, message):
    with pytest.raises(UserError, match=message):
        play(StudyRecord(curves, {"t": "t"}, EPOCHS), Setting())
