"""Losses of classification and distillation as pure functions of logits, one value per sample.

logits: float [N, C], C >= 2, of any floating dtype (computed in float32, in log space); labels: int64 [N].
Everything returns float32 [N]. The teacher's logits are constants: no gradient reaches them. Only methods of
tensors are used, so that importing this module does not import torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ABSENT = -1e30
"""The logit of an excluded class: its probability is exactly 0, and 0 times a finite logit is 0, not NaN."""

TINY = 1e-16
"""Added to squared lengths that are divided by: a vector of zeros stays one, and its gradient finite."""


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy against (1 − s)·one-hot + s/C (Szegedy et al. 2016, section 7)."""
    log_p = _log_softmax(logits, 1.0)
    hard = -_at(log_p, labels)
    return (1 - label_smoothing) * hard - label_smoothing * log_p.mean(1) if label_smoothing else hard


def kd(logits_student: Tensor, logits_teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(teacher ‖ student) at temperature T (Hinton et al. 2015)."""
    log_p, log_q = _teacher_and_student(logits_student, logits_teacher, temperature)
    return temperature**2 * _kl(log_p, log_q)


def tckd(logits_student: Tensor, logits_teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Target-class part of KD: T²·KL of the binary (target, rest) distributions (Zhao et al. 2022, eq. 5)."""
    log_p, log_q = _teacher_and_student(logits_student, logits_teacher, temperature)
    target = _kl_term(_at(log_p, labels), _at(log_q, labels))
    rest = _kl_term(_without(log_p, labels).logsumexp(1), _without(log_q, labels).logsumexp(1))
    return temperature**2 * (target + rest)


def nckd(logits_student: Tensor, logits_teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Non-target part of KD: T²·KL over the classes other than the target (Zhao et al. 2022, eq. 5).

    With p_t the teacher's probability of the target at temperature T, kd = tckd + (1 − p_t)·nckd (eq. 7).
    With two classes it is 0.
    """
    log_p, log_q = _teacher_and_student(logits_student, logits_teacher, temperature)
    return temperature**2 * _kl(_without(log_p, labels).log_softmax(1), _without(log_q, labels).log_softmax(1))


def standardized(logits: Tensor) -> Tensor:
    """Z-scores of each row, (z − mean) / σ: float32 [N, C] (Sun et al. 2024, algorithm 1).

    Student and teacher then need the same order and proportions of logits, not the same range. σ is that of the row,
    Σ(z − mean)² / C; gradients flow through it. Equal logits give zeros, and so no gradient.
    """
    return _unit(logits.float(), 1) * math.sqrt(logits.shape[1])


def dist(logits_student: Tensor, logits_teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T²·(1 − Pearson's r) of probabilities at temperature T, between and within classes (Huang et al. 2022).

    Between: r of each sample's row. Within: r of each class's column over the batch, averaged over the classes; the
    value of a sample is its part, so that the mean over the batch is the paper's. For vectors of mean 0 and length 1,
    1 − r is half their squared distance, which splits into one part a sample, none of them negative. A row or column
    without variance has length 0.
    """
    p, q = _probabilities(logits_teacher.detach(), temperature), _probabilities(logits_student, temperature)
    halves = [(_unit(q, dim) - _unit(p, dim)).square() * (temperature**2 / 2) for dim in (1, 0)]
    return halves[0].sum(1), halves[1].mean(1) * len(p)


def wttm(logits_student: Tensor, logits_teacher: Tensor, temperature: float) -> Tensor:
    """U·KL(teacher at temperature T ‖ student at 1), U = Σ_c p_c^(1/T) (Zheng and Yang 2024, algorithm 1).

    U, between 1 for a certain teacher and C^(1 − 1/T) for an uncertain one, weighs samples. The best student's logits
    are the teacher's divided by T.
    """
    log_p = _log_softmax(logits_teacher.detach(), temperature)
    log_u = (_log_softmax(logits_teacher.detach(), 1.0) / temperature).logsumexp(1)
    return log_u.exp() * _kl(log_p, _log_softmax(logits_student, 1.0))


def attention_transfer(features_student: Tensor, features_teacher: Tensor) -> Tensor:
    """Mean squared difference of attention maps (Zagoruyko and Komodakis 2017, eq. 1 and 2, squared as in their code).

    features: float [N, C, H, W], of the same H and W. The map of a sample is Σ_c A_c² over the channels, as a vector
    divided by its length; a map of zeros stays one.
    """
    maps = [_map(features) for features in (features_student, features_teacher.detach())]
    return (maps[0] - maps[1]).square().mean(1)


def _map(features: Tensor) -> Tensor:
    values = features.float().square().mean(1).flatten(1)
    return values * (values.square().sum(1, keepdim=True) + TINY).rsqrt()


def _teacher_and_student(logits_student: Tensor, logits_teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    return _log_softmax(logits_teacher.detach(), temperature), _log_softmax(logits_student, temperature)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).log_softmax(1)


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).softmax(1)


def _unit(values: Tensor, dim: int) -> Tensor:
    """Return vectors along `dim` less their means, divided by their lengths; constant ones are zeros."""
    centred = values - values.mean(dim, keepdim=True)
    return centred * (centred.square().sum(dim, keepdim=True) + TINY).rsqrt()


def _at(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(1, labels[:, None]).squeeze(1)


def _without(log_p: Tensor, labels: Tensor) -> Tensor:
    return log_p.scatter(1, labels[:, None], ABSENT)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return _kl_term(log_p, log_q).sum(1)


def _kl_term(log_p: Tensor, log_q: Tensor) -> Tensor:
    return log_p.exp() * (log_p - log_q)
