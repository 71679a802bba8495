"""Every member of METHODS keeps the same promises; configurations have one name each."""

import subprocess
import sys

import pytest
import torch

from kdq.conformance.methods import CHECKS, labels, logits, terms, total
from kdq.distill.methods import METHODS, MethodConfig
from kdq.errors import UserError

NAMES = sorted(METHODS)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_keeps(name: str, check: str) -> None:
    CHECKS[check](name)


def test_dkd_warms_up_linearly_over_its_share_of_the_training() -> None:
    config = MethodConfig.parse({"method": "dkd", "warmup": 0.25})
    args = logits(0, 4, 5), logits(1, 4, 5), labels(4, 5), config.params
    at = {progress: config.method.loss(*args, progress) for progress in (0.0, 0.125, 0.25, 0.9)}
    for term in ("tckd", "nckd"):
        assert not at[0.0][term].any()
        torch.testing.assert_close(at[0.125][term], at[0.9][term] / 2)
        assert torch.equal(at[0.25][term], at[0.9][term])
    assert torch.equal(at[0.0]["ce"], at[0.9]["ce"])


def test_dml_is_cross_entropy_and_kl_to_the_peer() -> None:
    """Zhang et al. 2017, eq. 7."""
    student, peer, y = logits(0, 4, 5), logits(1, 4, 5), labels(4, 5)
    p, q = student.double().softmax(1), peer.double().softmax(1)
    expected = -p[range(4), y].log() + (q * (q / p).log()).sum(1)
    torch.testing.assert_close(total(terms("dml", student, peer, y)).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("handover", [0.0, 0.5, 1.0])
def test_dml_hands_over_from_kl_to_ce_at_the_same_mean_weights(handover: float) -> None:
    config = MethodConfig.parse({"method": "dml", "alpha": 3, "temperature": 2, "handover": handover})
    args = logits(0, 4, 5), logits(1, 4, 5), labels(4, 5)
    plain = MethodConfig.parse({"method": "dml", "alpha": 3, "temperature": 2})
    whole = config.method.loss(*args, plain.params, 0.3)
    for progress in (0.0, 0.25, 0.5, 1.0):
        now = config.method.loss(*args, config.params, progress)
        torch.testing.assert_close(now["ce"], (1 - handover * (1 - 2 * progress)) * whole["ce"])
        torch.testing.assert_close(now["kl"], (1 + handover * (1 - 2 * progress)) * whole["kl"])
    first, last = (config.method.loss(*args, config.params, progress) for progress in (0.0, 1.0))
    for key in whole:
        torch.testing.assert_close((first[key] + last[key]) / 2, whole[key])


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ({"method": "ce"}, 0.0),
        ({"method": "dkd", "mixup_alpha": 0.5}, 0.5),
        ({"method": "mixup", "mixup_alpha": 0.5}, 0.5),
        ({"method": "mixup", "mixup_alpha": 0.5, "mix_logits": 1}, 0.0),
    ],
)
def test_which_views_the_teacher_is_shown(document: dict[str, object], shown: float) -> None:
    assert MethodConfig.parse(document).teacher_mixup_alpha == shown


def test_vkd_is_ce_at_alpha_zero_and_pure_kd_at_one() -> None:
    args = logits(0, 4, 5), logits(1, 4, 5), labels(4, 5)
    ends = [MethodConfig.parse({"method": "vkd", "alpha": alpha, "temperature": 1}) for alpha in (0, 1)]
    only_ce, only_kd = (total(config.method.loss(*args, config.params, 0.5)) for config in ends)
    torch.testing.assert_close(only_ce, total(terms("ce", *args)))
    torch.testing.assert_close(only_kd, total(terms("mixup", *args)))


@pytest.mark.parametrize("name", ["vkd", "dkd"])
def test_standardized_logits_make_the_range_of_the_teachers_irrelevant(name: str) -> None:
    student, teacher, y = logits(0, 6, 5), logits(1, 6, 5), labels(6, 5)
    on, off = (MethodConfig.parse({"method": name, "standardize_logits": value}) for value in (1, 0))
    whole, scaled = (total(on.method.loss(student, factor * teacher + 3, y, on.params, 0.5)) for factor in (1, 9))
    torch.testing.assert_close(whole, scaled, rtol=1e-4, atol=1e-5)
    direct = total(off.method.loss(student, 9 * teacher + 3, y, off.params, 0.5))
    assert not torch.allclose(whole, direct, rtol=0.1)


def test_an_identity_drops_inactive_parameters_and_spellings_of_a_number() -> None:
    assert MethodConfig.parse({"method": "ce", "alpha": 3, "beta": 2}) == MethodConfig.parse({"method": "ce"})
    whole = MethodConfig.parse({"method": "dkd", "alpha": 1}).identity()
    assert str(whole) == str(MethodConfig.parse({"method": "dkd", "alpha": 1.0}).identity())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"method": "dkk"}, "unknown method 'dkk': did you mean 'dkd'"),
        ({"method": ["dkd"]}, "unknown method"),
        ({"method": "dkd", "betta": 1}, "unknown parameter 'betta': did you mean 'beta'"),
        ({"alpha": 1}, "method: is required"),
        ({"method": "mixup", "mixup_alpha": 0}, "mixup_alpha = 0: .*above 0"),
        ({"method": "vkd", "alpha": 1.5}, "alpha = 1.5: .*at most 1"),
        ({"method": "mixup", "mix_logits": 0.5}, r"mix_logits = 0.5: .*0 \(off\) or 1 \(on\)"),
    ],
)
def test_a_document_that_is_wrong_says_how(document: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MethodConfig.parse(document)


def test_a_configuration_has_exactly_its_methods_parameters() -> None:
    with pytest.raises(UserError, match="lacks label_smoothing, mixup_alpha"):
        MethodConfig("ce", {})
    with pytest.raises(UserError, match="unknown parameter of method 'ce' 'beta'"):
        MethodConfig("ce", {"mixup_alpha": 0.0, "label_smoothing": 0.0, "beta": 1.0})


def test_configurations_are_checked_without_loading_torch() -> None:
    code = "import sys, kdq.distill.methods; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
