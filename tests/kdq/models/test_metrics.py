"""Metrics: closed forms, naive formulas, scikit-learn as a peer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, log_loss, top_k_accuracy_score

from kdq.models.metrics import BINS, agreement, calibration_error, measure_logits, predicted


def random_case(samples: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(samples, classes, generator=random), torch.arange(samples) % classes


@pytest.mark.parametrize(("samples", "classes"), [(50, 10), (200, 7), (40, 3), (30, 2)])
def test_equal_to_scikit_learn(samples: int, classes: int) -> None:
    logits, labels = random_case(samples, classes, seed=samples)
    found = measure_logits(logits, labels)
    probabilities = logits.double().softmax(1).numpy()
    assert found.balanced == pytest.approx(100 * balanced_accuracy_score(labels, logits.argmax(1)))
    assert found.nll == pytest.approx(log_loss(labels, probabilities, labels=range(classes)))
    if classes > 5:
        expected = top_k_accuracy_score(labels, probabilities, k=5, labels=range(classes))
        assert found.top5 == pytest.approx(100 * expected)
    else:
        assert found.top5 is None


@given(st.integers(1, 60), st.integers(2, 8), st.integers(0, 999))
def test_the_calibration_error_is_that_of_the_naive_formula(samples: int, classes: int, seed: int) -> None:
    logits, labels = random_case(samples, classes, seed)
    confidence, classified = logits.double().softmax(1).max(1)
    total = 0.0
    for low in range(BINS):
        inside = [i for i, p in enumerate(confidence.tolist()) if low / BINS < p <= (low + 1) / BINS]
        if inside:
            accuracy = np.mean([float(classified[i] == labels[i]) for i in inside])
            total += len(inside) / samples * abs(accuracy - np.mean([confidence[i].item() for i in inside]))
    assert measure_logits(logits, labels).ece == pytest.approx(100 * total, abs=1e-9)


def test_a_case_by_hand() -> None:
    """Three images: probabilities (1/2, 1/4, 1/4), the second class never right, the third has no image."""
    logits = torch.tensor([[0.5, 0.25, 0.25]] * 3).log()
    found = measure_logits(logits, torch.tensor([0, 0, 1]))
    assert found.per_class == (100.0, 0.0, None)
    assert found.balanced == 50.0
    assert found.nll == pytest.approx((2 * math.log(2) + math.log(4)) / 3)
    assert found.ece == pytest.approx(100 * (2 / 3 - 1 / 2))
    assert found.named("val") == {"val_balanced": 50.0, "val_nll": found.nll, "val_ece": found.ece}


def test_certain_predictions_are_calibrated_if_they_are_right() -> None:
    sure, right = torch.tensor([1.0, 1.0], dtype=torch.float64), torch.tensor([True, True])
    assert calibration_error(sure, right) == 0.0
    assert calibration_error(sure, ~right) == 1.0
    assert calibration_error(torch.zeros(1, dtype=torch.float64), torch.tensor([False])) == 0.0


def test_huge_logits_have_a_finite_likelihood_and_what_is_not_finite_is_left_out() -> None:
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]])
    assert measure_logits(logits, torch.tensor([0, 1])).nll == 1e4
    broken = measure_logits(torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
    assert set(broken.named("test")) == {"test_balanced"}


def test_agreement_is_the_share_of_equal_predictions() -> None:
    one, other = (predicted(torch.tensor(rows)) for rows in ([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [2.0, 1.0]]))
    assert (one.tolist(), other.tolist()) == ([0, 1], [0, 0])
    assert agreement(one, other) == 50.0
    assert agreement(one, one) == 100.0
