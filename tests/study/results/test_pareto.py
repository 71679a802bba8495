from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from study.results.pareto import contributions, front, hypervolume, ranks

# Few distinct values, so that ties and duplicates are common.
values = st.integers(0, 6).map(float) | st.floats(-10, 10)
points = st.integers(0, 25).flatmap(lambda n: arrays(np.float64, (n, 2), elements=values))


def naive_front(array):
    """The definition, pair by pair."""

    def dominates(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and (a[0] > b[0] or a[1] < b[1])

    return [not any(dominates(other, point) for other in array) for point in array]


def naive_hypervolume(array, reference):
    """Every cell of the grid through all coordinates, counted if some point dominates its centre."""
    accuracies = np.unique([reference[0], *array[:, 0]])
    bits = np.unique([reference[1], *array[:, 1]])
    area = 0.0
    for low, high in pairwise(accuracies):
        for left, right in pairwise(bits):
            inside = low >= reference[0] and right <= reference[1]
            if inside and any(accuracy >= high and size <= left for accuracy, size in array):
                area += (high - low) * (right - left)
    return area


def test_front_of_a_known_set():
    known = [(90, 4), (85, 2), (85, 3), (91, 8), (80, 2), (90, 5), (50, 1)]
    assert front(known).tolist() == [True, True, False, True, False, False, True]


def test_duplicates_of_a_front_point_are_all_on_the_front():
    assert front([(90, 4), (80, 4), (90, 4), (80, 4)]).tolist() == [True, False, True, False]


def test_nothing_has_an_empty_front_and_no_volume():
    assert front([]).shape == (0,)
    assert hypervolume([], (0, 1)) == 0


@given(points)
def test_front_equals_the_definition(array):
    assert front(array).tolist() == naive_front(array)


@given(points, st.randoms(use_true_random=False))
def test_the_order_of_points_is_irrelevant(array, random):
    order = list(range(len(array)))
    random.shuffle(order)
    assert front(array[order]).tolist() == front(array)[order].tolist()
    assert hypervolume(array[order], (1, 5)) == hypervolume(array, (1, 5))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        ([(3, 1)], 3 * 4),
        ([(3, 1), (2, 3)], 3 * 4),  # the second is dominated
        ([(1, 1), (3, 3)], 1 * 4 + 2 * 2),
        ([(1, 1), (2, 2), (3, 3)], 4 + 3 + 2),
        ([(3, 5)], 0),  # on the border
        ([(3, 6), (-1, 1), (0, 2)], 0),  # beyond the reference
        ([(3, 6), (1, 1)], 4),
    ],
)
def test_hypervolume_in_closed_form(array, expected):
    assert hypervolume(array, (0, 5)) == expected


def test_hypervolume_of_a_staircase_in_closed_form():
    n = 50
    steps = [(k, k) for k in range(n)]  # the k-th adds one more row, of width n - k
    assert hypervolume(steps, (-1, n)) == n * (n + 1) / 2


@given(points, st.tuples(values, values))
def test_hypervolume_equals_the_grid(array, reference):
    assert hypervolume(array, reference) == pytest.approx(naive_hypervolume(array, reference), abs=1e-9)


@given(points, st.tuples(values, values))
def test_more_points_never_have_less_volume(array, point):
    reference = (0.0, 6.0)
    before, after = hypervolume(array, reference), hypervolume([*array, point], reference)
    assert after >= before - 1e-9
    if len(array) and not front([*array, point])[-1]:
        assert after == pytest.approx(before, abs=1e-9)


@given(points)
def test_the_front_has_the_volume_of_all(array):
    assert hypervolume(array[front(array)], (0, 6)) == pytest.approx(hypervolume(array, (0, 6)), abs=1e-9)


def test_contributions_in_closed_form():
    """Of the staircase 4 + 3 + 2, each owner alone has what no other reaches; a point that two own is nobody's."""
    steps, reference = [(1, 1), (2, 2), (3, 3)], (0, 5)
    assert contributions(steps, [0, 1, 2], reference) == {0: 1, 1: 1, 2: 2}
    assert contributions(steps, [7, 7, 7], reference) == {7: 9}
    assert contributions(steps, [0, 1, 0], reference) == {0: 3, 1: 1}
    assert contributions([*steps, (3, 3)], [0, 1, 2, 3], reference) == {0: 1, 1: 1, 2: 0, 3: 0}
    assert contributions([(3, 6), (-1, 1)], [0, 1], reference) == {0: 0, 1: 0}  # beyond the reference
    assert contributions([], [], reference) == {}


@given(points, st.tuples(values, values), st.data())
def test_a_contribution_is_what_all_lose_without_the_owner(array, reference, data):
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(array), max_size=len(array)))
    added = contributions(array, owners, reference)
    assert added.keys() == set(owners)
    whole = hypervolume(array, reference)
    for owner, area in added.items():
        others = array[np.array(owners) != owner]
        assert area == pytest.approx(whole - hypervolume(others, reference), abs=1e-9)
        if np.array_equal(*(np.unique(of[front(of)], axis=0) for of in (array, others))):
            assert area == 0


def test_ranks_of_a_known_set():
    known = [(90, 4), (85, 2), (85, 3), (80, 3), (90, 5), (85, 2)]
    assert ranks(known).tolist() == [0, 0, 1, 2, 1, 0]
    assert ranks([]).shape == (0,)


@given(points)
def test_a_rank_is_the_longest_chain_of_dominating_points(array):
    dominates = [[a[0] >= b[0] and a[1] <= b[1] and tuple(a) != tuple(b) for b in array] for a in array]
    longest = {}
    for i in sorted(range(len(array)), key=lambda i: (-array[i][0], array[i][1])):
        longest[i] = max((longest[j] + 1 for j in longest if dominates[j][i]), default=0)
    assert ranks(array).tolist() == [longest[i] for i in range(len(array))]


@pytest.mark.parametrize("bad", [[(np.nan, 1)], [(1, np.inf)], [(1, 1), (1, -np.inf)], [1, 2], [(1, 2, 3)]])
def test_what_is_not_finite_pairs_raises(bad):
    with pytest.raises(ValueError, match="must be"):
        front(bad)
    with pytest.raises(ValueError, match="must be"):
        ranks(bad)
    with pytest.raises(ValueError, match="must be"):
        hypervolume(bad, (0, 5))
    with pytest.raises(ValueError, match="must be"):
        contributions(bad, range(len(bad)), (0, 5))


def test_a_reference_that_is_not_finite_raises():
    with pytest.raises(ValueError, match="finite"):
        hypervolume([(1, 1)], (0, np.inf))
