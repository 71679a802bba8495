import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri, stdtrit

from study.results.compare import NONE, Panel, Sample, SeedNoise, accuracy, difference, paired, simultaneous


def one_seed(correct, kind="2 bits", students="a"):
    return Sample(100.0 * np.array([correct], dtype=float), kind, students)


def counts(both, only_a, only_b, neither):
    """Two configurations with this table of images that both, one or none has right."""
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return one_seed(a, students="a"), one_seed(b, students="b")


def test_an_accuracy_of_one_seed_has_wilson_s_interval():
    """His example in Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263."""
    interval = accuracy(one_seed([1] * 81 + [0] * 182))
    assert (interval.value, interval.over_seeds) == (pytest.approx(8100 / 263), False)
    assert (round(interval.low, 2), round(interval.high, 2)) == (25.53, 36.62)


@pytest.mark.parametrize("correct", [0, 1])
def test_an_accuracy_of_0_or_100_percent_has_an_interval(correct):
    interval = accuracy(one_seed([correct] * 100))
    assert 3 < interval.high - interval.low < 4
    assert interval.low - 1e-9 <= 100 * correct <= interval.high + 1e-9


@given(*[st.integers(0, 40)] * 4)
def test_a_difference_of_one_seed_is_bonett_and_price_s(both, only_a, only_b, neither):
    n = both + only_a + only_b + neither
    if n < 2:
        return
    interval = difference(*counts(both, only_a, only_b, neither))
    p, q = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half = stdtrit(n + 1, 0.975) * math.sqrt((p + q - (p - q) ** 2) / (n + 1))
    assert interval.value == pytest.approx(100 * (only_a - only_b) / n)
    assert (interval.low, interval.high) == (pytest.approx(100 * (p - q - half)), pytest.approx(100 * (p - q + half)))


def test_one_image_of_240_tells_nothing_and_many_do():
    assert not difference(*counts(232, 1, 0, 7)).excludes_zero
    assert not difference(*counts(200, 5, 0, 35)).excludes_zero  # McNemar's exact test: p = 0.06
    assert difference(*counts(200, 9, 0, 31)).excludes_zero  # p = 0.004


def test_equal_predictions_differ_by_zero_within_what_so_many_images_can_tell():
    interval = difference(*counts(900, 0, 0, 100))
    assert interval.value == 0
    assert interval.low == -interval.high
    assert 0.2 < interval.high < 0.3


def test_a_difference_is_antisymmetric_and_wider_at_a_higher_level():
    a, b = counts(50, 9, 4, 20)
    there, back = difference(a, b), difference(b, a)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))
    wider = difference(a, b, level=simultaneous(20))
    assert wider.low < there.low < there.high < wider.high


def test_other_numbers_of_images_are_no_pair():
    with pytest.raises(ValueError, match="100 and 50 images: must be the same images"):
        difference(one_seed([1] * 100), one_seed([1] * 50))


def test_seeds_that_differ_alike_on_every_image_have_student_s_interval_over_seeds():
    """Every image of a seed has its value, so images add nothing, and the seeds' means are all there is."""
    values = np.array([[90.0], [92.0], [97.0]]) + np.zeros((3, 10**5))
    sample = Sample(values, "2 bits", "a")
    other = Sample(np.full_like(values, 80.0), "2 bits", "b")
    noise = SeedNoise({"2 bits": {"a": values[:, 0] - 93}})
    interval, expected = difference(sample, other, noise), paired([10.0, 12.0, 17.0])
    half = stdtrit(2, 0.975) * math.sqrt(2 * 13 / 3)  # both configurations have the pooled variance of 13 square points
    assert (interval.low, interval.high) == (pytest.approx(13 - half, rel=0.2), pytest.approx(13 + half, rel=0.2))
    assert expected.high - expected.low == pytest.approx(2 * stdtrit(2, 0.975) * math.sqrt(13 / 3))


def test_widths_of_the_same_students_are_paired_over_seeds():
    """Seeds move both widths alike, so their difference is known exactly; other students are other trainings."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=4000)
    good = np.array([-0.1, 0.0, 0.12])[:, None]
    wide, narrow = (100.0 * (images < level + good) for level in (0.0, -0.1))
    same = Sample(wide, 8, "a"), Sample(narrow, 2, "a")
    other = Sample(wide, 8, "b"), Sample(narrow, 2, "a")
    noise = SeedNoise.of([*same, other[0]])
    assert difference(*same, noise).excludes_zero
    assert not difference(*other, noise).excludes_zero


def draw(generator, configurations, seeds, images, spread, flips=0.7):
    """Configurations of equal expected accuracy; seeds vary by `spread`, single predictions by `flips`, in probits."""
    easy = generator.normal(size=images)
    level = 1.28 * math.sqrt(1 + flips**2)
    samples = []
    for name in range(configurations):
        luck = generator.normal(0, spread, size=(seeds, 1))
        correct = easy + luck + generator.normal(0, flips, size=(seeds, images)) < level
        samples.append(Sample(100.0 * correct, "2 bits", name))
    return samples, 100 * float(ndtr(level / math.sqrt(1 + flips**2 + spread**2)))


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (2, 0.1), (3, 0.03), (3, 0.2)])
def test_95_percent_intervals_hold_the_truth_in_95_percent_of_studies(seeds, spread):
    generator, rounds, held = np.random.default_rng(1), 800, np.zeros(2)
    for _ in range(rounds):
        (a, b, *others), truth = draw(generator, 5, seeds, 240, spread)
        noise = SeedNoise.of([a, b, *others])
        own, apart = accuracy(a, noise), difference(a, b, noise)
        held += own.low <= truth <= own.high, apart.low <= 0 <= apart.high
        assert own.over_seeds == apart.over_seeds == (seeds > 1)
    assert (held / rounds > 0.925).all()  # 3 standard errors below 0.95
    assert (held / rounds < 0.99).all()


def test_the_best_of_many_is_rarely_told_from_the_truly_best():
    """Bonferroni over all that the best is compared with allows for the choice of the best: the winner's curse."""
    generator, rounds, lost = np.random.default_rng(2), 200, 0
    for _ in range(rounds):
        samples, _ = draw(generator, 20, 1, 240, 0.0)
        best = max(samples, key=lambda sample: sample.mean)
        lost += difference(best, samples[0], NONE, simultaneous(19)).excludes_zero
    assert lost <= 0.05 * rounds


def test_the_level_of_many_comparisons():
    assert simultaneous(0) == simultaneous(1) == 0.95
    assert simultaneous(10) == pytest.approx(0.995)
    assert float(ndtri((1 + simultaneous(10)) / 2)) == pytest.approx(2.807, abs=1e-3)


@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(2, 40), st.sampled_from([0.5, 0.9, 1.0]))
def test_comparing_many_at_once_is_comparing_them_one_by_one(seed, seeds, images, rate):
    """Configurations of two widths, of which some have the same students."""
    correct = np.random.default_rng(seed).random((5, seeds, images)) < rate
    kinds, students = (2, 2, 2, 3, 3), ("a", "b", "c", "a", "b")
    samples = [Sample(100.0 * each, *names) for each, *names in zip(correct, kinds, students, strict=True)]
    noise = SeedNoise.of(samples)
    for b, own in enumerate(samples):
        others = [number for number in (4, 3, 2, 1, 0) if number != b]
        found = Panel(correct, kinds, students, noise).differences(others, b, 0.99)
        for number, interval in zip(others, found, strict=True):
            expected = difference(samples[number], own, noise, 0.99)
            assert interval.over_seeds == expected.over_seeds == (seeds > 1)
            ends = (interval.value, interval.low, interval.high)
            assert ends == pytest.approx((expected.value, expected.low, expected.high), abs=1e-9)
