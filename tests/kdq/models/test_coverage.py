"""Which weights are quantized, over small models of every kind: nothing else stays in float in silence."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization
from kdq.models.coverage import check_coverage
from kdq.models.evaluate import logits
from kdq.models.graph import fold, network
from kdq.pack.size import total_bits
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import layer_names, quantize

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
CLASSES = 5


def images(count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A stem to 4 × 4 tokens of 8 channels, [N, 16, 8], a body, and a head.

    body: called with the tokens; returns tokens. Modules beside it are arguments by name.
    """

    def __init__(self, body: Callable[["Net", Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        for name, part in parts.items():
            setattr(self, name, part)
        self.body = body
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.body(self, self.stem(x).flatten(2).transpose(1, 2))
        return self.head(tokens.mean(1))  # type: ignore[no-any-return]


def model(body: Callable[[Net, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> Classifier:
    return Classifier("tokens", Net(body, **parts), CLASSES, NORMALIZATION).eval()


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.3 * torch.randn(shape))


class Plain(nn.Linear):
    """A layer that is built differently, and computes the same."""

    def __init__(self, features: int) -> None:
        super().__init__(features, features, bias=False)


class Scaled(nn.Linear):
    """A layer that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, 2 * self.weight, self.bias)


class Standardised(nn.Conv2d):
    """A convolution with standardised weights (Qiao et al. 2019)."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(input, weight, self.bias)


def encoder(**options: object) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True, **options)  # type: ignore[arg-type]


def as_map(x: Tensor) -> Tensor:
    return x.transpose(1, 2).unflatten(2, (4, 4))


def as_tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def frozen(net: Net, name: str) -> Net:
    """The network with a parameter as a buffer of its state."""
    value = getattr(net, name)
    delattr(net, name)
    net.register_buffer(name, value.detach())
    return net


ATTENTION = tuple(f"{name}_proj" for name in ("q", "k", "v", "out"))
ENCODER = (*(f"self_attn.{name}" for name in ATTENTION), "linear1", "linear2")


@dataclass(frozen=True)
class Covered:
    """A model that is quantized. layers: those beside stem and head; floats: parameters left as they are."""

    make: Callable[[], Classifier]
    layers: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()


COVERED = {
    "nothing": Covered(lambda: model(lambda net, x: x)),
    "norms": Covered(
        lambda: model(
            lambda net, x: as_tokens(net.g(net.i(net.b(as_map(net.l(net.r(x))))))),
            b=nn.BatchNorm2d(8),
            g=nn.GroupNorm(2, 8),
            i=nn.InstanceNorm2d(8, affine=True),
            l=nn.LayerNorm((16, 8)),
            r=nn.RMSNorm(8),
        ),
        floats=("b.weight", "b.bias", "g.weight", "g.bias", "i.weight", "i.bias", "l.weight", "l.bias", "r.weight"),
    ),
    "slopes": Covered(lambda: model(lambda net, x: net.act(x), act=nn.PReLU()), floats=("act.weight",)),
    "position": Covered(lambda: model(lambda net, x: x + net.at, at=parameter(1, 16, 8)), floats=("at",)),
    "tokens": Covered(
        lambda: model(lambda net, x: torch.cat([net.token.expand(x.shape[0], -1, -1), x], 1), token=parameter(1, 1, 8)),
        floats=("token",),
    ),
    "resized position": Covered(
        lambda: model(
            lambda net, x: x + F.interpolate(net.at[:, :2].mT, size=16, mode="linear").mT, at=parameter(1, 4, 8)
        ),
        floats=("at",),
    ),
    "layer scale": Covered(lambda: model(lambda net, x: x * net.gain / 2, gain=parameter(8)), floats=("gain",)),
    "gate": Covered(lambda: model(lambda net, x: x * net.gain.sigmoid(), gain=parameter(1)), floats=("gain",)),
    "one number": Covered(
        lambda: model(lambda net, x: (x.relu() + 0.1).pow(net.p.exp()), p=parameter(1)),
        floats=("p",),
    ),
    "functional norm": Covered(
        lambda: model(lambda net, x: F.layer_norm(x, (8,), net.gain, net.shift), gain=parameter(8), shift=parameter(8)),
        floats=("gain", "shift"),
    ),
    "learned queries": Covered(
        lambda: model(
            lambda net, x: net.attend(net.queries.expand(x.shape[0], -1, -1), x, x)[0],
            attend=nn.MultiheadAttention(8, 2, batch_first=True),
            queries=parameter(1, 3, 8),
        ),
        tuple(f"attend.{name}" for name in ATTENTION),
        ("queries",),
    ),
    "encoder layer": Covered(
        lambda: model(lambda net, x: net.layer(x), layer=encoder()),
        tuple(f"layer.{name}" for name in ENCODER),
        ("layer.norm1.weight", "layer.norm1.bias", "layer.norm2.weight", "layer.norm2.bias"),
    ),
    "encoder": Covered(
        lambda: model(
            lambda net, x: net.body_(x),
            body_=nn.TransformerEncoder(encoder(norm_first=True, activation="gelu"), 2, enable_nested_tensor=False),
        ),
        tuple(f"body_.layers.{i}.{name}" for i in range(2) for name in ENCODER),
        tuple(f"body_.layers.{i}.norm{j}.{kind}" for i in range(2) for j in (1, 2) for kind in ("weight", "bias")),
    ),
    "subclass": Covered(lambda: model(lambda net, x: net.fc(x), fc=Plain(8)), ("fc",)),
    "keyword": Covered(lambda: model(lambda net, x: net.fc(input=x), fc=nn.Linear(8, 8)), ("fc",)),
    "module list": Covered(
        lambda: model(
            lambda net, x: net.list[1](net.list[0](x)), list=nn.ModuleList([nn.Linear(8, 4), nn.Linear(4, 8)])
        ),
        ("list.0", "list.1"),
    ),
    "weight norm": Covered(
        lambda: model(lambda net, x: net.fc(x), fc=parametrizations.weight_norm(nn.Linear(8, 8))), ("fc",)
    ),
    "called twice": Covered(lambda: model(lambda net, x: net.fc(net.fc(x)), fc=nn.Linear(8, 8)), ("fc",)),
    "1-d convolution": Covered(
        lambda: model(
            lambda net, x: net.c(x.mT).mT,
            c=nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=2, padding_mode="circular"),
        ),
        ("c",),
    ),
    "looked up by constants": Covered(
        lambda: model(lambda net, x: x + net.table[torch.arange(16) // 2], table=parameter(8, 8)), floats=("table",)
    ),
    "attention's mask": Covered(
        lambda: model(lambda net, x: F.scaled_dot_product_attention(x, x, x, attn_mask=net.at), at=parameter(16, 16)),
        floats=("at",),
    ),
    "squeeze, excite": Covered(
        lambda: model(lambda net, x: x * net.fc(x.mean(1, keepdim=True)).sigmoid(), fc=nn.Linear(8, 8)), ("fc",)
    ),
}


@pytest.mark.parametrize("name", COVERED)
def test_all_weights_are_quantized_but_for_what_the_rule_leaves_in_float(name: str) -> None:
    torch.manual_seed(0)
    case = COVERED[name]
    given = case.make()
    made = quantize(given, images(), QuantizeConfig(3))
    assert set(made.layers) == {"stem", *case.layers, "head"}
    assert set(layer_names(given)) == set(made.layers)
    kinds = {f"net.{layer}.{kind}" for layer in made.layers for kind in ("weight", "bias")}
    assert {key for key, _ in made.model.named_parameters()} == kinds | {f"net.{key}" for key in case.floats}
    for layer, stored in made.layers.items():
        weight = made.model.net.get_submodule(layer).weight
        assert torch.equal(weight, stored.weight())
        assert all(len(channel.unique()) <= 8 for channel in weight.flatten(1))
    truth = logits(given, images())
    eight = logits(quantize(given, images(), QuantizeConfig(8)).model, images())
    assert (eight - truth).norm() < 0.1 * truth.norm()


LEFT = "would stay in float; only nn.Conv1d, nn.Conv2d, nn.Linear and attention of torch.nn are quantized"

REFUSED: dict[str, tuple[Callable[[], Classifier], str]] = {
    "3-d convolution": (
        lambda: model(lambda net, x: as_tokens(net.c(as_map(x).unsqueeze(2)).squeeze(2)), c=nn.Conv3d(8, 8, 1)),
        "layer c: the weights of Conv3d would",
    ),
    "transposed": (
        lambda: model(lambda net, x: as_tokens(net.c(as_map(x))), c=nn.ConvTranspose2d(8, 8, 2)),
        "layer c: the weights of ConvTranspose2d would",
    ),
    "bilinear": (
        lambda: model(lambda net, x: net.b(x, x), b=nn.Bilinear(8, 8, 8)),
        "layer b: the weights of Bilinear would",
    ),
    "embedding": (
        lambda: model(lambda net, x: x + net.e((x > 0).long()).mean(-2), e=nn.Embedding(2, 8)),
        "layer e: the weights of Embedding would",
    ),
    "recurrent": (
        lambda: model(lambda net, x: net.r(x)[0], r=nn.LSTM(8, 8, batch_first=True)),
        "layer r: the weights of LSTM would",
    ),
    "decoder": (
        lambda: model(lambda net, x: net.d(x, x), d=nn.TransformerDecoderLayer(8, 2, 12, batch_first=True)),
        "layer d: the weights of TransformerDecoderLayer would",
    ),
    "attention with extra keys": (
        lambda: model(lambda net, x: net.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, add_bias_kv=True)),
        "layer a: the weights of MultiheadAttention would",
    ),
    "F.linear": (
        lambda: model(lambda net, x: F.linear(x, net.w), w=parameter(8, 8)),
        rf"parameter w is used by linear\(\), outside of any layer, and {LEFT}",
    ),
    "F.linear to one output": (
        lambda: model(lambda net, x: x + F.linear(x, net.w), w=parameter(1, 8)),
        r"parameter w is used by linear\(\)",
    ),
    "matrix product": (lambda: model(lambda net, x: x @ net.w.t(), w=parameter(8, 8)), r"w is used by matmul\(\)"),
    "method": (lambda: model(lambda net, x: x.matmul(net.w), w=parameter(8, 8)), r"w is used by matmul\(\)"),
    "einsum": (
        lambda: model(lambda net, x: torch.einsum("nlc,cd->nld", x, net.w), w=parameter(8, 8)),
        r"w is used by einsum\(\)",
    ),
    "F.conv2d": (
        lambda: model(lambda net, x: as_tokens(F.conv2d(as_map(x), net.w)), w=parameter(8, 8, 1, 1)),
        r"w is used by conv2d\(\)",
    ),
    "F.embedding": (
        lambda: model(lambda net, x: x + F.embedding((x > 0).long(), net.w).mean(-2), w=parameter(2, 8)),
        r"w is used by embedding\(\)",
    ),
    "index": (
        lambda: model(lambda net, x: x + net.w[(x > 0).long()].mean(-2), w=parameter(2, 8)),
        r"w is used by getitem\(\)",
    ),
    "matrix of gains": (lambda: model(lambda net, x: x * net.w, w=parameter(16, 8)), r"w is used by mul\(\)"),
    "matrix product by hand": (
        lambda: model(lambda net, x: (x.unsqueeze(-2) * net.w).sum(-1), w=parameter(8, 8)),
        r"w is used by mul\(\)",
    ),
    "computed weight": (
        lambda: model(lambda net, x: F.linear(x, (net.w - net.w.mean()) / 2), w=parameter(8, 8)),
        r"w is used by linear\(\)",
    ),
    "overridden linear": (lambda: model(lambda net, x: net.fc(x), fc=Scaled(8, 8)), r"fc.weight is used by linear\(\)"),
    "overridden convolution": (
        lambda: model(lambda net, x: as_tokens(net.c(as_map(x))), c=Standardised(8, 8, 1)),
        r"c.weight is used by conv2d\(\)",
    ),
    "a layer's weight elsewhere": (
        lambda: model(lambda net, x: F.linear(net.fc(x), net.fc.weight), fc=nn.Linear(8, 8)),
        r"fc.weight is used by linear\(\)",
    ),
    "parameter list": (
        lambda: model(lambda net, x: x @ net.w[0], w=nn.ParameterList([parameter(8, 8)])),
        r"w.0 is used by matmul\(\)",
    ),
    "past the registry": (
        lambda: model(lambda net, x: x @ net._parameters["w"].mT, w=parameter(8, 8)),
        r"w is used by matmul\(\)|w is stored, but not used",
    ),
    "frozen weight": (
        lambda: Classifier(
            "frozen",
            frozen(Net(lambda net, x: x @ net.w.mT, w=parameter(8, 8)), "w"),
            CLASSES,
            NORMALIZATION,
        ),
        r"w is used by matmul\(\)",
    ),
    "attention's keys": (
        lambda: model(
            lambda net, x: F.scaled_dot_product_attention(x, net.k.expand(x.shape[0], -1, -1), x), k=parameter(16, 8)
        ),
        r"k is used by scaled_dot_product_attention\(\)",
    ),
    "unused layer": (
        lambda: model(lambda net, x: x, aux=nn.Linear(8, 8)),
        "layer aux: its weight is stored, but not used in evaluation mode; remove it",
    ),
    "unused result": (
        lambda: model(lambda net, x: (net.aux(x), x)[1], aux=nn.Linear(8, 8)),
        "layer aux: its weight is stored, but not used",
    ),
    "unused parameter": (lambda: model(lambda net, x: x, w=parameter(8, 8)), "w is stored, but not used"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_weight_that_would_stay_in_float_is_refused_with_its_name(name: str) -> None:
    torch.manual_seed(0)
    make, message = REFUSED[name]
    given = make()
    logits(given, images())  # it is a good model
    with pytest.raises(UserError, match=message):
        quantize(given, images(), QuantizeConfig(8))
    kept = quantize(given, images(), QuantizeConfig(32))
    torch.testing.assert_close(logits(kept.model, images()), logits(given, images()), rtol=1e-4, atol=1e-5)


def test_fixed_tensors_that_are_no_state_are_no_weights() -> None:
    def blur(net: Net, x: Tensor) -> Tensor:
        return F.conv1d(x.mT, net.kernel.expand(8, 1, 3), padding=1, groups=8).mT

    net = Net(blur)
    net.register_buffer("kernel", torch.tensor([0.25, 0.5, 0.25]), persistent=False)
    made = quantize(Classifier("blur", net, CLASSES, NORMALIZATION), images(), QuantizeConfig(4))
    assert set(made.layers) == {"stem", "head"}


def test_layers_that_share_parameters_get_their_own() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight, second.bias = first.weight, first.bias
    given = model(lambda net, x: net.second(net.norm(net.first(x).mT).mT.relu()), first=first, second=second)
    given.net.norm = nn.BatchNorm1d(8)
    given.eval()
    assert torch.allclose(logits(fold(given), images()), logits(given, images()), atol=1e-5)
    made = quantize(given, images(), QuantizeConfig(4))
    for name in ("first", "second"):
        assert torch.equal(made.model.net.get_submodule(name).weight, made.layers[name].weight())
    assert not torch.equal(made.layers["first"].codes, made.layers["second"].codes)
    assert first.weight is second.weight


def test_a_module_under_two_names_is_stored_once() -> None:
    torch.manual_seed(0)
    fc = nn.Linear(8, 8)
    once = model(lambda net, x: net.fc(net.fc(x)), fc=fc)
    twice = model(lambda net, x: net.other(net.fc(x)), fc=fc, other=fc)
    twice.load_state_dict(once.state_dict(), strict=False)
    made = [quantize(given, images(), QuantizeConfig(4)) for given in (once, twice)]
    assert set(made[1].layers) == {"stem", "fc", "head"}
    assert total_bits(made[0]) == total_bits(made[1])
    assert torch.equal(logits(made[0].model, images()), logits(made[1].model, images()))


def test_torchvision_transformer_is_covered() -> None:
    from torchvision.models import VisionTransformer

    net = VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=CLASSES)
    folded = fold(Classifier("vit", net, CLASSES, NORMALIZATION))
    plan = network(folded)
    check_coverage(folded, plan)
    assert len(plan.sites) == 2 + 2 * 6
