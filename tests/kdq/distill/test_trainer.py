"""The training loop: exact resumption, what each part does to the student, and that it learns."""

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdq.data.augment import AugmentConfig, View
from kdq.data.dataset import Dataset, open_dataset
from kdq.data.sources import load_source
from kdq.distill.methods import METHODS, MethodConfig
from kdq.distill.recipe import OPTIMIZERS, SCHEDULES, TrainConfig, learning_rate, make_optimizer, update_average
from kdq.distill.teacher_logits import ForwardTeacher, TeacherLogits
from kdq.distill.trainer import Diverged, Trainer, view_terms
from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import top1
from kdq.store.folder_store import StageStore

CONFIG = TrainConfig(
    epochs=4,
    batch_size=16,
    lr=0.05,
    warmup_epochs=1,
    augment=AugmentConfig(crop_padding=1, flip=True, cutout=2),
)
NORMALIZATION = Normalization(mean=(0.5,), std=(0.25,))
VARIANTS = [{"method": name} for name in sorted(METHODS)] + [
    {"method": "dkd", "mixup_alpha": 0.5},
    {"method": "dml", "mixup_alpha": 0.5, "handover": 1},
    {"method": "mixup", "mix_logits": 1},
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of noise around a brightness that tells the class."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 100, (count, 1, 8, 8), generator=random) + 50 * labels[:, None, None, None]
    return images.to(torch.uint8), labels


def small_dataset() -> Dataset:
    (train, train_y), (val, val_y), (test, test_y) = noise(60, 0), noise(20, 1), noise(20, 2)
    return Dataset("noise", tuple("abcd"), NORMALIZATION, train, train_y, val, val_y, test, test_y, "0" * 64)


DATA = small_dataset()


def student(seed: int = 0) -> Classifier:
    return build("resnet8", classes=4, normalization=NORMALIZATION, seed=seed)


def trainer(
    method: dict[str, Any],
    teacher: TeacherLogits | None = None,
    config: TrainConfig = CONFIG,
    stream_seed: int = 0,
) -> Trainer:
    teacher = teacher or ForwardTeacher(student(seed=9))
    parsed = MethodConfig.parse(method)
    peer = student(seed=7) if parsed.method.needs_peer else None
    return Trainer(config, parsed, student(), teacher, DATA, stream_seed=stream_seed, peer=peer)


def run(training: Trainer, epochs: int) -> list[dict[str, float]]:
    rows = [training.run_epoch() for _ in range(epochs)]
    return [{key: row[key] for key in row if key not in ("seconds", "images_per_s")} for row in rows]


def equal(a: Trainer, b: Trainer) -> bool:
    """Every tensor of both states is the same to the bit."""
    leaves = [torch.utils._pytree.tree_leaves(training.state_dict()) for training in (a, b)]
    return len(leaves[0]) == len(leaves[1]) and all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(*leaves, strict=True)
    )


@pytest.mark.parametrize("method", VARIANTS, ids=str)
def test_resumes_to_the_bit(method: dict[str, Any], tmp_path: Path) -> None:
    straight, first, second = trainer(method), trainer(method), trainer(method)
    rows = run(straight, 4)
    head = run(first, 2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert head + run(second, 2) == rows
    assert equal(second, straight)


RECIPES = [
    {"optimizer": optimizer, "schedule": schedule, "ema": ema}
    for optimizer in OPTIMIZERS
    for schedule in SCHEDULES
    for ema in (0.0, 0.9)
]


@pytest.mark.parametrize("method", ["ce", "dml"])
@pytest.mark.parametrize("recipe", [*RECIPES, {"precision": "bf16", "ema": 0.9}], ids=str)
def test_resumes_to_the_bit_by_every_recipe(recipe: dict[str, Any], method: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=3, batch_size=30, lr=0.01, **recipe)
    straight, first, second = (trainer({"method": method}, config=config) for _ in range(3))
    rows = run(straight, 3)
    head = run(first, 1)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.val_top1 == first.val_top1
    assert head + run(second, 2) == rows
    assert equal(second, straight)


def test_same_seeds_same_bits_and_other_views_other_weights() -> None:
    a, b, c = (
        trainer({"method": "dkd"}),
        trainer({"method": "dkd"}),
        trainer({"method": "dkd"}, stream_seed=1),
    )
    assert run(a, 1) == run(b, 1)
    run(c, 1)
    assert equal(a, b)
    assert not equal(a, c)


def test_the_global_random_state_is_neither_used_nor_touched() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a = trainer({"method": "dkd", "mixup_alpha": 0.5})
    run(a, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    b = trainer({"method": "dkd", "mixup_alpha": 0.5})
    run(b, 1)
    assert equal(a, b)


@pytest.mark.parametrize("method", VARIANTS, ids=str)
def test_a_teacher_stays_as_it_was(method: dict[str, Any]) -> None:
    teacher = student(seed=9)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    run(trainer(method, ForwardTeacher(teacher)), 1)
    assert not teacher.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_a_teacher_says_what_its_model_says_to_rounding() -> None:
    """Its batch norms are folded away; the model that was given keeps its own."""
    model = student(seed=9).eval()
    with torch.no_grad():
        for key in ("bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
            model.net.state_dict()[key].copy_(torch.linspace(0.5, 2, 16))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    view = next(trainer({"method": "ce"}).views.epoch(0, 16))
    with torch.no_grad():
        expected = model(view.images)
    assert torch.allclose(ForwardTeacher(model)(view), expected, atol=1e-5)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.5])
def test_logits_kept_by_epoch_and_image_replace_the_teacher(mixup_alpha: float) -> None:
    """What the cache does: the teacher looks at each view once, whatever batches it came in."""
    method = {"method": "dkd", "mixup_alpha": mixup_alpha}
    live = ForwardTeacher(student(seed=9))
    probe = trainer(method)
    cache = torch.zeros(2, len(DATA.train_images), 4)
    for epoch in range(2):
        for view in probe.views.epoch(epoch, 7):
            cache[epoch, view.index] = live(view)
    cached = trainer(method, lambda view: cache[view.epoch, view.index])
    rows, expected = run(cached, 2), run(trainer(method, live), 2)
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4)


def test_student_and_teacher_see_the_same_mixed_view() -> None:
    """Function matching (Beyer et al. 2022, figure 2)."""
    seen: list[View] = []
    training = trainer({"method": "mixup"}, lambda view: seen.append(view) or torch.zeros(len(view.index), 4))  # type: ignore[func-returns-value]
    inputs: list[Tensor] = []
    training.students[0].register_forward_pre_hook(
        lambda module, args: inputs.append(args[0]) if module.training else None
    )
    run(training, 1)
    assert len(seen) == len(inputs) == training.steps
    assert all(torch.equal(view.images, images) for view, images in zip(seen, inputs, strict=True))


def linear_teacher(view: View) -> Tensor:
    return view.images.flatten(1) @ torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def test_mixing_logits_is_mixing_images_for_a_linear_teacher_only() -> None:
    def losses(mix_logits: int, teacher: TeacherLogits) -> list[float]:
        training = trainer({"method": "mixup", "mix_logits": mix_logits}, teacher)
        return [row["train_kd"] for row in run(training, 2)]

    assert losses(1, linear_teacher) == pytest.approx(losses(0, linear_teacher), rel=1e-4)
    network = ForwardTeacher(student(seed=9))
    assert losses(1, network) != pytest.approx(losses(0, network), rel=1e-2)


def test_mixing_logits_shows_the_teacher_plain_views() -> None:
    """So what it says of them can be kept, whatever mixup's alpha is."""
    seen: list[View] = []
    method = {"method": "mixup", "mix_logits": 1}
    run(trainer(method, lambda view: seen.append(view) or torch.zeros(len(view.index), 4)), 1)  # type: ignore[func-returns-value]
    plain = trainer({"method": "ce"}).views
    images = torch.cat([view.images for view in plain.epoch(0, 60)])
    of_image = images[torch.cat([view.index for view in plain.epoch(0, 60)]).argsort()]
    assert torch.equal(torch.cat([view.index for view in seen]).bincount(), torch.full((60,), 2))
    for view in seen:
        assert torch.equal(view.images, of_image[view.index])


def view_of(mix: float) -> View:
    labels = torch.tensor([0, 1, 2, 3, 0])
    parts = tuple(View(0, torch.arange(5), torch.empty(0), y) for y in (labels, labels.flip(0)))
    return View(0, torch.arange(5), torch.empty(0), labels, parts, torch.full((5,), mix))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_mixing_splits_the_loss_by_both_targets(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=random), torch.randn(5, 4, generator=random)
    config = MethodConfig.parse({"method": name})

    def terms(view: View) -> dict[str, Tensor]:
        return view_terms(config, *logits, view, 0.5)

    whole, half, none = (terms(view_of(mix)) for mix in (1.0, 0.5, 0.0))
    first = terms(dataclasses.replace(view_of(1.0), mix=None, parts=None))
    for key in first:
        assert torch.equal(whole[key], first[key])
        torch.testing.assert_close(half[key], (whole[key] + none[key]) / 2)


def test_an_epoch_reports_means_over_all_its_images() -> None:
    """With a learning rate of almost 0 the epoch's loss is that of the first student on the epoch's views."""
    config = dataclasses.replace(CONFIG, lr=1e-30, warmup_epochs=0, batch_size=60)
    training = trainer({"method": "vkd"}, config=config)
    assert training.teacher is not None
    (view,) = training.views.epoch(0, 60)
    logits = student().train()(view.images)
    expected = {key: term.mean().item() for key, term in _vkd_terms(logits, training.teacher(view), view).items()}
    training.students[0].eval()  # the loop sets the mode itself
    row = training.run_epoch()
    assert row["train_ce"] == pytest.approx(expected["ce"], rel=1e-5)
    assert row["train_kd"] == pytest.approx(expected["kd"], rel=1e-5)
    assert row["train_loss"] == pytest.approx(expected["ce"] + expected["kd"], rel=1e-5)
    assert row["epoch"] == 1
    assert row["val_top1"] == top1(training.students[0], DATA.val_images, DATA.val_labels)
    assert training.students[0].training


def _vkd_terms(logits: Tensor, logits_teacher: Tensor, view: View) -> dict[str, Tensor]:
    return view_terms(MethodConfig.parse({"method": "vkd"}), logits, logits_teacher, view, 0.0)


def test_the_warm_up_of_a_method_follows_the_whole_training() -> None:
    config = TrainConfig(epochs=4, batch_size=60, lr=1e-30)
    rows = run(trainer({"method": "dkd", "warmup": 0.5}, config=config), 4)
    nckd = [row["train_nckd"] for row in rows]
    assert nckd == pytest.approx([0, nckd[3] / 2, nckd[3], nckd[3]], rel=1e-4)
    assert nckd[3] > 0


def test_learning_rate_warms_up_and_anneals() -> None:
    config = TrainConfig(epochs=5, batch_size=1, lr=2.0, warmup_epochs=1)
    rates = [learning_rate(config, step, 10) for step in range(50)]
    assert rates[:10] == pytest.approx([2.0 * (step + 1) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * step / 40) for step in range(40)])
    assert 0 < rates[-1] < 0.01


def test_learning_rate_falls_by_steps() -> None:
    """He et al. 2016: divided by 10 at 1/2 and 3/4 of the training."""
    config = TrainConfig(epochs=4, batch_size=1, lr=2.0, warmup_epochs=1, schedule="step")
    rates = [learning_rate(config, step, 10) for step in range(40)]
    expected = [2.0 * (step + 1) / 10 for step in range(10)] + 10 * [2.0] + 10 * [0.2] + 10 * [0.02]
    assert rates == pytest.approx(expected)
    thirds = dataclasses.replace(config, warmup_epochs=0, milestones=(0.3, 0.7, 0.9), step_factor=0.5)
    assert [learning_rate(thirds, step, 10) for step in (0, 11, 12, 27, 28, 35, 36, 39)] == pytest.approx(
        [2.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    )
    assert learning_rate(dataclasses.replace(thirds, milestones=()), 39, 10) == 2.0


def test_learning_rate_of_one_cycle_is_a_triangle() -> None:
    config = TrainConfig(epochs=5, batch_size=1, lr=2.0, warmup_epochs=2, schedule="one_cycle")
    rates = [learning_rate(config, step, 10) for step in range(50)]
    assert rates == pytest.approx([step / 10 for step in range(1, 21)] + [2 - step / 15 for step in range(30)])


@pytest.mark.parametrize(
    ("schedule", "last"),
    [("cosine", 1 - math.cos(math.pi / 40)), ("step", 0.02), ("one_cycle", 0.05)],
)
def test_first_and_last_learning_rate(schedule: str, last: float) -> None:
    config = TrainConfig(epochs=5, batch_size=1, lr=2.0, warmup_epochs=1, schedule=schedule)
    assert learning_rate(config, 0, 10) == pytest.approx(0.2)
    assert learning_rate(config, 49, 10) == pytest.approx(last)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize(("warmup", "first"), [(0.0, 2.0), (0.05, 2.0), (5.0, 0.04)])
def test_learning_rate_of_any_warmup_stays_in_range(warmup: float, first: float, schedule: str) -> None:
    if schedule == "one_cycle" and not warmup:
        pytest.skip("its warm-up is its rising part")
    config = TrainConfig(epochs=5, batch_size=1, lr=2.0, warmup_epochs=warmup, schedule=schedule)
    rates = [learning_rate(config, step, 10) for step in range(50)]
    assert rates[0] == pytest.approx(first)
    assert all(0 < rate <= 2.0 for rate in rates)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_batch_norm_and_biases_do_not_decay(optimizer: str) -> None:
    model = student()
    decays, rest = make_optimizer([model], dataclasses.replace(CONFIG, optimizer=optimizer)).param_groups
    assert decays["weight_decay"] == CONFIG.weight_decay
    assert rest["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].rpartition(".")[2] for p in rest["params"]} == {"weight", "bias"}
    assert all("bn" in names[id(p)] or names[id(p)].endswith("bias") for p in rest["params"])
    assert not any("bn" in names[id(p)] or names[id(p)].endswith("bias") for p in decays["params"])
    assert len(decays["params"]) + len(rest["params"]) == len(names)


def test_a_step_is_sgd_with_nesterov_momentum() -> None:
    """Two steps of a hand-written update (Sutskever 2013, in torch's form) on the same views."""
    config = dataclasses.replace(CONFIG, epochs=2, batch_size=60, warmup_epochs=0)
    training, model = trainer({"method": "ce"}, config=config), student().train()
    momentum = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for epoch in range(2):
        (view,) = training.views.epoch(epoch, 60)
        loss = torch.nn.functional.cross_entropy(model(view.images), view.labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for (name, p), gradient in zip(model.named_parameters(), gradients, strict=True):
            g = gradient + (config.weight_decay * p.detach() if p.ndim > 1 else 0)
            momentum[name] = config.momentum * momentum[name] + g
            p.data -= learning_rate(config, epoch, 1) * (g + config.momentum * momentum[name])
    run(training, 2)
    for key, value in training.students[0].state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("optimizer", "expected"), [("sgd", 0.05), ("adam", 0.5), ("adamw", 0.45)])
def test_first_step_of_an_optimizer_in_closed_form(optimizer: str, expected: float) -> None:
    """From w = 1 with gradient 1, lr = 1/2, weight decay 1/10, momentum 8/11 or β₁.

    SGD with Nesterov: 1 − lr·(1 + momentum)(1 + 1/10). Adam: 1 − lr, the decay within the gradient drops out.
    AdamW: (1 − lr/10) − lr.
    """
    config = TrainConfig(
        epochs=1, batch_size=1, lr=0.5, optimizer=optimizer, momentum=8 / 11, weight_decay=0.1, schedule="cosine"
    )
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    chosen = make_optimizer([model], config)
    model(torch.ones(1, 1)).sum().backward()
    chosen.step()
    assert model.weight.item() == pytest.approx(expected, abs=1e-6)


def test_the_average_of_a_linear_model_in_closed_form() -> None:
    """Gradient descent on (w − 3)²/2 leaves w = 3 + e·r^t, so average = 3 + e·(d^t + (1 − d)·r·(r^t − d^t)/(r − d))."""
    d, rate, steps = 0.1, 0.25, 12  # d is below 2/11, so it holds from the first step
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    for module in (model, average):
        torch.nn.init.constant_(module.weight, 8.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    r, e = 1 - rate, 5.0
    for t in range(1, steps + 1):
        optimizer.zero_grad()
        ((model(torch.ones(1, 1)) - 3) ** 2 / 2).sum().backward()
        optimizer.step()
        update_average(average, model, d, t)
        assert model.weight.item() == pytest.approx(3 + e * r**t, rel=1e-5)
        assert average.weight.item() == pytest.approx(3 + e * (d**t + (1 - d) * r * (r**t - d**t) / (r - d)), rel=1e-5)


def test_the_first_weights_leave_the_average_early() -> None:
    """Their share after t updates is the product of (1 + s) / (10 + s): (t + 1)!·10! / (t + 10)!."""
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.ones_(average.weight)
    for t in range(1, 31):
        update_average(average, model, 0.999, t)
        share = math.factorial(t + 1) * math.factorial(10) / math.factorial(t + 10)
        assert average.weight.item() == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("method", ["ce", "dml"])
def test_an_average_is_beside_the_students_and_goes_on_in_their_place(method: str) -> None:
    """One step an epoch, so that the weights after every step can be read; batch norm's statistics are among them."""
    config = dataclasses.replace(CONFIG, batch_size=60, ema=0.5)
    plain = trainer({"method": method}, config=dataclasses.replace(config, ema=0.0))
    training = trainer({"method": method}, config=config)
    expected = [{k: v.clone() for k, v in model.state_dict().items()} for model in plain.students]
    for step in range(1, 5):
        d = min(0.5, (1 + step) / (10 + step))
        run(plain, 1)
        (row,) = run(training, 1)
        for mean, model in zip(expected, plain.students, strict=True):
            for key, value in model.state_dict().items():
                mean[key] = d * mean[key] + (1 - d) * value if value.is_floating_point() else value.clone()
    for model, other, average, mean in zip(plain.students, training.students, training.averages, expected, strict=True):
        for key, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[key], value)
            torch.testing.assert_close(average.state_dict()[key], mean[key])
    assert training.best in training.averages
    assert row["val_top1"] == top1(training.best, DATA.val_images, DATA.val_labels)


def test_two_students_teach_each_other() -> None:
    """One step of a hand-written update (Zhang et al. 2017, eq. 7) of both, the peer's logits being constants."""
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=60, warmup_epochs=0)
    training = trainer({"method": "dml", "alpha": 2}, config=config)
    (view,) = training.views.epoch(0, 60)
    models = [student().train(), student(seed=7).train()]
    answers = [model(view.images) for model in models]
    losses = []
    for own, peer in zip(answers, [answer.detach().softmax(1) for answer in reversed(answers)], strict=True):
        ce = torch.nn.functional.cross_entropy(own, view.labels)
        kl = torch.nn.functional.kl_div(own.log_softmax(1), peer, reduction="batchmean")
        losses.append(ce + 2 * kl)
    for model, loss in zip(models, losses, strict=True):
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            decayed = g + (config.weight_decay * p.detach() if p.ndim > 1 else 0)
            p.data -= config.lr * (1 + config.momentum) * decayed
    (row,) = run(training, 1)
    assert row["train_loss"] == pytest.approx(sum(loss.item() for loss in losses) / 2, rel=1e-4)
    for model, trained in zip(models, training.students, strict=True):
        for key, value in trained.state_dict().items():
            torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("better", [0, 1])
def test_the_student_that_is_better_on_validation_goes_on(better: int) -> None:
    learnt = trainer({"method": "ce"}, config=dataclasses.replace(CONFIG, epochs=6))
    run(learnt, 6)
    pair = [student(), learnt.students[0]]
    first, second = pair if better else reversed(pair)
    config, method = dataclasses.replace(CONFIG, lr=1e-30), MethodConfig.parse({"method": "dml"})
    training = Trainer(config, method, first, None, DATA, stream_seed=0, peer=second)
    (row,) = run(training, 1)
    accuracies = [top1(model, DATA.val_images, DATA.val_labels) for model in (first, second)]
    assert accuracies[better] > accuracies[1 - better]
    assert training.best is training.students[better]
    assert [row["val_top1_student"], row["val_top1_peer"]] == accuracies
    assert row["val_top1"] == max(accuracies)


def test_bf16_is_of_the_forward_passes_alone() -> None:
    config = dataclasses.replace(CONFIG, precision="bf16", lr=1e-30)
    training = trainer({"method": "dkd"}, ForwardTeacher(student(seed=9), "bf16"), config)
    seen: list[torch.dtype] = []
    training.students[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    (row,), (exact,) = (
        run(training, 1),
        run(trainer({"method": "dkd"}, config=dataclasses.replace(CONFIG, lr=1e-30)), 1),
    )
    assert seen == training.steps * [torch.bfloat16] + [torch.float32]  # the last: validation
    view = next(training.views.epoch(0, 16))
    assert training.teacher is not None
    assert training.teacher(view).dtype == torch.bfloat16
    assert {v.dtype for v in training.students[0].state_dict().values()} == {torch.float32, torch.int64}
    assert row["train_loss"] == pytest.approx(exact["train_loss"], rel=0.02)
    assert row["train_loss"] != exact["train_loss"]


def test_compiling_is_for_gpus() -> None:
    with pytest.raises(UserError, match="compile = True: needs a GPU, but this training runs on the CPU"):
        trainer({"method": "ce"}, config=dataclasses.replace(CONFIG, compile=True))


def test_a_loss_that_is_not_finite_names_epoch_and_step() -> None:
    calls = iter(range(100))

    def teacher(view: View) -> Tensor:
        return torch.full((len(view.index), 4), math.nan if next(calls) >= 6 else 0.0)

    training = trainer({"method": "dkd"}, teacher)
    assert training.steps == 4
    training.run_epoch()
    with pytest.raises(Diverged, match="epoch 2, step 3: the loss is not finite") as caught:
        training.run_epoch()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.epoch, copy.step, copy.reason) == (2, 3, "the loss is not finite")


def test_a_last_step_that_spoils_the_weights_is_noticed() -> None:
    config = dataclasses.replace(CONFIG, epochs=1, batch_size=60, lr=1e38, warmup_epochs=0)
    with pytest.raises(Diverged, match="epoch 1, step 1: the validation logits are not finite"):
        trainer({"method": "ce"}, config=config).run_epoch()


@pytest.mark.parametrize(("classes", "channels"), [(3, 1), (5, 1), (4, 3)])
def test_a_student_for_another_data_set_is_refused(classes: int, channels: int) -> None:
    other = build("resnet8", classes=classes, normalization=Normalization((0.5,) * channels, (0.5,) * channels), seed=0)
    with pytest.raises(
        UserError, match=rf"{classes} classes and {channels} channels, the data set 'noise' has 4 and 1"
    ):
        Trainer(CONFIG, MethodConfig.parse({"method": "ce"}), other, None, DATA, stream_seed=0)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_that_needs_a_teacher_says_so(name: str) -> None:
    args = CONFIG, MethodConfig.parse({"method": name}), student()
    peer = student(seed=7) if METHODS[name].needs_peer else None
    if METHODS[name].needs_teacher:
        with pytest.raises(UserError, match=f"method '{name}' needs a teacher"):
            Trainer(*args, None, DATA, stream_seed=0)
    else:
        run(Trainer(*args, None, DATA, stream_seed=0, peer=peer), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs = 0: must be at least 1"),
        ({"epochs": 10**18}, "epochs = 1000000000000000000: must be at least 1 and at most 1,000,000"),
        ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
        ({"lr": 0.0}, "lr = 0.0: must be a number above 0"),
        ({"lr": math.nan}, "lr = nan: must be a number above 0"),
        ({"momentum": 1.0}, "momentum = 1.0: must be above 0 and below 1"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0: must be a number that is at least 0"),
        ({"warmup_epochs": 5}, r"warmup_epochs = 5: must be from 0 to epochs \(4\)"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean 'cosine'"),
        (
            {"schedule": "one_cycle", "warmup_epochs": 0},
            "warmup_epochs = 0: must be above 0 for the schedule one_cycle",
        ),
        ({"optimizer": "adamv"}, "unknown optimizer 'adamv': did you mean 'adam"),
        ({"precision": "bf1"}, "unknown precision 'bf1': did you mean 'bf16'"),
        ({"milestones": (0.75, 0.5)}, r"milestones = \(0.75, 0.5\): must be shares of the training, ascending"),
        ({"milestones": (0.5, 1.0)}, "milestones = .*: must be shares"),
        ({"milestones": (math.nan,)}, "milestones = .*: must be shares"),
        ({"step_factor": 0.0}, "step_factor = 0.0: must be above 0 and below 1"),
        ({"ema": 1.0}, "ema = 1.0: must be at least 0"),
        ({"ema": math.nan}, "ema = nan: must be at least 0"),
    ],
)
def test_a_recipe_that_is_wrong_says_how(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_students_learn_real_digits(tmp_path: Path) -> None:
    """Six epochs on 1,057 images; chance is 10 %."""
    store = StageStore(tmp_path / "stages")
    data = open_dataset(store.path(load_source("digits", None, store)), train_images=None, val_images=240)
    config = TrainConfig(epochs=6, batch_size=64, lr=0.1, warmup_epochs=1, augment=AugmentConfig(crop_padding=1))

    def learn(method: str, teacher: TeacherLogits | None) -> Classifier:
        model = build("resnet8", classes=10, normalization=data.normalization, seed=0)
        training = Trainer(config, MethodConfig.parse({"method": method}), model, teacher, data, stream_seed=0)
        assert [training.run_epoch() for _ in range(6)][-1]["val_top1"] > 90
        return model

    learn("dkd", ForwardTeacher(learn("ce", None)))
