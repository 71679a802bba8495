"""Models as users hand them in: wrapped, of any precision, parametrized; or refused in one clear line."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization
from kdq.models.evaluate import logits
from kdq.models.prepare import is_layer, prepare
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import layer_names, quantize, quantize_many

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def images() -> Tensor:
    return torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 4)
        self.norm.running_mean = torch.randn(6)
        self.norm.running_var = torch.rand(6) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))
        return out


def model() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier("net", Net(), 4, NORMALIZATION)


def inner_parallel() -> nn.Module:
    wrapped = model()
    wrapped.net = nn.DataParallel(wrapped.net)
    return wrapped


def graph_mode() -> nn.Module:
    return torch.compile(model(), backend="eager")  # type: ignore[return-value]


WRAPPED: dict[str, Callable[[], nn.Module]] = {
    "bare": model,
    "parallel": lambda: nn.DataParallel(model()),
    "averaged": lambda: AveragedModel(model()),
    "compiled": graph_mode,
    "several": lambda: nn.DataParallel(AveragedModel(nn.DataParallel(model()))),
    "inside": inner_parallel,
    "double": lambda: model().double(),
    "training": lambda: model().train(),
    "channels last": lambda: model().to(memory_format=torch.channels_last),  # type: ignore[call-overload]
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_and_precisions_do_not_matter(name: str) -> None:
    given = WRAPPED[name]()
    before = {key: value.clone() for key, value in given.state_dict().items()}
    made = quantize(given, images(), QuantizeConfig(4))
    wanted = quantize(model(), images(), QuantizeConfig(4))
    assert layer_names(given) == ("conv", "fc")
    assert all(torch.equal(made.layers[layer].codes, wanted.layers[layer].codes) for layer in ("conv", "fc"))
    torch.testing.assert_close(logits(made.model, images()), logits(wanted.model, images()), rtol=1e-4, atol=1e-4)
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert list(made.model.state_dict()) == list(wanted.model.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_quantized_as_its_values_in_float32(dtype: torch.dtype) -> None:
    given = model().to(dtype)
    made = quantize(given, images(), QuantizeConfig(4))
    wanted = quantize(model().to(dtype).float(), images(), QuantizeConfig(4))
    assert torch.equal(logits(made.model, images()), logits(wanted.model, images()))
    truth = logits(given, images())
    assert truth.dtype == torch.float32
    torch.testing.assert_close(truth, logits(prepare(given), images()), rtol=0.05, atol=0.05)


def test_the_copy_is_plain_and_the_original_as_it_was() -> None:
    given = model()
    given.net.fc = parametrizations.weight_norm(given.net.fc)
    given.net.conv = parametrizations.orthogonal(given.net.conv)
    given.train()
    copied = prepare(given)
    assert type(copied.net.fc) is nn.Linear
    assert type(copied.net.conv) is nn.Conv2d
    assert parametrize.is_parametrized(given.net.fc, "weight")
    assert given.training
    assert all(p.requires_grad for p in given.parameters())
    assert not any(p.requires_grad or module.training for module in copied.modules() for p in module.parameters())
    torch.testing.assert_close(logits(copied, images()), logits(given, images()))
    assert len(quantize(given, images(), QuantizeConfig(4)).layers) == 2
    torch.testing.assert_close(copied.net.fc.weight, given.net.fc.weight)


def test_a_layer_computes_what_its_class_does() -> None:
    class Other(nn.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(input, weight.sign(), bias)

    patched = nn.Linear(2, 2)
    patched.forward = lambda x: x  # type: ignore[method-assign]
    assert [is_layer(m) for m in (nn.Linear(2, 2), nn.Conv2d(1, 1, 1), Other(1, 1, 1), patched, nn.ReLU())] == [
        *(True, True),
        *(False, False, False),
    ]


class Recording(nn.Module):
    """A network that keeps what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.seen = torch.ones(1, requires_grad=True) * 2

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def with_net(change: Callable[[Net], object]) -> Classifier:
    made = model()
    change(made.net)
    return made


def set_weight(net: Net, name: str, change: Callable[[Tensor], Tensor]) -> None:
    layer = net.get_submodule(name)
    layer.weight = nn.Parameter(change(layer.weight.detach()), requires_grad=False)


def quantized_buffer(net: Net) -> None:
    net.norm.register_buffer("table", torch.quantize_per_tensor(torch.ones(6), 0.1, 0, torch.qint8))


def pruned(net: Net) -> None:
    prune.l1_unstructured(net.fc, "weight", 0.5)


def dynamic() -> nn.Module:
    return with_net(lambda net: setattr(net, "fc", torch.ao.nn.quantized.dynamic.Linear(6, 4)))


def constant() -> Classifier:
    class Constant(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.fc.bias.new_zeros(1, 6))  # type: ignore[no-any-return]

    return Classifier("constant", Constant(), 4, NORMALIZATION)


def tuple_of_logits() -> Classifier:
    class Two(Net):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x), 1)  # type: ignore[return-value]

    return Classifier("two", Two(), 4, NORMALIZATION)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "module": (lambda: model().net, r"the model is a Net; must be a kdq\.models\.classifier\.Classifier.*: wrap it as"),
    "wrapped module": (lambda: nn.DataParallel(model().net), "the model is a Net; must be"),
    "meta": (lambda: model().to("meta"), "layer conv: its weight is on the meta device and has no values; load"),
    "part on meta": (lambda: with_net(lambda net: net.fc.to("meta")), "layer fc: its weight is on the meta device"),
    "sparse": (lambda: with_net(lambda net: set_weight(net, "fc", Tensor.to_sparse)), "fc: its weight is not dense"),
    "sparse rows": (
        lambda: with_net(lambda net: set_weight(net, "fc", Tensor.to_sparse_csr)),
        r"layer fc: its weight is not dense \(torch.sparse_csr\); convert it by to_dense",
    ),
    "mkldnn": (lambda: with_net(lambda net: set_weight(net, "fc", Tensor.to_mkldnn)), "fc: its weight is not dense"),
    "quantized tensor": (
        lambda: with_net(quantized_buffer),
        r"layer norm: its table is quantized already \(torch.qint8\); give the float model",
    ),
    "quantized layer": (
        dynamic,
        r"layer fc\._packed_params: its dtype is no tensor, but a dtype; give the float",
    ),
    "complex": (
        lambda: with_net(lambda net: set_weight(net, "fc", lambda w: w.to(torch.complex64))),
        "layer fc: its weight is complex",
    ),
    "integers": (
        lambda: with_net(lambda net: set_weight(net, "fc", Tensor.long)),
        r"layer fc: its weight is torch.int64; must be floating-point",
    ),
    "lazy": (
        lambda: with_net(lambda net: setattr(net, "fc", nn.LazyLinear(4))),
        "fc: its weight is not initialised; run",
    ),
    "pruned": (lambda: with_net(pruned), "layer fc: its weight is computed at every call; make it permanent first"),
    "old weight norm": (
        lambda: with_net(lambda net: torch.nn.utils.weight_norm(net.fc)),
        "layer fc: its weight is computed at every call",
    ),
    "no copy": (
        lambda: Classifier("recording", Recording(), 4, NORMALIZATION),
        "the model cannot be copied .*; it must be, as by copy.deepcopy",
    ),
    "no statistics": (
        lambda: with_net(lambda net: setattr(net, "norm", nn.BatchNorm2d(6, track_running_stats=False))),
        "layer norm: has no running statistics",
    ),
    "constant": (constant, "must return one tensor, logits .*, made of its images"),
    "tuple": (tuple_of_logits, "must return one tensor, logits"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Lazy modules are a new")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_quantized_are_refused_in_one_line(name: str, bits: int) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as caught:
        quantize(make(), images(), QuantizeConfig(bits))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", list(model().net.state_dict()))
def test_every_tensor_with_a_bad_value_is_named(key: str, bad: float) -> None:
    given = model()
    value = given.net.state_dict()[key]
    if not value.is_floating_point():
        return
    value.view(-1)[-1] = bad
    layer, _, name = key.rpartition(".")
    with pytest.raises(UserError, match=f"layer {layer}: its {name}: NaN or infinite values"):
        quantize(given, images(), QuantizeConfig(4))


def test_arguments_of_other_types_are_refused() -> None:
    with pytest.raises(UserError, match="config = 4: must be a QuantizeConfig, such as"):
        quantize(model(), images(), 4)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the model is a str"):
        quantize("resnet8", images(), QuantizeConfig(4))  # type: ignore[arg-type]
    assert quantize_many(copy.deepcopy(model()), images(), []) == []
