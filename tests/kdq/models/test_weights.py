"""Weights are found wherever they are in a checkpoint, and refused if they do not fit, or are ambiguous."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdq.errors import UserError
from kdq.models.checkpoint import Checkpoint, load
from kdq.models.classifier import Normalization, build
from kdq.models.weights import Network, find_weights

GREY = Normalization((0.5,), (0.25,))
State = dict[str, Tensor]


def net(seed: int = 5, arch: str = "resnet8") -> nn.Module:
    return build(arch, classes=10, normalization=GREY, seed=seed).net


STATE: State = dict(net().state_dict())
OTHER: State = dict(net(6).state_dict())
NETWORK = Network("resnet8", net(0).state_dict())


def under(prefix: str, state: State = STATE) -> State:
    return {prefix + key: value for key, value in state.items()}


def averaged() -> State:
    return dict(AveragedModel(net(), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True).state_dict())


def optimizer() -> dict[str, Any]:
    model = net()
    adam = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    adam.step()
    return adam.state_dict()


LIGHTNING = {"epoch": 3, "global_step": 9, "loops": {"fit_loop": {"state_dict": {}}}, "optimizer_states": [optimizer()]}

EVERYDAY: dict[str, Callable[[], object]] = {
    "plain": lambda: STATE,
    "torch.compile": lambda: under("_orig_mod."),
    "compiled before DataParallel": lambda: under("module._orig_mod."),
    "compiled after DataParallel": lambda: under("_orig_mod.module."),
    "compiled inside": lambda: {key.replace("layer1.", "layer1._orig_mod."): value for key, value in STATE.items()},
    "FSDP": lambda: {f"_fsdp_wrapped_module.{key}": value for key, value in STATE.items()},
    "model.": lambda: under("model."),
    "net.": lambda: under("net."),
    "another prefix": lambda: under("student.backbone."),
    "model": lambda: {"model": STATE, "optimizer": optimizer(), "epoch": 3},
    "net": lambda: {"net": under("module."), "acc": 91.7, "epoch": 3},
    "model_state_dict": lambda: {
        "model_state_dict": STATE,
        "optimizer_state_dict": optimizer(),
        "loss": torch.ones(()),
    },
    "state_dict_ema": lambda: {"state_dict_ema": STATE, "version": 2},
    "average": averaged,
    "average in a mapping": lambda: {"ema": averaged(), "decay": 0.9},
    "Lightning": lambda: {**LIGHTNING, "state_dict": {**under("model."), "criterion.weight": torch.ones(10)}},
    "Lightning on the net itself": lambda: {**LIGHTNING, "state_dict": {**STATE, "loss_fn.weight": torch.ones(10)}},
    "Lightning compiled": lambda: {**LIGHTNING, "state_dict": under("model._orig_mod.")},
    "numbers beside": lambda: {**STATE, "epoch": 3},
    "in a list": lambda: [{"epoch": 1}, {"model": STATE}],
    "in a tuple": lambda: (under("module."), 91.7),
    "a tree": lambda: {"a": {"b": {"c": under("d.e.")}}},
    "without num_batches_tracked": lambda: {k: v for k, v in STATE.items() if "tracked" not in k},
    "num_batches_tracked in floating point": lambda: {k: v.float() for k, v in STATE.items()},
    "num_batches_tracked in a list": lambda: {k: v[None] if "tracked" in k else v for k, v in STATE.items()},
    "half precision": lambda: {k: v.half() if v.is_floating_point() else v for k, v in STATE.items()},
    "parameters": lambda: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in STATE.items()},
    "twice the same": lambda: {"model": STATE, "best": under("module.", {k: v.clone() for k, v in STATE.items()})},
    "a net with another head beside": lambda: {"state_dict": STATE, "teacher": dict(net(0, "resnet14").state_dict())},
}


@pytest.mark.parametrize("name", EVERYDAY)
def test_the_weights_are_found(name: str, tmp_path: Path) -> None:
    torch.save(EVERYDAY[name](), tmp_path / "a.pt")
    loaded = load(Checkpoint("resnet8", tmp_path / "a.pt"), classes=10, normalization=GREY).net.state_dict()
    for key, value in STATE.items():
        expected = value.half().float() if name == "half precision" and value.is_floating_point() else value
        assert torch.equal(loaded[key], expected) or "tracked" in key


AMBIGUOUS: dict[str, tuple[Callable[[], object], tuple[str, str]]] = {
    "timm": (lambda: {"state_dict": STATE, "state_dict_ema": OTHER}, ("state_dict", "state_dict_ema")),
    "torchvision": (
        lambda: {"model": STATE, "model_ema": {"n_averaged": torch.tensor(3), **under("module.", OTHER)}},
        ("model", "model_ema.module"),
    ),
    "Lightning": (
        lambda: {**LIGHTNING, "state_dict": {**under("model."), **under("ema_model.module.", OTHER)}},
        ("state_dict.model", "state_dict.ema_model.module"),
    ),
    "one at the top": (lambda: {**STATE, "ema": OTHER}, (".", "ema")),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_of_two_that_fit_the_user_chooses(name: str, tmp_path: Path) -> None:
    make, keys = AMBIGUOUS[name]
    path = tmp_path / "a.pt"
    torch.save(make(), path)
    with pytest.raises(UserError, match="2 sets of different weights in it fit resnet8") as raised:
        load(Checkpoint("resnet8", path), classes=10, normalization=GREY)
    for key, state in zip(keys, (STATE, OTHER), strict=True):
        assert f"resnet8:{path}#{key}" in str(raised.value)
        loaded = load(Checkpoint("resnet8", path, key=key), classes=10, normalization=GREY).net.state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_of_many_that_fit_some_are_shown() -> None:
    content = {f"epoch{i}": dict(net(i).state_dict()) for i in range(9)}
    with pytest.raises(UserError, match=r"9 sets of different weights .*#epoch4 or …$"):
        find_weights(content, NETWORK, Path("a.pt"))


def test_a_key_may_leave_the_prefix_out_and_must_exist() -> None:
    content = {"model": under("module."), "ema": under("module.", OTHER)}
    found = find_weights(content, NETWORK, Path("a.pt"), "ema")
    assert torch.equal(found["conv1.weight"], OTHER["conv1.weight"])
    with pytest.raises(UserError, match=r"a\.pt: holds no tensors under 'em'; .* under model\.module and ema\.module"):
        find_weights(content, NETWORK, Path("a.pt"), "em")


def test_a_checkpoint_that_holds_itself_is_read() -> None:
    content: dict[str, object] = {"model": STATE}
    content["self"] = content
    assert find_weights(content, NETWORK, Path("a.pt")).keys() == STATE.keys()


def misfit(content: object, network: Network = NETWORK) -> str:
    with pytest.raises(UserError) as raised:
        find_weights(content, network, Path("a.pt"))
    return str(raised.value)


def test_what_fits_best_is_compared_in_two_lines() -> None:
    other = {**STATE, "layer2.0.shortcut.0.weight": torch.ones(32, 16, 1, 1)}
    content = {"optimizer": optimizer(), "model": under("module.", other), "step": torch.ones(())}
    first, second = misfit(content).splitlines()
    assert first == (
        "a.pt: does not fit resnet8: layer2.0.shortcut.0.weight: expected shape none, found [32, 16, 1, 1] "
        "(0 keys missing, 1 unexpected, 0 of another shape)"
    )
    assert second == (
        "of what is in it, the tensors under 'model.module' come closest; "
        "name the architecture that they were saved from"
    )


def test_names_from_a_file_do_not_reach_the_terminal_as_control_characters() -> None:
    assert "\x1b" not in misfit({**STATE, "a\x1b[1m\nb": torch.ones(1)})


def changed(key: str, change: Callable[[Tensor], Tensor]) -> State:
    return {**STATE, key: change(STATE[key])}


def quantized(value: Tensor) -> Tensor:
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


def with_nan(value: Tensor) -> Tensor:
    value = value.clone()
    value[0] = torch.nan
    return value


FAULTY: dict[str, tuple[str, Callable[[Tensor], Tensor], str]] = {
    "sparse": ("linear.weight", lambda t: t.to_sparse(), "is a sparse tensor .*to_dense"),
    "sparse rows": ("linear.weight", lambda t: t.to_sparse_csr(), "is a sparse tensor .*to_dense"),
    "meta": ("linear.weight", lambda t: t.to("meta"), "has no values"),
    "quantized": ("linear.weight", quantized, "is a quantized tensor.*dequantize"),
    "integers": ("conv1.weight", lambda t: t.to(torch.int8), "has values of type torch.int8"),
    "complex": ("conv1.weight", lambda t: t.to(torch.complex64), "has values of type torch.complex64"),
    "NaN": ("layer1.0.conv1.weight", with_nan, "has 144 NaN or infinite values of 2304"),
    "NaN in a buffer": ("bn1.running_mean", with_nan, "has 1 NaN or infinite values of 16"),
    "infinite": ("linear.bias", lambda t: t / 0, "has 10 NaN or infinite values of 10"),
    "beyond single precision": ("linear.bias", lambda t: t.double() + 1e39, "has 10 NaN or infinite values"),
    "negative variance": ("bn1.running_var", lambda t: -t, "has negative values, which are no variances"),
}


@pytest.mark.filterwarnings("ignore")  # of torch, about making such tensors
@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_faulty_tensor_is_named(name: str, legacy: bool, tmp_path: Path) -> None:
    key, change, message = FAULTY[name]
    path = tmp_path / "a.pt"
    torch.save({"state_dict": changed(key, change)}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=rf"^{path}: {key} {message}") as raised:
        load(Checkpoint("resnet8", path), classes=10, normalization=GREY)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["sparse", "meta", "quantized"])
def test_faulty_tensors_beside_the_weights_do_no_harm(name: str) -> None:
    _, change, _ = FAULTY[name]
    content = {"model": STATE, "ema": {key: change(value) for key, value in STATE.items() if value.dim() == 2}}
    assert find_weights(content, NETWORK, Path("a.pt")).keys() == STATE.keys()


@pytest.mark.filterwarnings("ignore")
def test_nested_tensors_are_refused() -> None:
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    assert "linear.weight: expected shape [10, 64], found nested" in misfit({**STATE, "linear.weight": nested})


@pytest.mark.parametrize("value", [torch.ones(()), torch.ones(0), torch.ones(10, 64, 1)])
def test_a_head_of_odd_shape_is_refused(value: Tensor) -> None:
    assert "does not fit resnet8: linear." in misfit({**STATE, "linear.weight": value, "linear.bias": value})


KEYS = st.text(st.sampled_from("ab.#"), max_size=4)


@given(
    prefix=KEYS.map(lambda text: f"{text}." if text else ""),
    path=st.lists(st.text(st.sampled_from("xyz."), min_size=1, max_size=3), max_size=3),
    beside=st.dictionaries(KEYS, st.sampled_from([1, "text", None, {"deep": torch.ones(2)}]), max_size=3),
)
def test_any_prefix_under_any_keys_is_found(prefix: str, path: list[str], beside: dict[str, object]) -> None:
    content: object = under(prefix)
    for key in path:
        content = {**beside, key: content}
    found = find_weights(content, NETWORK, Path("a.pt"))
    assert all(found[name] is value for name, value in STATE.items())
