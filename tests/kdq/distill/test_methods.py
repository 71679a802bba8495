"""Every member of METHODS keeps the same promises; configurations have one name each."""

import re
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from kdq.distill.methods import METHODS, MethodConfig, Terms
from kdq.errors import UserError

NAMES = sorted(METHODS)
TEACHING = [name for name in NAMES if METHODS[name].needs_teacher or METHODS[name].needs_peer]
CLASSES = [2, 3, 10, 100, 1000]


def logits(seed: int, samples: int, classes: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed))


def labels(samples: int, classes: int) -> Tensor:
    return torch.arange(samples) % classes


def terms(name: str, student: Tensor, teacher: Tensor | None, y: Tensor, progress: float = 0.5) -> Terms:
    config = MethodConfig.parse({"method": name})
    own = config.method.loss(student, teacher, y, config.params, progress)
    compare = config.method.feature_loss
    return (
        own | compare(features(student), features(teacher), config.params) if compare and teacher is not None else own
    )


def features(logits: Tensor) -> list[Tensor]:
    """Two layers whose maps [N, C, H, W] are functions of the logits: equal logits give equal ones."""
    return [logits[:, :, None, None] * torch.tensor([[1.0, 2.0], [0.5, -1.0]]), logits.flip(1)[:, None, :, None]]


def total(terms: Terms) -> Tensor:
    return torch.stack(list(terms.values())).sum(0)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", NAMES)
def test_one_finite_float32_value_a_sample_and_term(name: str, classes: int) -> None:
    result = terms(name, logits(0, 6, classes), logits(1, 6, classes), labels(6, classes))
    for term in result.values():
        assert term.shape == (6,)
        assert term.dtype == torch.float32
        assert term.isfinite().all()
    assert (total(result) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_the_student_only(name: str) -> None:
    student, teacher = logits(0, 6, 5).requires_grad_(), logits(1, 6, 5).requires_grad_()
    total(terms(name, student, teacher, labels(6, 5))).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert (student.grad.norm(dim=1) > 0).all()
    assert teacher.grad is None


@pytest.mark.parametrize("name", TEACHING)
def test_a_perfect_student_has_nothing_to_learn_from_its_teacher(name: str) -> None:
    teacher, config = logits(0, 6, 5), MethodConfig.parse({"method": name})
    student = config.method.perfect(teacher, config.params).clone().requires_grad_()
    distillation = {key: term for key, term in terms(name, student, teacher, labels(6, 5)).items() if key != "ce"}
    assert distillation
    for term in distillation.values():
        assert not term.any()
    total(distillation).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(student.grad, torch.zeros(6, 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("name", NAMES)
def test_finite_for_huge_logits(name: str, classes: int, dtype: torch.dtype) -> None:
    signs = [torch.where(logits(seed, 8, classes) > 0, 1e4, -1e4).to(dtype) for seed in (0, 1)]
    student = signs[0].requires_grad_()
    result = terms(name, student, signs[1], labels(8, classes))
    total(result).sum().backward()  # type: ignore[no-untyped-call]
    assert total(result).isfinite().all()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_bf16_logits_are_computed_in_float32(name: str) -> None:
    student, teacher = logits(0, 6, 10).bfloat16(), logits(1, 6, 10).bfloat16()
    low = terms(name, student, teacher, labels(6, 10))
    high = terms(name, student.float(), teacher.float(), labels(6, 10))
    for key in low:
        assert torch.equal(low[key], high[key])


@pytest.mark.parametrize("name", NAMES)
def test_invariant_to_the_order_of_the_batch(name: str) -> None:
    student, teacher, y = logits(0, 8, 10), logits(1, 8, 10), labels(8, 10)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    straight, shuffled = (
        terms(name, student, teacher, y),
        terms(name, student[order], teacher[order], y[order]),
    )
    for key in straight:
        torch.testing.assert_close(straight[key][order], shuffled[key])


@pytest.mark.parametrize("name", NAMES)
def test_the_terms_have_the_same_names_throughout(name: str) -> None:
    args = logits(0, 4, 5), logits(1, 4, 5), labels(4, 5)
    assert list(terms(name, *args, progress=0.0)) == list(terms(name, *args, progress=0.99))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(TEACHING)))
def test_a_method_without_a_teacher_does_not_look_at_one(name: str) -> None:
    student, y = logits(0, 4, 5), labels(4, 5)
    assert torch.equal(total(terms(name, student, None, y)), total(terms(name, student, logits(1, 4, 5), y)))


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_depends_on_the_length_of_the_training_only_if_it_says_so(name: str) -> None:
    by_share = METHODS[name].by_share
    for value in (0, 1) if by_share else (0,):
        config = MethodConfig.parse({"method": name, **({by_share: value} if by_share else {})})
        args = logits(0, 6, 5), logits(1, 6, 5), labels(6, 5), config.params
        early, late = (total(config.method.loss(*args, progress)) for progress in (0.1, 0.9))
        assert torch.equal(early, late) != config.looks_ahead
        assert config.looks_ahead == bool(value)


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


@pytest.mark.parametrize("name", NAMES)
def test_an_identity_reads_back_and_defaults_are_allowed(name: str) -> None:
    config = MethodConfig.parse({"method": name})
    assert MethodConfig.parse(config.identity()) == config
    expected = {key: default for key, (default, _) in METHODS[name].params.items() if key not in METHODS[name].later}
    assert config.identity() == {"method": name, **expected}
    for key in METHODS[name].later:
        changed = MethodConfig.parse({"method": name, key: 1})
        assert changed.identity() == {"method": name, **expected, key: 1.0}
        assert MethodConfig.parse(changed.identity()) == changed != config
    assert "mixup_alpha" in config.params


def test_an_identity_drops_inactive_parameters_and_spellings_of_a_number() -> None:
    assert MethodConfig.parse({"method": "ce", "alpha": 3, "beta": 2}) == MethodConfig.parse({"method": "ce"})
    whole = MethodConfig.parse({"method": "dkd", "alpha": 1}).identity()
    assert str(whole) == str(MethodConfig.parse({"method": "dkd", "alpha": 1.0}).identity())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), True, "4", None, [1]])
def test_a_value_that_is_not_allowed_names_value_and_rule(name: str, bad: object) -> None:
    for key, (_, allowed) in METHODS[name].params.items():
        with pytest.raises(UserError, match=rf"{key} = .*must be a number {re.escape(str(allowed))}"):
            MethodConfig.parse({"method": name, key: bad})


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
