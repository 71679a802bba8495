"""Areas under fronts that are known by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.results.front import SeedGroup, front_shares, relative_hypervolume, size_range
from study.results.point import Point

POINT = Point("t", "dkd", 1.0, 8.0, 4.0, None, 0, "resnet8", 2, 2.0, 1024, 128, 50.0, 50.0)


def group(exponent, accuracy, alpha=1.0):
    """A configuration of one seed with 2^exponent total bits."""
    return SeedGroup(
        (replace(POINT, alpha=alpha, total_bits=2**exponent, packed_bytes=2**exponent, val_top1=accuracy),)
    )


GROUPS = st.lists(
    st.builds(group, st.integers(8, 16), st.sampled_from([10.0, 30.0, 50.0, 90.0])), min_size=1, max_size=8
)


def test_an_area_by_hand():
    """80 % over 2 octaves and 90 % over the next 3, to a dominated one; the reference has 90 % over all 5."""
    groups = [group(10, 80.0), group(12, 90.0), group(15, 85.0), group(11, 70.0)]
    assert relative_hypervolume(groups, 90.0) == pytest.approx(100 * (80 * 2 + 90 * 3) / (90 * 5))
    assert [share for _, share in front_shares(groups)] == [pytest.approx(0.4), pytest.approx(0.6)]


def test_a_range_given_for_several_studies():
    groups = [group(10, 80.0), group(12, 90.0)]
    assert relative_hypervolume(groups, 80.0, (2**8, 2**12)) == pytest.approx(50)  # nothing is as small as 2^8
    assert relative_hypervolume(groups, 80.0, (2**10, 2**14)) == pytest.approx(100 * (80 * 2 + 90 * 2) / (80 * 4))


def test_one_size_is_the_ratio_of_the_accuracies():
    assert relative_hypervolume([group(10, 60.0), group(10, 75.0, 2.0)], 100.0) == pytest.approx(75)
    assert relative_hypervolume([], 100.0) == 0


@given(GROUPS)
def test_the_best_everywhere_has_the_reference_s_area(groups):
    top = max(each.mean("val_top1") for each in groups)
    smallest, largest = size_range(groups)
    perfect = group(int(smallest).bit_length() - 1, top)
    assert relative_hypervolume([perfect, *groups], top) == pytest.approx(100)
    assert 0 < relative_hypervolume(groups, top) <= 100 + 1e-9
    assert sum(share for _, share in front_shares(groups)) == pytest.approx(1)
    assert relative_hypervolume(groups, top, (smallest, largest)) == relative_hypervolume(groups, top)


@given(GROUPS, st.integers(8, 16), st.sampled_from([20.0, 60.0, 95.0]))
def test_another_configuration_never_takes_area_away(groups, exponent, accuracy):
    more = [*groups, group(exponent, accuracy, 3.0)]
    sizes = size_range(more)
    assert relative_hypervolume(more, 50.0, sizes) >= relative_hypervolume(groups, 50.0, sizes) - 1e-9
