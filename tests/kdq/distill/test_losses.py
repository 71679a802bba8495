"""Losses: naive float64 formulas, closed forms, identities."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor

from kdq.distill import losses

Case = tuple[Tensor, Tensor, Tensor, float]


@st.composite
def cases(draw: st.DrawFn, largest: float = 30.0) -> Case:
    """logits_student, logits_teacher (both float32 [N, C]), labels, temperature."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 12)))
    numbers = st.floats(-largest, largest, width=32)
    student, teacher = (torch.from_numpy(draw(arrays(np.float32, shape, elements=numbers))) for _ in range(2))
    labels = torch.from_numpy(draw(arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1))))
    return student, teacher, labels, draw(st.floats(0.5, 10))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exp = np.exp(logits - logits.max())
    return exp / exp.sum()


def kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0))


def naive(student: Tensor, teacher: Tensor, label: int, temperature: float) -> tuple[float, float, float]:
    """(KD, TCKD, NCKD) of one sample, by the definitions, in float64."""
    p, q = (softmax(logits.double().numpy() / temperature) for logits in (teacher, student))
    others = np.arange(len(p)) != label
    binary_p, binary_q = (np.array([a[label], a[others].sum()]) for a in (p, q))
    rest_p, rest_q = (softmax(logits.double().numpy()[others] / temperature) for logits in (teacher, student))
    return tuple(temperature**2 * kl(a, b) for a, b in ((p, q), (binary_p, binary_q), (rest_p, rest_q)))  # type: ignore[return-value]


@given(cases())
def test_equal_to_the_naive_formulas(case: Case) -> None:
    student, teacher, labels, temperature = case
    expected = [naive(s, t, int(y), temperature) for s, t, y in zip(student, teacher, labels, strict=True)]
    actual = torch.stack(
        [
            losses.kd(student, teacher, temperature),
            losses.tckd(student, teacher, labels, temperature),
            losses.nckd(student, teacher, labels, temperature),
        ],
        dim=1,
    )
    torch.testing.assert_close(actual.double(), torch.tensor(expected).double(), rtol=1e-4, atol=3e-4)


@given(cases())
def test_kd_is_tckd_and_the_share_of_nckd(case: Case) -> None:
    student, teacher, labels, temperature = case
    p_t = (teacher.double() / temperature).softmax(1).gather(1, labels[:, None]).squeeze(1)
    parts = losses.tckd(student, teacher, labels, temperature).double()
    parts = parts + (1 - p_t) * losses.nckd(student, teacher, labels, temperature)
    torch.testing.assert_close(losses.kd(student, teacher, temperature).double(), parts, rtol=1e-4, atol=3e-4)


@given(cases(), st.floats(0, 1))
def test_cross_entropy_is_that_of_torch(case: Case, smoothing: float) -> None:
    student, _, labels, _ = case
    expected = F.cross_entropy(student, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(losses.cross_entropy(student, labels, smoothing), expected, rtol=1e-5, atol=1e-4)


@given(cases())
def test_never_negative_and_zero_for_equal_logits(case: Case) -> None:
    student, teacher, labels, temperature = case
    for loss in (losses.tckd, losses.nckd):
        assert (loss(student, teacher, labels, temperature) > -1e-3).all()
        assert not loss(teacher, teacher, labels, temperature).any()
    assert (losses.kd(student, teacher, temperature) > -1e-3).all()
    assert not losses.kd(teacher, teacher, temperature).any()


@given(cases(), st.floats(-50, 50))
def test_nckd_ignores_the_target_and_a_shift(case: Case, shift: float) -> None:
    student, teacher, labels, temperature = case
    other = student.scatter(1, labels[:, None], 7.0) + shift
    torch.testing.assert_close(
        losses.nckd(student, teacher, labels, temperature),
        losses.nckd(other, teacher, labels, temperature),
        rtol=1e-3,
        atol=1e-3 * temperature,
    )


def test_gradient_of_kd_is_the_temperature_times_the_difference_of_probabilities() -> None:
    student = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    teacher = torch.tensor([[0.0, 3.0, 1.0]])
    losses.kd(student, teacher, 4.0).sum().backward()  # type: ignore[no-untyped-call]
    expected = 4.0 * ((student.detach() / 4).softmax(1) - (teacher / 4).softmax(1))
    torch.testing.assert_close(student.grad, expected)


def test_a_case_by_hand() -> None:
    """Teacher (1/2, 1/4, 1/4) against a uniform student, target 0: every part has a closed form."""
    teacher, student = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.zeros(1, 3)
    labels = torch.tensor([0])
    tckd = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    assert losses.tckd(student, teacher, labels, 1.0).item() == pytest.approx(tckd, abs=1e-6)
    assert losses.nckd(student, teacher, labels, 1.0).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.kd(student, teacher, 1.0).item() == pytest.approx(tckd, abs=1e-6)
    assert losses.cross_entropy(student, labels).item() == pytest.approx(math.log(3))


def test_nckd_of_two_classes_is_zero() -> None:
    student, teacher = torch.tensor([[5.0, -3.0]]), torch.tensor([[-1.0, 8.0]])
    assert losses.nckd(student, teacher, torch.tensor([1]), 2.0).item() == 0.0


def test_nckd_is_exact_where_the_target_takes_all_the_probability() -> None:
    student, teacher = torch.tensor([[0.0, -1e4, -1e4]]), torch.tensor([[1e4, 0.0, math.log(3)]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert losses.nckd(student, teacher, torch.tensor([0]), 1.0).item() == pytest.approx(expected, abs=1e-3)


def test_exact_where_the_target_takes_all_the_probability() -> None:
    """A softmax followed by a logarithm gives infinity here; T²·KL is 4·10⁴ to the last digit."""
    student, teacher = torch.tensor([[0.0, 1e4, 0.0]]), torch.tensor([[1e4, 0.0, 0.0]])
    assert losses.kd(student, teacher, 2.0).item() == 2.0**2 * 1e4 / 2.0
    assert losses.tckd(student, teacher, torch.tensor([0]), 2.0).item() == 2.0**2 * 1e4 / 2.0


def correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Pearson's r by its definition."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.parametrize(("samples", "classes", "temperature"), [(6, 4, 1.0), (3, 12, 4.0), (2, 2, 2.0)])
def test_dist_is_one_less_the_correlations_of_rows_and_columns(samples: int, classes: int, temperature: float) -> None:
    random = torch.Generator().manual_seed(samples)
    student, teacher = (3 * torch.randn(samples, classes, generator=random) for _ in range(2))
    q, p = (np.stack([softmax(row) for row in z.double().numpy() / temperature]) for z in (student, teacher))
    inter, intra = losses.dist(student, teacher, temperature)
    rows = torch.tensor([temperature**2 * (1 - correlation(a, b)) for a, b in zip(q, p, strict=True)])
    columns = [temperature**2 * (1 - correlation(a, b)) for a, b in zip(q.T, p.T, strict=True)]
    torch.testing.assert_close(inter, rows.float(), rtol=1e-4, atol=1e-5)
    assert intra.mean().item() == pytest.approx(np.mean(columns), rel=1e-4, abs=1e-5)
    assert (intra >= 0).all()


def test_dist_of_one_sample_has_nothing_within_classes() -> None:
    inter, intra = losses.dist(torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[3.0, 0.0, 1.0]]), 2.0)
    assert inter.item() > 0
    assert intra.item() == 0


@given(cases(largest=10.0))
def test_wttm_is_the_weighted_kl_to_the_teachers_power(case: Case) -> None:
    student, teacher, _, temperature = case
    expected = []
    for s, t in zip(student, teacher, strict=True):
        power = softmax(t.double().numpy()) ** (1 / temperature)
        expected.append(power.sum() * kl(power / power.sum(), softmax(s.double().numpy())))
    actual = losses.wttm(student, teacher, temperature).double()
    torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-3, atol=1e-3)


@given(cases(), st.floats(0.1, 10), st.floats(-20, 20))
def test_standardized_logits_are_z_scores(case: Case, scale: float, shift: float) -> None:
    logits = case[0].double().numpy()
    deviation = logits.std(1, keepdims=True)
    expected = np.where(deviation > 1e-3, (logits - logits.mean(1, keepdims=True)) / np.maximum(deviation, 1e-3), 0)
    found = losses.standardized(case[0])
    wide = torch.from_numpy(deviation > 1e-3).expand_as(found)
    torch.testing.assert_close(found[wide].double(), torch.from_numpy(expected)[wide], rtol=1e-3, atol=1e-3)
    moved = losses.standardized(scale * case[0] + shift)
    steep = torch.from_numpy(deviation > 0.1).expand_as(found)
    torch.testing.assert_close(moved[steep], found[steep], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("channels", [(3, 3), (2, 5)])
def test_attention_transfer_is_the_mean_squared_distance_of_normalized_maps(channels: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, count, 4, 2, generator=random) for count in channels)
    expected = []
    for s, t in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        maps = [np.array([[(a[:, y, x] ** 2).sum() for x in range(2)] for y in range(4)]).ravel() for a in (s, t)]
        unit = [vector / math.sqrt((vector * vector).sum()) for vector in maps]
        expected.append(((unit[0] - unit[1]) ** 2).mean())
    actual = losses.attention_transfer(student, teacher)
    torch.testing.assert_close(actual.double(), torch.tensor(expected), rtol=1e-5, atol=1e-7)


def test_an_attention_map_of_zeros_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 2, 2, 2, requires_grad=True)
    loss = losses.attention_transfer(student, torch.ones(1, 2, 2, 2))
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(0.25)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_equal_logits_are_standardized_to_zeros_without_gradient() -> None:
    logits = torch.full((2, 3), 7.0, requires_grad=True)
    found = losses.standardized(logits)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert not found.any()
    torch.testing.assert_close(logits.grad, torch.zeros(2, 3))
