import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.results.front import REFERENCE
from study.results.pareto import front
from study.schedulers.priorities import FLOAT, PARETO, PRIORITIES, QUANTIZED, dominates

# Few distinct values, so that ties, duplicates and dominance are common; 0 % and 2^30 bits lie on the reference.
accuracies = st.sampled_from([0.0, 10.0, 50.0, 90.0]) | st.floats(0, 100)
sizes = st.sampled_from([1e5, 2e5, 4e5, 2.0**30]) | st.floats(1, 2.0**31)
pairs = st.tuples(accuracies, sizes)
values = st.lists(pairs, min_size=2, max_size=5)
rungs = st.lists(values, min_size=1, max_size=8).map(lambda all_: {f"t{i}": v for i, v in enumerate(all_)})


def reaches(pair, other):
    return pair[0] >= other[0] and pair[1] <= other[1]


def naive_dominates(a, b):
    """The definition, pair by pair."""

    def covers(x, y):
        return all(any(reaches(p, q) for p in x) for q in y)

    return covers(a, b) and not covers(b, a)


def worse_somewhere(show, data):
    """Values that `show` dominates or equals: each pair loses accuracy, gains bits, or neither."""
    losses = data.draw(st.lists(st.sampled_from([0.0, 0.0, 1.0, 5.0]), min_size=len(show), max_size=len(show)))
    gains = data.draw(st.lists(st.sampled_from([1.0, 1.0, 1.5, 2.0]), min_size=len(show), max_size=len(show)))
    return [(max(a - loss, 0.0), b * gain) for (a, b), loss, gain in zip(show, losses, gains, strict=True)]


def test_float_accuracy_is_that_of_the_first_pair():
    assert FLOAT.scores({"a": [(90, 32e6)], "b": [(80, 32e6), (95, 2e6)]}) == {"a": 90, "b": 80}


def test_quantized_accuracy_is_the_mean_over_the_widths():
    assert QUANTIZED.scores({"a": [(99, 32e6), (90, 4e6), (60, 2e6)]}) == {"a": 75}


def test_a_float_winner_may_be_a_quantized_loser():
    rung = {"float": [(92, 32e6), (40, 2e6)], "robust": [(91, 32e6), (88, 2e6)]}
    assert max(rung, key=FLOAT.scores(rung).get) == "float"
    assert max(rung, key=QUANTIZED.scores(rung).get) == "robust"
    assert len(set(PARETO.scores(rung).values())) == 2


def test_what_shows_no_width_has_no_quantized_accuracy():
    with pytest.raises(AssertionError, match="no quantized accuracy"):
        QUANTIZED.scores({"a": [(90, 32e6)]})


def test_pareto_by_hand():
    """Two on the front, of which one alone adds more; one behind it; one behind all."""
    rung = {
        "small": [(80.0, 2.0**20)],  # alone it adds 80 × 2 octaves
        "large": [(90.0, 2.0**22)],  # alone it adds 10 × 8 octaves
        "behind": [(79.0, 2.0**21)],
        "last": [(70.0, 2.0**23)],
    }
    assert PARETO.scores(rung) == {"small": 3, "large": 2, "behind": 1, "last": 0}


def test_equal_pairs_that_add_nothing_stand_by_who_dominates_them():
    """a and b are alike, so neither adds a thing; c has their best pair and less beside it. The ids favour c."""
    alike = [(90.0, 4e6), (80.0, 2e6)]
    scores = PARETO.scores({"b": alike, "c": alike, "a": [(90.0, 4e6), (70.0, 2e6)]})
    assert scores == {"b": 1, "c": 1, "a": 0}


def test_a_dominating_trial_stands_above_the_order_it_came_in():
    """Syne Tune takes sorted indices for priorities, and stops the (0, 0) that comes after these (both to minimise)."""
    rung = {f"t{i}": [(100.0 - i, 2.0**i)] for i in (1, 2, 3, 0)}
    assert max(rung, key=PARETO.scores(rung).get) == "t0"


@given(values, values)
def test_dominance_of_sets_is_the_definition(a, b):
    assert dominates(a, b) == naive_dominates(a, b)


@given(rungs, values, st.data())
def test_a_trial_stands_above_every_trial_that_it_dominates(rung, better, data):
    rung["better"], rung["a-worse"] = better, worse_somewhere(better, data)
    scores = PARETO.scores(rung)
    for a in rung:
        for b in rung:
            if naive_dominates(rung[a], rung[b]):
                assert scores[a] > scores[b]


def test_a_trial_that_improves_falls_behind_nobody():
    """By improving, "new" outdoes the first pair of `rival`, whose second pair left `other` little to add."""
    rung = {"other": [(90.0, 2.0**20)], "rival": [(49.9, 2.0**15), (89.99, 2.0**20)]}
    for new in [(50.0, 2.0**15.5)], [(50.0, 2.0**15)]:
        scores = PARETO.scores(rung | {"new": new})
        assert scores["new"] > scores["other"]


@given(rungs, values, st.data())
def test_a_trial_that_improves_keeps_all_that_it_was_ahead_of(rung, better, data):
    before = PARETO.scores(rung | {"new": worse_somewhere(better, data)})
    after = PARETO.scores(rung | {"new": better})
    assert all(after["new"] > after[trial] for trial in rung if before["new"] > before[trial])


@given(rungs)
def test_a_pair_on_the_front_stands_above_trials_without_one(rung):
    pooled = [(pair, trial) for trial, shown in rung.items() for pair in shown]
    mask = front([pair for pair, _ in pooled])
    on = {trial for (_, trial), is_on in zip(pooled, mask, strict=True) if is_on}
    scores = PARETO.scores(rung)
    assert min(scores[trial] for trial in on) > max((scores[t] for t in rung if t not in on), default=-1)


@pytest.mark.parametrize("priority", PRIORITIES.values(), ids=PRIORITIES)
@given(rungs, st.randoms(use_true_random=False))
def test_scores_know_no_order_and_no_names(priority, rung, random):
    names = list(rung)
    random.shuffle(names)
    assert priority.scores({name: rung[name] for name in names}) == priority.scores(rung)
    renamed = priority.scores({f"z{name}" if i % 2 else name: rung[name] for i, name in enumerate(names)})
    assert sorted(renamed.values()) == sorted(priority.scores(rung).values())


@pytest.mark.parametrize("priority", PRIORITIES.values(), ids=PRIORITIES)
@given(rungs, values)
def test_equals_score_equally(priority, rung, same):
    rung |= {"a-same": same, "z-same": same}
    scores = priority.scores(rung)
    assert scores["a-same"] == scores["z-same"]


@pytest.mark.parametrize("priority", PRIORITIES.values(), ids=PRIORITIES)
def test_an_empty_rung_has_no_scores(priority):
    assert priority.scores({}) == {}


def test_hypervolume_decides_among_the_front_in_octaves():
    """Worked out here for three trials of two pairs each, all on the front: what each alone adds."""
    rung = {
        "a": [(90.0, 2.0**24), (60.0, 2.0**20)],
        "b": [(88.0, 2.0**23), (62.0, 2.0**21)],
        "c": [(92.0, 2.0**25), (75.0, 2.0**22)],
    }
    assert REFERENCE == (0.0, 30.0)
    # All are of rank 0, so what each alone adds decides.
    # a: 2 % × 1 octave above b up to c, and the first octave below 62 %: 60 × 1
    # b: 13 % × 1 octave above c's 75 %, and 2 % × 1 octave above a's 60 %
    # c: 2 % × 5 octaves above a's 90 %, and 13 % × 1 octave above b's 62 %
    alone = {"a": 2 + 60, "b": 13 + 2, "c": 10 + 13}
    expected = {trial: float(rank) for rank, trial in enumerate(sorted(alone, key=alone.get))}
    for order in permutations(rung):
        assert PARETO.scores({trial: rung[trial] for trial in order}) == expected


def test_scores_are_finite_numbers():
    rung = {"a": [(90.0, 1.0)], "b": [(np.float64(90.0), 2)]}
    assert all(math.isfinite(score) for score in PARETO.scores(rung).values())
