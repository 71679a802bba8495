from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import logits, top1
from kdq.models.graph import fold, network
from kdq.pack.size import total_bits
from kdq.params import Switch
from kdq.quantize import algorithms, stream
from kdq.quantize import model as quantizing
from kdq.quantize.algorithms import QUANTIZERS
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.gram import WIDTH, GramStatistics, damped, gram, triangle
from kdq.quantize.layout import matrix, outputs, patches, unmatrix
from kdq.quantize.model import choose_calibration, layer_names, quantize, quantize_many
from kdq.quantize.result import Quantized

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def images(count: int = 24, size: int = 12, seed: int = 0) -> Tensor:
    """Smooth random images: neighbours are correlated, as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return (F.interpolate(coarse, size=size, mode="bilinear") * 255).to(torch.uint8)


class Net(nn.Module):
    """One of everything: groups, depth-wise, strides, dilation, padding modes, a residual, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect", bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, (3, 1), stride=(2, 1), padding=(1, 0), groups=2)
        self.shortcut = nn.Conv2d(8, 8, 1, stride=(2, 1))
        self.depthwise = nn.Conv2d(8, 16, 3, padding=2, dilation=2, groups=8)
        self.act = nn.ReLU(inplace=True)
        self.hidden = nn.Linear(16, 6)
        self.late = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        y = self.grouped(x)
        y += self.shortcut(x)
        y = self.act(self.depthwise(self.act(y))).mean((2, 3))
        out: Tensor = self.out(self.late(torch.relu(self.hidden(y))))
        return out


def net(seed: int = 0) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier("one-of-everything", Net(), 4, NORMALIZATION)
        _randomise_norms(model)
    return model


def resnet(arch: str = "resnet8") -> Classifier:
    model = build(arch, classes=10, normalization=NORMALIZATION, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        _randomise_norms(model)
    return model


def _randomise_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)


@pytest.mark.parametrize("make", [net, resnet, lambda: resnet("resnet18"), lambda: resnet("resnet50")])
def test_folding_keeps_the_outputs(make: Callable[[], Classifier]) -> None:
    model = make()
    with torch.no_grad():
        model(torch.rand(16, 3, 12, 12))  # training mode: running statistics that fit, not a blow-up
    before = logits(model, images())
    after = logits(fold(model), images())
    assert (after - before).abs().max() < 1e-4 * before.abs().max()


def test_folding_keeps_a_norm_that_no_layer_feeds() -> None:
    kinds = [type(module) for module in fold(net()).modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.BatchNorm1d) == 1


def test_norm_with_two_readers_of_its_layer_stays() -> None:
    class Two(Net):
        def forward(self, x: Tensor) -> Tensor:
            stem = self.stem(x)
            return self.out((self.norm(stem) + stem)[:, :6].mean((2, 3)))  # type: ignore[no-any-return]

    model = Classifier("two", Two(), 4, NORMALIZATION)
    _randomise_norms(model)
    assert torch.allclose(logits(fold(model), images()), logits(model, images()), atol=1e-5)


LAYERS = {
    "plain": nn.Conv2d(4, 6, 3, padding=1),
    "stride, dilation": nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3)),
    "groups": nn.Conv2d(4, 6, 3, groups=2),
    "depth-wise": nn.Conv2d(4, 8, 3, groups=4, padding=1),
    "same, circular": nn.Conv2d(4, 6, (2, 5), padding="same", padding_mode="circular"),
    "1x1": nn.Conv2d(4, 6, 1, stride=2),
    "linear": nn.Linear(7, 5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_matrix_is_the_layer(name: str) -> None:
    layer = LAYERS[name].double()
    x = torch.rand(3, *((4, 9, 7) if isinstance(layer, nn.Conv2d) else (7,)), dtype=torch.float64)
    W = matrix(layer.weight, layer)
    product = patches(x, layer) @ W.mT + layer.bias.view(W.shape[0], 1, -1)
    assert torch.allclose(product, outputs(layer(x), layer))
    assert torch.equal(unmatrix(W, layer), layer.weight)


@pytest.mark.parametrize("d", [1, WIDTH, 2 * WIDTH + 5, 5 * WIDTH - 1])
def test_products_of_which_half_is_known(d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    X, Y = torch.randn(2, 2, 30, d, generator=generator, dtype=torch.float64)
    assert torch.allclose(triangle(X, Y).triu(), (X.mT @ Y).triu())
    assert torch.allclose(gram(X), X.mT @ X)


def test_statistics_of_batches_add_up_to_those_of_the_samples() -> None:
    X, Y = torch.rand(1, 30, 5) + 3, torch.rand(1, 30, 2) - 7
    statistics = GramStatistics.of(X[:, :11], Y[:, :11]).plus(None)
    statistics = GramStatistics.of(X[:, 11:], Y[:, 11:]).plus(statistics).centred()
    x, y = (z[0].double() - z[0].double().mean(0) for z in (X, Y))
    assert torch.allclose(statistics.G[0], x.T @ x, atol=1e-3)
    assert torch.allclose(statistics.T[0], y.T @ x, atol=1e-3)
    assert torch.allclose(statistics.yy[0], y.square().sum(0), atol=1e-3)


@pytest.mark.parametrize("method", ["least_squares", "gpfq", "gptq"])
def test_work_in_parts_gives_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = QuantizeConfig(3, method, activation_bits=8)
    whole = quantize(net(), images(), config)
    for module in (quantizing, algorithms):
        monkeypatch.setattr(module, "AT_ONCE", 2000)  # an image, or some channels
    parts = quantize(net(), images(), config)
    for one, other in zip(whole.layers.values(), parts.layers.values(), strict=True):
        assert torch.equal(one.codes, other.codes)
        assert torch.allclose(one.scale, other.scale)
        assert torch.allclose(one.bias.float(), other.bias.float(), atol=1e-3)
    assert torch.allclose(logits(whole.model, images()), logits(parts.model, images()), atol=1e-3)


@pytest.mark.parametrize(("values", "images_at_once"), [(1, 1), (2 * 12 * 12 * 27, 2), (10**9, 24)])
def test_patches_are_made_of_some_images_at_once(
    values: int, images_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def noted(inputs: Tensor, module: nn.Module) -> Tensor:
        seen.append(len(inputs))
        return patches(inputs, module)

    monkeypatch.setattr(quantizing, "AT_ONCE", values)
    monkeypatch.setattr(quantizing, "patches", noted)
    quantize(
        Classifier("one", nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), Mean()), 5, NORMALIZATION),
        images(),
        QuantizeConfig(4, "rtn"),
    )
    assert seen == [images_at_once] * (24 // images_at_once)


class Mean(nn.Module):
    """Of the positions of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


EXTRA_LEVELS = {"gpfq_paper": 1, "sgpfq": 1, "gpfq_l1": 1, "gpfq_l0": 3}
"""Quantizers that reproduce papers whose alphabets are larger than 2^b; all others keep to the promise."""


def variants() -> list[tuple[str, dict[str, float]]]:
    """Every quantizer at its defaults, with each of its switches, and with all of them."""
    found: list[tuple[str, dict[str, float]]] = []
    for method, quantizer in QUANTIZERS.items():
        switches = [name for name, (_, allowed) in quantizer.params.items() if isinstance(allowed, Switch)]
        found += [(method, {}), *((method, {name: 1.0}) for name in switches)]
        found += [(method, dict.fromkeys(switches, 1.0))] if switches else []
    return found


VARIANTS = [pytest.param(*each, id=" ".join((each[0], *each[1]))) for each in variants()]


@pytest.mark.parametrize(("method", "params"), VARIANTS)
def test_every_method_gives_every_layer_its_levels(method: str, params: dict[str, float]) -> None:
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    widths = range(1, 9)
    for bits, made in zip(
        widths, quantize_many(model, images(), [QuantizeConfig(b, method, params) for b in widths]), strict=True
    ):
        assert [row.name for row in made.report] == list(layer_names(model))
        assert sorted(made.layers) == ["depthwise", "grouped", "hidden", "out", "shortcut", "stem"]
        for row in made.report:
            weight = made.model.net.get_submodule(row.name).weight
            assert max(len(neuron.unique()) for neuron in weight.flatten(1)) <= row.levels
            assert row.levels == 2**bits + EXTRA_LEVELS.get(method, 0)
            assert (row.shape, row.bits) == (tuple(weight.shape), bits)
            assert row.scales == (1 if method in EXTRA_LEVELS else len(weight))
            assert torch.equal(weight, made.layers[row.name].weight())
            zero_point = made.layers[row.name].zero_point
            assert (zero_point is not None) == bool(params.get("asymmetric"))
            assert zero_point is None or (zero_point.shape == (len(weight),) and int(zero_point.max()) < 2**bits)
            assert row.nonzero == weight.count_nonzero() / weight.numel()
        assert not made.model.training
        assert torch.isfinite(logits(made.model, images())).all()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(("method", "params"), VARIANTS)
def test_more_bits_bring_the_outputs_closer(method: str, params: dict[str, float]) -> None:
    model = net() if params else resnet()
    made = quantize_many(model, images(), [QuantizeConfig(bits, method, params) for bits in (2, 4, 8)])
    truth = logits(model, images())
    errors = [(logits(q.model, images()) - truth).norm().item() for q in made]
    assert errors[2] < errors[1] < errors[0]


def test_default_beats_round_to_nearest() -> None:
    model, fresh = resnet(), images(64, seed=9)
    truth = logits(model, fresh)
    for bits in (1, 2, 3, 4):
        made = [quantize(model, images(64), QuantizeConfig(bits, method)) for method in ("least_squares", "rtn")]
        errors = [(logits(q.model, fresh) - truth).norm() for q in made]
        assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_lies_between_the_default_and_round_to_nearest(bits: int) -> None:
    model, fresh = resnet(), images(64, seed=9)
    truth = logits(model, fresh)
    made = [quantize(model, images(64), QuantizeConfig(bits, method)) for method in ("least_squares", "gptq", "rtn")]
    errors = [(logits(q.model, fresh) - truth).norm() for q in made]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("method", ["gpfq_l0", "gpfq_l1"])
def test_thresholds_leave_fewer_weights(method: str) -> None:
    shares = []
    for threshold in (0.1, 0.4, 0.8):
        made = quantize(resnet(), images(), QuantizeConfig(3, method, {"threshold": threshold}))
        shares.append(sum(row.nonzero for row in made.report))
    assert shares[0] > shares[1] > shares[2]


def test_the_authors_radius() -> None:
    """scalar · mean over the neurons of the percentile of |w|, K steps of it, one for the layer."""
    params = {"scalar": 1.5, "percentile": 0.75}
    made = quantize(net(), images(), QuantizeConfig(3, "gpfq_paper", params, stored="float32"))
    W = fold(net()).net.stem.weight.flatten(1)
    wanted = 1.5 * W.abs().quantile(0.75, dim=1).mean() / 4
    assert made.layers["stem"].scale.tolist() == pytest.approx([wanted.item()], rel=1e-6)
    largest = made.layers["stem"].weight().abs().max() / made.layers["stem"].scale
    assert largest.item() == pytest.approx(4)


def test_random_quantizers_follow_the_seed() -> None:
    made = [quantize(resnet(), images(), QuantizeConfig(3, "sgpfq", seed=seed)) for seed in (0, 0, 1)]
    assert same(made[0], made[1])
    assert not same(made[0], made[2])


def test_float64_products_give_the_codes_of_the_recursion_on_the_samples() -> None:
    model, pictures = net(), images()
    made = quantize(model, pictures, QuantizeConfig(3, "gpfq", accumulate="float64"))
    x = (pictures.float() / 255 - model.mean) / model.std
    stem = fold(model).net.stem
    X, W = patches(x, stem)[0].double(), matrix(stem.weight, stem)[0].double()
    scale = made.layers["stem"].scale.double()
    u = torch.zeros(len(X), len(W), dtype=torch.float64)
    for t in range(W.shape[1]):
        u += torch.outer(X[:, t], W[:, t])
        code = Alphabet(3).nearest(X[:, t] @ u / (X[:, t] @ X[:, t]), scale)
        u -= torch.outer(X[:, t], Alphabet(3).values(code, scale))
        assert torch.equal(matrix(made.layers["stem"].codes, stem)[0, :, t], code)


def test_float32_scales_are_not_rounded() -> None:
    halves, singles = (quantize(resnet(), images(), QuantizeConfig(4, stored=s)) for s in ("float16", "float32"))
    assert halves.layers["conv1"].scale.dtype == torch.float16
    assert singles.layers["conv1"].scale.dtype == torch.float32
    assert not torch.equal(singles.layers["conv1"].scale, singles.layers["conv1"].scale.half().float())


def test_a_bias_beyond_float16_is_kept_in_float32() -> None:
    model = net()
    model.net.hidden.bias.data[0] = 1e6
    made = quantize(model, images(), QuantizeConfig(4))
    dtypes = {name: (layer.scale.dtype, layer.bias.dtype) for name, layer in made.layers.items()}
    assert dtypes.pop("hidden") == (torch.float32, torch.float32)
    assert set(dtypes.values()) == {(torch.float16, torch.float16)}
    assert made.model.net.hidden.bias[0].item() == pytest.approx(1e6, rel=0.01)


class Chain(nn.Module):
    """Two convolutions and a linear layer with a ReLU between them: scales may move from layer to layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.second(self.first(x).relu()).relu().mean((2, 3)))
        return out


def rescaled(c: float, channels: slice = slice(None)) -> Classifier:
    """The same function for every c > 0: the second layer's channels times c, the last one's inputs divided by c."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chain = Chain().requires_grad_(False)
    chain.second.weight[channels] *= c
    chain.second.bias[channels] *= c
    chain.last.weight[:, channels] /= c
    return Classifier("chain", chain, 10, NORMALIZATION)


MOVED = {method: (4, slice(None)) for method in QUANTIZERS}
"""Quantizer -> widths, and channels of which scales may move: of all together …"""

MOVED |= {
    f"{method}, one channel": ({"first": 4, "second": 4, "last": 32}, slice(3, 4))
    for method in QUANTIZERS.keys() - EXTRA_LEVELS.keys()
}
"""… or of one, if it has a scale of its own and the next layer, with one scale a row for all of them, is in float."""


@pytest.mark.parametrize("activation_bits", [None, 8])
@pytest.mark.parametrize("case", sorted(MOVED))
def test_scales_may_move_between_layers(case: str, activation_bits: int | None) -> None:
    (bits, channels), fresh = MOVED[case], images(200, seed=3)
    config = QuantizeConfig(bits, case.split(",")[0], activation_bits=activation_bits)
    truth, wanted = (logits(m, fresh) for m in (rescaled(1), quantize(rescaled(1), images(64), config).model))
    for power in (-8, -6, -4, -3, -1, 1, 3, 5, 8):
        found = logits(quantize(rescaled(10.0**power, channels), images(64), config).model, fresh)
        assert (found - truth).norm() < 1.3 * (wanted - truth).norm()
        assert (found - wanted).norm() < 0.02 * wanted.norm()
        assert (found.argmax(1) == wanted.argmax(1)).double().mean() > 0.98


@pytest.mark.parametrize("method", QUANTIZERS)
def test_powers_of_two_that_move_between_layers_leave_the_codes(method: str) -> None:
    config = QuantizeConfig(3, method, stored="float32")
    wanted = quantize(rescaled(1), images(), config)
    for power in (-27, -9, 14, 27):
        made = quantize(rescaled(2.0**power), images(), config)
        for name, stored in made.layers.items():
            assert torch.equal(stored.codes, wanted.layers[name].codes)


def test_what_the_network_ignores_needs_no_float32() -> None:
    """A channel of tiny weights that nothing reads back to size, as batch norms leave them in trained networks."""
    model = rescaled(1)
    model.net.second.weight[2] *= 1e-9
    model.net.second.bias[2] = 1e-9
    made = quantize(model, images(), QuantizeConfig(4))
    assert {layer.scale.dtype for layer in made.layers.values()} == {torch.float16}
    assert made.layers["second"].scale[2] == 0


@pytest.mark.parametrize("c", [1e-7, 1e7])
def test_scales_beyond_float16_are_kept_in_float32_and_counted(c: float) -> None:
    small, usual = (quantize(rescaled(factor), images(), QuantizeConfig(4)) for factor in (c, 1))
    dtypes = {name: layer.scale.dtype for name, layer in small.layers.items()}
    assert dtypes == {"first": torch.float16, "second": torch.float32, "last": torch.float32}
    assert total_bits(small) == total_bits(usual) + 16 * 2 * (8 + 10)


def test_reported_error_is_that_of_the_layer() -> None:
    model = net()
    made = quantize(model, images(), QuantizeConfig(3))
    x = (images().float() / 255 - model.mean) / model.std
    wanted, given = fold(model).net.stem(x), made.model.net.stem(x)
    centre = [y - y.mean((0, 2, 3), keepdim=True) for y in (wanted, given)]
    assert made.report[0].error == pytest.approx(((centre[0] - centre[1]).norm() / centre[0].norm()).item(), rel=1e-3)
    assert torch.allclose(wanted.mean((0, 2, 3)), given.mean((0, 2, 3)), atol=1e-3)  # what the bias is for


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    configs = [QuantizeConfig(bits, method) for bits in (2, 32, 5) for method in QUANTIZERS]
    configs += [
        QuantizeConfig(2, method, {"asymmetric": 1, "bias_correction": 1}) for method in ("gpfq", "gptq", "rtn")
    ]
    for config, made in zip(configs, quantize_many(resnet(), images(), configs), strict=True):
        alone = quantize(resnet(), images(), config)
        assert same(made, alone)
        assert made.config == config


def same(a: Quantized, b: Quantized) -> bool:
    states = a.model.state_dict(), b.model.state_dict()
    rows = [[replace(row, seconds=0) for row in q.report] for q in (a, b)]
    return rows[0] == rows[1] and all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_32_bits_are_the_folded_float_model() -> None:
    model = resnet()
    made = quantize(model, images(), QuantizeConfig(32))
    assert not made.layers
    assert not made.report
    assert torch.equal(logits(made.model, images()), logits(fold(model), images()))


def test_a_mapping_gives_each_layer_its_width() -> None:
    model = net()
    widths = dict(zip(layer_names(model), (8, 1, 32, 4, 3, 2), strict=True))
    made = quantize(model, images(), QuantizeConfig(widths))
    assert {row.name: row.bits for row in made.report} == {n: b for n, b in widths.items() if b != 32}
    kept = next(name for name, bits in widths.items() if bits == 32)
    assert torch.equal(made.model.net.get_submodule(kept).weight, fold(model).net.get_submodule(kept).weight)


def test_the_deep_branch_knows_the_error_of_the_shortcut() -> None:
    plan = network(fold(net()))
    order = [site.name.removeprefix("net.") for site in plan.sites]
    partners = {site.name.removeprefix("net."): site.partner for site in plan.sites}
    assert {order.index("grouped"), order.index("shortcut")} == {1, 2}
    assert [name for name, partner in partners.items() if partner is not None] == [order[2]]

    plan = network(fold(resnet("resnet18")))
    order = [site.name.removeprefix("net.") for site in plan.sites]
    assert order.index("layer2.0.downsample.0") < order.index("layer2.0.conv1")
    corrected = [site.name.removeprefix("net.") for site in plan.sites if site.partner is not None]
    assert corrected == [f"layer{stage}.{block}.conv2" for stage in (1, 2, 3, 4) for block in (0, 1)]


def test_torchvision_resnet_is_quantized_whole() -> None:
    model = resnet("resnet18")
    names = layer_names(model)
    assert len(names) == 21  # 16 in blocks, the stem, 3 downsamplings, the classifier
    quick = ("layer1", "layer2.0.conv1", "layer2.0.downsample")
    widths = {name: 4 if name.startswith(quick) else 32 for name in names}
    configs = QuantizeConfig(4, "rtn"), QuantizeConfig(widths)
    whole, part = quantize_many(model, images(4, 8), configs)
    assert set(whole.layers) == set(names)
    assert len(part.report) == 6
    assert all(0 < row.error < 0.5 for row in part.report)


def test_spilling_to_files_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, many = resnet(), images(80)
    kept = quantize(model, many, QuantizeConfig(2))
    monkeypatch.setattr(stream, "RESIDENT", 100_000)
    assert same(kept, quantize(model, many, QuantizeConfig(2)))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_degenerate_layers(bits: int) -> None:
    class Odd(nn.Module):
        """A channel of zeros, a channel of one value, dead ReLUs, one output channel, d ≫ N."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3)
            self.narrow = nn.Conv2d(8, 1, 1)
            self.last = nn.Linear(100, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.narrow(self.first(x).relu()).relu().flatten(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    odd = Odd().requires_grad_(False)
    odd.first.weight[0], odd.first.bias[0] = 0, 0
    odd.first.weight[1] = 0.25
    odd.first.bias[2:7] = -1000
    dead = Odd().requires_grad_(False)
    dead.first.bias[:] = -1000
    for module in (odd, dead):
        model = Classifier("odd", module, 4, NORMALIZATION)
        for method, params in variants():
            made = quantize(model, images(1, 12), QuantizeConfig(bits, method, params))
            assert torch.isfinite(logits(made.model, images(1, 12))).all()
            assert module is dead or not made.layers["first"].weight()[0].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_are_refused_with_the_layers_name(bad: float) -> None:
    model = net()
    model.net.depthwise.weight.data[0, 0, 0, 0] = bad
    with pytest.raises(UserError, match="layer depthwise: its weight: NaN or infinite values"):
        quantize(model, images(), QuantizeConfig(4))
    with pytest.raises(UserError, match="layer depthwise"):
        quantize(model, images(), QuantizeConfig(32))


def test_bad_statistics_of_a_norm_are_refused_with_its_name() -> None:
    model = net()
    model.net.norm.running_var[0] = float("nan")
    with pytest.raises(UserError, match="layer norm: its running_var: NaN or infinite values"):
        quantize(model, images(), QuantizeConfig(4))
    model.net.norm.running_var[0] = -1  # finite, but its root is not
    with pytest.raises(UserError, match="layer stem: its weight: NaN or infinite values"):
        quantize(model, images(), QuantizeConfig(4))


def test_nan_in_calibration_images_is_refused() -> None:
    pictures = images().float() / 255
    pictures[3, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="calibration images: floating-point values from nan to nan; must be finite"):
        quantize(net(), pictures, QuantizeConfig(4))


def test_activations_that_overflow_are_refused_with_the_layers_name() -> None:
    model = rescaled(1)
    model.net.first.weight *= 1e30
    for bits in (None, 8):
        with pytest.raises(UserError, match="layer second: its inputs from the calibration images: NaN or infinite"):
            quantize(model, images(), QuantizeConfig(4, activation_bits=bits))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.float(), "values from 0 to 254; must be finite and from 0 to 1"),
        (lambda x: (x / 255 - 0.5) / 0.25, "neither normalised nor 0 to 255"),
        (lambda x: x[0], r"of shape \[3, 12, 12\]; must be \[N, 3, H, W\]"),
        (lambda x: x.permute(0, 2, 3, 1).numpy(), r"of shape \[24, 12, 12, 3\]; must be \[N, 3, H, W\]"),
        (lambda x: x.long(), "must be uint8"),
        (lambda x: x[:, :, :1], r"cannot process calibration images of shape \[24, 3, 1, 12\]"),
    ],
)
@pytest.mark.parametrize("bits", [4, 32])
def test_images_that_are_none_are_refused(change: Callable[[Tensor], object], message: str, bits: int) -> None:
    with pytest.raises(UserError, match=message):
        quantize(net(), change(images()), QuantizeConfig(bits))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [lambda x: x.numpy(), lambda x: x / 255, lambda x: x.double() / 255])
def test_images_of_any_kind_give_the_same_model(change: Callable[[Tensor], Tensor]) -> None:
    made = [quantize(net(), pictures, QuantizeConfig(4)) for pictures in (change(images()), images())]
    assert torch.allclose(logits(made[0].model, images()), logits(made[1].model, images()), atol=1e-4)


@pytest.mark.parametrize("count", [1, 8, 64, 300])
@pytest.mark.parametrize("method", QUANTIZERS)
def test_layers_whose_inputs_do_not_vary(method: str, count: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        chain = Chain().requires_grad_(False)
    chain.first.weight.zero_()
    made = quantize(Classifier("constant", chain, 10, NORMALIZATION), images(count, 16), QuantizeConfig(4, method))
    assert [row.error for row in made.report] == [0, 0, 0]
    assert torch.isfinite(logits(made.model, images(9, 16))).all()
    if method == "least_squares":  # its bias keeps the mean of the outputs, which are all there is
        truth = logits(Classifier("constant", chain, 10, NORMALIZATION), images(9, 16))
        assert torch.allclose(logits(made.model, images(9, 16)), truth, atol=2e-3)


def test_damping_exceeds_the_rounding_of_the_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)).Q
    G = Q @ torch.diag_embed(torch.tensor([-1.0, 1, 2, 3, 4, 5], dtype=torch.float64)) @ Q.mT
    for given, wanted in ((0.5, 3.0), (1.5, 1.5)):
        damping, found, factor = damped(G, torch.full((2, 1, 1), given, dtype=torch.float64))
        assert torch.allclose(damping, torch.full_like(damping, wanted))
        assert torch.allclose(factor @ factor.mT, found)
        assert torch.allclose(found, G + wanted * torch.eye(6, dtype=torch.float64))


class InPlace(nn.Module):
    """A network whose forward `change` sees the first layer's outputs, which are read again."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(y)
        changed = self.change(y)
        out: Tensor = self.last((z + changed).mean((2, 3)))
        return out


def drop(x: Tensor) -> Tensor:
    x.relu_()
    return x


def assign(x: Tensor) -> Tensor:
    x *= 0.5
    return x


@pytest.mark.parametrize(
    "change", [lambda x: x.relu_(), lambda x: F.relu(x, inplace=True), lambda x: torch.relu_(x), assign]
)
def test_operations_in_place_do_not_reach_back(change: Callable[[Tensor], Tensor]) -> None:
    model = Classifier("in place", InPlace(change), 4, NORMALIZATION)
    quantize(model, images(), QuantizeConfig(4))  # its own check compares all operations with the model


@pytest.mark.parametrize("change", [drop, lambda x: F.dropout(x, 0.5), lambda x: x + torch.rand(1)])
def test_a_forward_that_tracing_does_not_reproduce_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    model = Classifier("strange", InPlace(change), 4, NORMALIZATION)
    with pytest.raises(UserError, match="'strange': its outputs change when it"):
        quantize(model, images(), QuantizeConfig(4))


def test_a_batch_norm_over_another_axis_is_not_folded_in_silence() -> None:
    class Tokens(nn.Module):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.fc, self.norm, self.out = nn.Linear(12, features), nn.BatchNorm1d(12), nn.Linear(features, 4)
            self.norm.running_var = torch.linspace(0.1, 5, 12)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(self.fc(x.mean(1))).mean(1))  # type: ignore[no-any-return]

    apart = Classifier("apart", Tokens(7), 4, NORMALIZATION)
    assert torch.allclose(logits(fold(apart), images()), logits(apart, images()), atol=1e-5)
    with pytest.raises(UserError, match="its outputs change when its batch norms are folded"):
        quantize(Classifier("alike", Tokens(12), 4, NORMALIZATION), images(), QuantizeConfig(4))


def test_hooks_may_watch_a_layer_but_not_change_it() -> None:
    model, seen = net(), []
    handle = model.net.hidden.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    assert same(quantize(model, images(), QuantizeConfig(4)), quantize(net(), images(), QuantizeConfig(4)))
    assert seen
    handle.remove()
    model.net.hidden.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    with pytest.raises(UserError, match="layer hidden: has hooks that change its inputs or outputs; remove them"):
        quantize(model, images(), QuantizeConfig(4))
    made = quantize(net(), images(), QuantizeConfig(4, activation_bits=8))
    with pytest.raises(UserError, match=r"layer .*: has hooks that change its inputs .* give the float model"):
        quantize(made.model, images(), QuantizeConfig(4))


def test_no_calibration_images_are_refused() -> None:
    with pytest.raises(UserError, match="0 calibration images"):
        quantize(net(), images(0 + 1)[:0], QuantizeConfig(4))


def test_wrong_configurations_are_refused() -> None:
    for bits in (0, 9, 16, -2):
        with pytest.raises(UserError, match=f"bits = {bits}: must be a whole number from 1 to 8, or 32"):
            QuantizeConfig(bits)
    with pytest.raises(UserError, match=r"bits\['stem'\] = 12"):
        QuantizeConfig({"stem": 12})
    with pytest.raises(UserError, match="did you mean 'gpfq'"):
        QuantizeConfig(4, "gpfqq")
    with pytest.raises(
        UserError, match="method 'gpfq_plain': it is called 'gpfq' now, and what 'gpfq' was is called 'lea"
    ):
        QuantizeConfig(4, "gpfq_plain")
    with pytest.raises(UserError, match="unknown parameter of quantizer 'rtn' 'scalar'"):
        QuantizeConfig(4, "rtn", {"scalar": 1})
    with pytest.raises(
        UserError, match=r"asymmetric = 2: for quantizer 'gptq' it must be a number that is 0 \(off\) or 1"
    ):
        QuantizeConfig(4, "gptq", {"asymmetric": 2})
    with pytest.raises(UserError, match="unknown parameter of quantizer 'gpfq_paper' 'bias_correction'"):
        QuantizeConfig(4, "gpfq_paper", {"bias_correction": 1})
    with pytest.raises(UserError, match="scalar = nan: for quantizer 'sgpfq' it must be a number above 0"):
        QuantizeConfig(4, "sgpfq", {"scalar": float("nan")})
    with pytest.raises(UserError, match="activation_bits = 3: must be a whole number from 4 to 8"):
        QuantizeConfig(4, activation_bits=3)
    with pytest.raises(UserError, match="unknown stored 'float64': did you mean"):
        QuantizeConfig(4, stored="float64")
    with pytest.raises(UserError, match="unknown accumulate 'half'"):
        QuantizeConfig(4, accumulate="half")
    with pytest.raises(UserError, match="did you mean 'stem'"):
        quantize(net(), images(), QuantizeConfig(dict.fromkeys([*layer_names(net()), "stemm"], 4)))
    with pytest.raises(UserError, match="no width for out: must name every layer"):
        quantize(net(), images(), QuantizeConfig(dict.fromkeys(layer_names(net())[:-1], 4)))


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branch(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    with pytest.raises(UserError, match="cannot be traced"):
        quantize(Classifier("branch", Branch(), 4, NORMALIZATION), images(), QuantizeConfig(4))

    class Counting(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(len(x), *x.shape[1:]))

    with pytest.raises(UserError, match=r"takes the number of images for a constant.*; use images\.shape\[0\]"):
        quantize(Classifier("counting", Counting(), 4, NORMALIZATION), images(), QuantizeConfig(4))


def test_no_images_to_draw_are_refused() -> None:
    with pytest.raises(UserError, match="count = 0: must be at least 1"):
        choose_calibration(images(), seed=0, count=0)
    assert torch.equal(
        choose_calibration(images().numpy(), seed=0, count=3), choose_calibration(images(), seed=0, count=3)
    )


def test_calibration_images_are_drawn_by_the_seed() -> None:
    many = images(50)
    chosen = choose_calibration(many, seed=3, count=20)
    assert torch.equal(chosen, choose_calibration(many, seed=3, count=20))
    assert not torch.equal(chosen, choose_calibration(many, seed=4, count=20))
    rows = {row.numpy().tobytes() for row in chosen}
    assert len(rows) == 20
    assert rows <= {row.numpy().tobytes() for row in many}
    assert torch.equal(choose_calibration(many, seed=0, count=512), many)


def published_resnet20(shared_data: Path) -> Classifier:
    path = shared_data / "checkpoints" / "resnet20-12fca82f.th"
    state = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    norm = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = build("resnet20", classes=10, normalization=norm, seed=0)
    model.net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model


def test_published_resnet20_keeps_its_accuracy(shared_data: Path) -> None:
    """On 500 test images, with 64 for calibration. The full measurement is a benchmark."""
    pixels, labels = cifar(shared_data, "test", 500)
    calibration, _ = cifar(shared_data, "train", 64)
    model = published_resnet20(shared_data)
    truth = top1(model, pixels, labels)
    made = quantize_many(model, calibration, [QuantizeConfig(3), QuantizeConfig(4)])
    assert top1(made[0].model, pixels, labels) > truth - 2.5
    assert top1(made[1].model, pixels, labels) > truth - 1.5


CORRECTED = {"bias_correction": 1}
BASELINES = {
    "gptq": (QuantizeConfig(2, "gptq"), 85.3),
    "gpfq": (QuantizeConfig(2, "gpfq"), 83.0),
    "rtn": (QuantizeConfig(2, "rtn"), 21.3),
    "rtn, bias correction": (QuantizeConfig(2, "rtn", CORRECTED), 49.8),
    "rtn, asymmetric, bias correction": (QuantizeConfig(2, "rtn", {"asymmetric": 1} | CORRECTED), 74.0),
}
"""With what the published ResNet-20 has at 2 bits on all test images, measured with another program."""


def test_baselines_of_the_published_resnet20_are_as_strong_as_they_should_be(shared_data: Path) -> None:
    """On 1,000 test images (a deviation of 1.6 points at 50 %), with 64 for calibration."""
    pixels, labels = cifar(shared_data, "test", 1000)
    calibration, _ = cifar(shared_data, "train", 64)
    made = quantize_many(published_resnet20(shared_data), calibration, [config for config, _ in BASELINES.values()])
    for (name, (_, wanted)), quantized in zip(BASELINES.items(), made, strict=True):
        assert top1(quantized.model, pixels, labels) == pytest.approx(wanted, abs=5), name


def cifar(folder: Path, split: str, count: int) -> tuple[Tensor, Tensor]:
    import io

    import numpy as np
    import pyarrow.parquet
    from PIL import Image

    file = pyarrow.parquet.ParquetFile(folder / "cifar10" / "plain_text" / f"{split}-00000-of-00001.parquet")
    rows = next(file.iter_batches(batch_size=count)).to_pylist()
    pixels = [np.asarray(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")) for row in rows]
    tensor = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return tensor, torch.tensor([row["label"] for row in rows])
