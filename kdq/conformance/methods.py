"""What every method keeps: its terms, its gradients, its parameters, and a training that resumes to the bit."""

from collections.abc import Mapping
from io import BytesIO

import torch
from torch import Tensor

from kdq.conformance.check import Check, require, require_close, small_dataset
from kdq.distill.methods import METHODS, MethodConfig, Terms
from kdq.distill.recipe import TrainConfig
from kdq.distill.teacher_logits import ForwardTeacher
from kdq.distill.trainer import Trainer
from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build

CLASSES = (2, 3, 10, 100, 1000)
WRONG = (-1, float("nan"), float("inf"), True, "4", None, [1])
RECIPE = TrainConfig(epochs=3, batch_size=16, lr=0.02, warmup_epochs=1)


def logits(seed: int, samples: int, classes: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(samples, classes, generator=torch.Generator().manual_seed(seed))


def labels(samples: int, classes: int) -> Tensor:
    return torch.arange(samples) % classes


def features(logits: Tensor) -> list[Tensor]:
    """Two layers whose maps [N, C, H, W] are functions of the logits: equal logits give equal ones."""
    return [logits[:, :, None, None] * torch.tensor([[1.0, 2.0], [0.5, -1.0]]), logits.flip(1)[:, None, :, None]]


def terms(name: str, student: Tensor, teacher: Tensor | None, y: Tensor, progress: float = 0.5) -> Terms:
    """Return all terms of a method at its defaults, those of features included."""
    config = MethodConfig.parse({"method": name})
    own = config.method.loss(student, teacher, y, config.params, progress)
    compare = config.method.feature_loss
    return (
        own | compare(features(student), features(teacher), config.params) if compare and teacher is not None else own
    )


def total(terms: Terms) -> Tensor:
    return torch.stack(list(terms.values())).sum(0)


def gives_one_float32_value_a_sample(name: str) -> None:
    for classes in CLASSES:
        found = terms(name, logits(0, 6, classes), logits(1, 6, classes), labels(6, classes))
        for key, term in found.items():
            case = f"term {key!r} of {classes} classes"
            require(term.shape == (6,), f"{case} has shape {list(term.shape)}, must be [6] for 6 samples")
            require(term.dtype == torch.float32, f"{case} is {term.dtype}, must be torch.float32")
            require(bool(term.isfinite().all()), f"{case} is not finite")
        require(bool((total(found) > 0).all()), f"the sum of the terms must be above 0 ({classes} classes)")


def sends_gradients_to_the_student_only(name: str) -> None:
    student, teacher = logits(0, 6, 5).requires_grad_(), logits(1, 6, 5).requires_grad_()
    total(terms(name, student, teacher, labels(6, 5))).sum().backward()  # type: ignore[no-untyped-call]
    require(student.grad is not None and bool((student.grad.norm(dim=1) > 0).all()), "a student's logits get none")
    require(teacher.grad is None, "the teacher's logits get one; use logits_teacher.detach()")


def leaves_a_perfect_student_alone(name: str) -> None:
    method = METHODS[name]
    if not (method.needs_teacher or method.needs_peer):
        return
    teacher, config = logits(0, 6, 5), MethodConfig.parse({"method": name})
    student = method.perfect(teacher, config.params).clone().requires_grad_()
    taught = {key: term for key, term in terms(name, student, teacher, labels(6, 5)).items() if key != "ce"}
    require(bool(taught), "it needs a teacher, and has no term besides 'ce'")
    for key, term in taught.items():
        require(not term.any(), f"term {key!r} is {term.abs().max():g} for the student of Method.perfect, must be 0")
    total(taught).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    require_close(student.grad, torch.zeros(6, 5), "the gradient of the student of Method.perfect")


def is_finite_for_huge_logits(name: str) -> None:
    for classes in CLASSES:
        for dtype in (torch.float32, torch.bfloat16):
            signs = [torch.where(logits(seed, 8, classes) > 0, 1e4, -1e4).to(dtype) for seed in (0, 1)]
            student = signs[0].requires_grad_()
            found = total(terms(name, student, signs[1], labels(8, classes)))
            found.sum().backward()  # type: ignore[no-untyped-call]
            case = f"for logits of ±10,000, {classes} classes, {dtype}"
            require(bool(found.isfinite().all()), f"the loss is not finite {case}")
            require(student.grad is not None and bool(student.grad.isfinite().all()), f"no finite gradient {case}")


def computes_in_float32(name: str) -> None:
    student, teacher = logits(0, 6, 10).bfloat16(), logits(1, 6, 10).bfloat16()
    low = terms(name, student, teacher, labels(6, 10))
    high = terms(name, student.float(), teacher.float(), labels(6, 10))
    for key in low:
        require(torch.equal(low[key], high[key]), f"term {key!r} differs for bf16 logits; start with logits.float()")


def ignores_the_order_of_the_batch(name: str) -> None:
    student, teacher, y = logits(0, 8, 10), logits(1, 8, 10), labels(8, 10)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    straight, shuffled = terms(name, student, teacher, y), terms(name, student[order], teacher[order], y[order])
    for key in straight:
        require_close(straight[key][order], shuffled[key], f"term {key!r} of a reordered batch")


def ignores_a_shift_of_the_teachers_logits(name: str) -> None:
    if METHODS[name].needs_peer:
        return  # a peer's logits are not cached
    student, teacher, y = logits(0, 6, 10), logits(1, 6, 10), labels(6, 10)
    config = MethodConfig.parse({"method": name})
    found = [total(config.method.loss(student, each, y, config.params, 0.5)) for each in (teacher, teacher - 5)]
    require_close(found[1], found[0], "a constant is added to the teacher's logits, which are cached up to one")


def keeps_the_names_of_its_terms(name: str) -> None:
    args = logits(0, 4, 5), logits(1, 4, 5), labels(4, 5)
    early, late = (list(terms(name, *args, progress=progress)) for progress in (0.0, 0.99))
    require(early == late, f"the terms are {early} at first and {late} at the end")


def looks_at_no_teacher_that_it_does_not_need(name: str) -> None:
    if METHODS[name].needs_teacher or METHODS[name].needs_peer:
        return
    student, y = logits(0, 4, 5), labels(4, 5)
    without, beside = total(terms(name, student, None, y)), total(terms(name, student, logits(1, 4, 5), y))
    require(torch.equal(without, beside), "the loss depends on the teacher; set needs_teacher=True")


def depends_on_the_length_of_the_training_as_declared(name: str) -> None:
    by_share = METHODS[name].by_share
    for value in (0, 1) if by_share else (0,):
        config = MethodConfig.parse({"method": name, **({by_share: value} if by_share else {})})
        args = logits(0, 6, 5), logits(1, 6, 5), labels(6, 5), config.params
        early, late = (total(config.method.loss(*args, progress)) for progress in (0.1, 0.9))
        require(torch.equal(early, late) != config.looks_ahead, f"by_share = {by_share!r} at {value}: the loss differs")
        require(config.looks_ahead == bool(value), f"by_share = {by_share!r}: a value of 0 must switch it off")


def reads_its_identity_back(name: str) -> None:
    method, config = METHODS[name], MethodConfig.parse({"method": name})
    require(MethodConfig.parse(config.identity()) == config, "the defaults are another configuration when read back")
    expected = {key: default for key, (default, _) in method.params.items() if key not in method.later}
    require(config.identity() == {"method": name, **expected}, f"its identity is {config.identity()}")
    for key in method.later:
        changed = MethodConfig.parse({"method": name, key: 1})
        require(MethodConfig.parse(changed.identity()) == changed != config, f"{key} = 1 is not part of its identity")
    require("mixup_alpha" in config.params, "it lacks the parameter mixup_alpha")


def refuses_values_that_are_not_allowed(name: str) -> None:
    for key, (_, allowed) in METHODS[name].params.items():
        for bad in WRONG:
            try:
                MethodConfig.parse({"method": name, key: bad})
            except UserError as error:
                message = str(error)
            else:
                message = ""
            rule = f"must be a number {allowed}"
            require(f"{key} = " in message and rule in message, f"{key} = {bad!r} is not refused by the rule")


def resumes_to_the_bit(name: str) -> None:
    straight, first, second = (_trainer(name) for _ in range(3))
    for _ in range(3):
        straight.run_epoch()
    first.run_epoch()
    state = BytesIO()
    torch.save(first.state_dict(), state)
    state.seek(0)
    second.load_state_dict(torch.load(state, weights_only=True))
    second.run_epoch()
    second.run_epoch()
    pairs = zip(straight.best.state_dict().items(), second.best.state_dict().values(), strict=True)
    for (key, expected), found in pairs:
        require(torch.equal(expected, found), f"{key} differs after an interruption; the loss must have no state")


def _trainer(name: str) -> Trainer:
    def student(seed: int) -> Classifier:
        return build("resnet8", classes=4, normalization=Normalization((0.5,), (0.25,)), seed=seed)

    config = MethodConfig.parse({"method": name})
    peer = student(7) if config.method.needs_peer else None
    teacher = ForwardTeacher(student(9)) if config.method.needs_teacher else None
    return Trainer(RECIPE, config, student(0), teacher, small_dataset(), stream_seed=0, peer=peer)


CHECKS: Mapping[str, Check] = {
    "one finite float32 value a sample and term": gives_one_float32_value_a_sample,
    "gradients reach the student only": sends_gradients_to_the_student_only,
    "a perfect student has nothing to learn from its teacher": leaves_a_perfect_student_alone,
    "finite for huge logits": is_finite_for_huge_logits,
    "logits of any dtype are computed in float32": computes_in_float32,
    "the order of the batch does not matter": ignores_the_order_of_the_batch,
    "a shift of the teacher's logits does not matter": ignores_a_shift_of_the_teachers_logits,
    "the terms have the same names throughout": keeps_the_names_of_its_terms,
    "a method without a teacher does not look at one": looks_at_no_teacher_that_it_does_not_need,
    "it depends on the training's length only if declared": depends_on_the_length_of_the_training_as_declared,
    "an identity reads back, and defaults are allowed": reads_its_identity_back,
    "values that are not allowed are refused": refuses_values_that_are_not_allowed,
    "an interrupted training resumes to the bit": resumes_to_the_bit,
}
