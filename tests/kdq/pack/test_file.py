import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViTConfig

from kdq.errors import UserError
from kdq.models.classifier import Classifier, Normalization, Signature, build
from kdq.models.evaluate import logits
from kdq.models.resnets import ARCHITECTURES
from kdq.models.sealed import write_sealed
from kdq.pack.bitstream import pack_codes, unpack_codes
from kdq.pack.file import load, pack, payload_bytes
from kdq.pack.size import packed_bytes, total_bits
from kdq.quantize.algorithms import QUANTIZERS
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import layer_names, quantize, quantize_many
from kdq.quantize.result import Quantized

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def test_a_worked_example() -> None:
    # 3 bits, lowest first: 1 → 100, 2 → 010, 7 → 111, 4 → 001; as bytes 10001011 | 1001…., lowest bit first.
    codes = torch.tensor([1, 2, 7, 4], dtype=torch.uint8)
    packed = pack_codes(codes, 3)
    assert packed.tolist() == [0b11010001, 0b00001001]
    assert unpack_codes(packed, 3, 4).tolist() == [1, 2, 7, 4]


@given(bits=st.integers(1, 9), data=st.data())
def test_codes_of_any_width_and_number_come_back(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=50))
    packed = pack_codes(torch.tensor(values, dtype=torch.int16), bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(len(values), bits)
    assert unpack_codes(packed, bits, len(values)).tolist() == values


def images(count: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=generator).to(torch.uint8)


def model(arch: str = "resnet8", classes: int = 7) -> Classifier:
    return build(arch, classes=classes, normalization=NORMALIZATION, seed=0)


@pytest.fixture(scope="module")
def made() -> list[Quantized]:
    """Widths 1 to 8, float, and a mixture; quantized inputs, float32 scales, the papers' alphabets at all widths.

    Last, asymmetric grids at all widths, and beside quantized inputs.
    """
    mixture = dict(zip(layer_names(model()), (8, 3, 32, 1, 5, 7, 2, 32), strict=True))
    configs = [QuantizeConfig(bits) for bits in (*range(1, 9), 32, mixture)]
    configs += [QuantizeConfig(mixture, activation_bits=bits, stored="float32") for bits in (4, 8)]
    configs += [QuantizeConfig(bits, method) for bits in range(1, 9) for method in ("gpfq_paper", "gpfq_l0")]
    configs += [QuantizeConfig(bits, "rtn", {"asymmetric": 1}) for bits in range(1, 9)]
    configs += [QuantizeConfig(mixture, "gptq", {"asymmetric": 1}, activation_bits=6)]
    return quantize_many(model(), images(), configs)


@pytest.mark.parametrize("index", range(37))
def test_predictions_come_back_to_the_bit_and_the_payload_is_the_total(
    made: list[Quantized], index: int, tmp_path: Path
) -> None:
    pack(made[index], tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert torch.equal(logits(loaded, images(20)), logits(made[index].model, images(20)))
    assert 8 * payload_bytes(tmp_path / "model.safetensors") == total_bits(made[index])
    assert (loaded.arch, loaded.classes, loaded.normalization) == ("resnet8", 7, NORMALIZATION)
    assert not loaded.training


SIGNATURE = Signature(("ant", "bee", "\u00e9t\u00e9", "d", "e|f", "g\nh", ""), (8, 8), "RGB")


def test_names_and_images_come_back_and_take_no_bit_of_the_payload(made: list[Quantized], tmp_path: Path) -> None:
    padded = replace(SIGNATURE, resize="pad")
    for name, signature in {"named": SIGNATURE, "unnamed": None, "padded": padded}.items():
        pack(made[1], tmp_path / name, signature)
        assert 8 * payload_bytes(tmp_path / name) == total_bits(made[1])
    assert load(tmp_path / "named").signature == SIGNATURE
    assert load(tmp_path / "padded").signature == padded
    assert load(tmp_path / "unnamed").signature == Signature(tuple("0123456"), (8, 8), "RGB")
    again = quantize(load(tmp_path / "named"), images(), QuantizeConfig(4, "rtn"))
    pack(again, tmp_path / "again")
    assert load(tmp_path / "again").signature == SIGNATURE


@pytest.mark.parametrize(
    "signature",
    [replace(SIGNATURE, class_names=("ant", "bee")), replace(SIGNATURE, channel_order="L")],
    ids=["classes", "channels"],
)
def test_a_signature_that_does_not_fit_the_model_is_refused(
    made: list[Quantized], signature: Signature, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="the model has 7 classes and the order RGB"):
        pack(made[1], tmp_path / "model", signature)
    assert not (tmp_path / "model").exists()


def test_images_are_of_the_size_that_the_model_was_calibrated_on(made: list[Quantized], tmp_path: Path) -> None:
    pack(made[1], tmp_path / "model", replace(SIGNATURE, image_size=None))
    assert load(tmp_path / "model").signature == SIGNATURE
    with pytest.raises(UserError, match=r"image size \(9, 8\): the model was calibrated on \(8, 8\)"):
        pack(made[1], tmp_path / "other", replace(SIGNATURE, image_size=(9, 8)))
    sized = model()
    sized.signature = replace(SIGNATURE, image_size=(9, 8))
    with pytest.raises(UserError, match="calibration images: of 8x8 pixels, the model is made for 9x8"):
        quantize(sized, images(), QuantizeConfig(4, "rtn"))


def with_gelu(net: nn.Module) -> nn.Module:
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.GELU())
    return net


def with_a_new_head(net: nn.Module) -> nn.Module:
    net.linear = nn.Sequential(nn.Dropout(), nn.Linear(64, 7))
    return net


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_gelu, r"its logits would differ by 0\.\d+ of their size"),
        (with_a_new_head, "no attribute `1`"),
        (nn.Sequential, "no attribute `0`"),
    ],
    ids=["activation", "head", "wrapped"],
)
def test_a_network_that_its_architecture_does_not_build_is_refused(
    change: Callable[[nn.Module], nn.Module], reason: str, tmp_path: Path
) -> None:
    changed = model()
    changed.net = change(changed.net)
    quantized = quantize(changed, images(), QuantizeConfig(4, "rtn"))
    with pytest.raises(UserError, match=f"architecture 'resnet8': .*{reason}.*python:FILE.py:FUNCTION"):
        pack(quantized, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (torch.zeros(2, 3, 8, 9), "of 8x9 pixels, the model is made for 8x8"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "of 16x16 pixels, the model is made for 8x8"),
        (torch.full((2, 3, 8, 8), 255.0), "floating-point values from 255 to 255"),
        (torch.zeros(2, 3, 8, 8) - 0.5, "floating-point values from -0.5 to -0.5"),
        (torch.full((2, 3, 8, 8), float("nan")), "floating-point values from nan to nan"),
        (torch.zeros(2, 1, 8, 8), r"must be \[N, 3, H, W\]"),
    ],
)
def test_a_loaded_model_refuses_images_that_are_not_its_own(
    made: list[Quantized], given: Tensor, reason: str, tmp_path: Path
) -> None:
    pack(made[1], tmp_path / "model", SIGNATURE)
    with pytest.raises(UserError, match=reason):
        logits(load(tmp_path / "model"), given)


def test_a_file_of_format_3_is_read() -> None:
    """It was written by the version before format 4: resnet8 of seed 0 for 3 classes of grey images, at 1 bit."""
    loaded = load(Path(__file__).parent / "format3.safetensors")
    assert (loaded.arch, loaded.signature) == ("resnet8", Signature(("0", "1", "2"), None, "L"))
    given = (torch.arange(4 * 64).reshape(4, 1, 8, 8) * 37 % 256).to(torch.uint8)
    wanted = [[1.19103, 1.68325, 0.39593], [0.86413, 1.09747, 1.51347], [1.72035, 1.38246, 0.81902]]
    wanted += [[0.64399, 1.04223, 0.96816]]
    torch.testing.assert_close(logits(loaded, given), torch.tensor(wanted), rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", QUANTIZERS)
def test_what_every_quantizer_makes_comes_back(method: str, tmp_path: Path) -> None:
    _comes_back(quantize(model(), images(), QuantizeConfig(3, method)), tmp_path / "model.safetensors")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_comes_back(arch: str, tmp_path: Path) -> None:
    """Quantized, or only folded where a layer is so wide that its Gram matrices take seconds."""
    network = model(arch)
    is_wide = max(weight[0].numel() for weight in network.parameters() if weight.dim() > 1) > 1000
    _comes_back(
        quantize(network, images(), QuantizeConfig(32 if is_wide else 4, "rtn")), tmp_path / "model.safetensors"
    )


def _comes_back(quantized: Quantized, path: Path) -> None:
    pack(quantized, path)
    assert torch.equal(logits(load(path), images(20)), logits(quantized.model, images(20)))
    assert 8 * payload_bytes(path) == total_bits(quantized)


def test_a_network_whose_constructor_computes_with_values_is_loaded(tmp_path: Path) -> None:
    """As a RegNet and many of timm's do, for which the meta device has no values."""
    normalization = Normalization((0.5,) * 3, (0.25,) * 3)
    model = build("torchvision:regnet_y_400mf", classes=3, normalization=normalization, seed=0).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = quantize(model, images, QuantizeConfig(4, "rtn"))
    pack(made, tmp_path / "model.safetensors")
    found = logits(load(tmp_path / "model.safetensors"), images)
    torch.testing.assert_close(found, logits(made.model, images), rtol=0, atol=0)


def test_a_model_of_a_folder_is_packed_with_its_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    settings = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    ViTConfig(**settings, image_size=8, patch_size=4).save_pretrained(folder)
    net = build(f"transformers:{folder}", classes=7, normalization=NORMALIZATION, seed=0)
    nn.init.normal_(net.net.model.classifier.weight, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, arg-type]
    net.signature = SIGNATURE
    quantized = quantize(net, images(), QuantizeConfig(4, "rtn"))
    pack(quantized, tmp_path / "model")
    shutil.rmtree(folder)
    assert torch.equal(logits(load(tmp_path / "model"), images()), logits(quantized.model, images()))


def test_a_network_whose_state_has_versions_is_loaded(tmp_path: Path) -> None:
    net = build("torchvision:mnasnet0_5", classes=7, normalization=NORMALIZATION, seed=0)
    _comes_back(quantize(net, images(), QuantizeConfig(8, "rtn")), tmp_path / "model")


def test_a_layer_with_a_buffer_of_its_own_counts_it(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\nfrom torch import nn\n\n"
        "class Layer(nn.Linear):\n"
        "    def __init__(self, *sizes):\n"
        "        super().__init__(*sizes)\n"
        "        self.register_buffer('own', torch.ones(640))\n\n"
        "def net(classes, channels):\n"
        "    return nn.Sequential(nn.Flatten(), Layer(64 * channels, classes))\n"
    )
    net = build(f"python:{file}:net", classes=7, normalization=NORMALIZATION, seed=0)
    quantized = quantize(net, images(), QuantizeConfig(4, "rtn"))
    pack(quantized, tmp_path / "model")
    assert 8 * payload_bytes(tmp_path / "model") == total_bits(quantized) > 32 * 640


def test_an_architecture_without_a_name_is_refused(made: list[Quantized], tmp_path: Path) -> None:
    strange = Classifier("mine", made[0].model.net, 7, NORMALIZATION)
    with pytest.raises(UserError, match="unknown architecture 'mine'"):
        pack(replace(made[0], model=strange), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"cannot be read|not a packed model"):
        load(tmp_path)
    for content in (b"", b"x" * 100, b"\xff" * 8 + b"{}"):
        (tmp_path / "junk").write_bytes(content)
        with pytest.raises(UserError, match="not a packed model"):
            load(tmp_path / "junk")
    save_file({"weight": torch.ones(3)}, tmp_path / "other")
    with pytest.raises(UserError, match="not a packed model"):
        load(tmp_path / "other")


def test_a_header_nested_too_deep_is_refused(made: list[Quantized], tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "deep", metadata={"kdq": "[" * 200_000})
    with pytest.raises(UserError, match="damaged, or not a packed model"):
        load(tmp_path / "deep")


def test_truncated_files_are_refused(made: list[Quantized], tmp_path: Path) -> None:
    pack(made[1], tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for keep in (4, 8, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:keep])
        with pytest.raises(UserError, match="damaged"):
            load(tmp_path / "cut")


def _set(*path: Any, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        place: Any = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def _tensor(key: str, change: Callable[[Tensor], Tensor | None]) -> Any:
    def apply(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        value = change(tensors.pop(key))
        if value is not None:
            tensors[key] = value

    return apply


HOSTILE = {
    "format": _set("format", value=99),
    "architecture": _set("arch", value="resnet9000"),
    "architecture type": _set("arch", value=["resnet8"]),
    "classes": _set("classes", value=10**12),
    "classes type": _set("classes", value="7"),
    "classes fit not": _set("classes", value=8),
    "class names too few": _set("class_names", value=["a", "b"]),
    "class names alike": _set("class_names", value=["a"] * 7),
    "class names type": _set("class_names", value="0123456"),
    "class names of other types": _set("class_names", value=[0, 1, 2, 3, 4, 5, 6]),
    "class names missing": lambda header, tensors: header.pop("class_names"),
    "image size": _set("image_size", value=[8, 0]),
    "image sizes": _set("image_size", value=[8, 8, 8]),
    "image size beyond memory": _set("image_size", value=[10**9, 8]),
    "image size type": _set("image_size", value=8),
    "image size of texts": _set("image_size", value=["8", "8"]),
    "channel order": _set("channel_order", value="L"),
    "channel order unknown": _set("channel_order", value="XYZ"),
    "std": _set("std", value=[1, 0, 1]),
    "mean": _set("mean", value="abc"),
    "channels": _set("mean", value=[]),
    "bits of nothing": _set("alphabets", value=None),
    "layer unknown": _set("alphabets", "conv9", value=[2, 0, 1.0]),
    "layer is no layer": _set("alphabets", "bn1", value=[2, 0, 1.0]),
    "bits too many": _set("alphabets", "conv1", value=[9, 0, 1.0]),
    "bits wrong": _set("alphabets", "conv1", value=[3, 0, 1.0]),
    "bits type": _set("alphabets", "conv1", value=["2", 0, 1.0]),
    "alphabet": _set("alphabets", "conv1", value=[2]),
    "levels": _set("alphabets", "conv1", value=[1, 1, 1.0]),
    "gap": _set("alphabets", "conv1", value=[2, 0, float("nan")]),
    "inputs missing": _set("activation_bits", value=8),
    "inputs width": _set("activation_bits", value=99),
    "inputs type": _set("activation_bits", value="8"),
    "codes missing": _tensor("conv1.codes", lambda t: None),
    "codes short": _tensor("conv1.codes", lambda t: t[:-1].clone()),
    "codes type": _tensor("conv1.codes", lambda t: t.float()),
    "scale type": _tensor("conv1.scale", lambda t: t.float()),
    "scale NaN": _tensor("conv1.scale", lambda t: t * float("nan")),
    "scale double": _tensor("conv1.scale", lambda t: t.double()),
    "scale short": _tensor("conv1.scale", lambda t: t[:-1].clone()),
    "bias short": _tensor("conv1.bias", lambda t: t[:-1].clone()),
    "bias infinite": _tensor("conv1.bias", lambda t: t + float("inf")),
    "tensor too many at a layer": lambda header, tensors: tensors.update({"conv1.junk": torch.ones(1)}),
    "gap of an alphabet without": _set("alphabets", "conv1", value=[2, 0, 0.5]),
    "std below floats": _set("std", value=[0.2, 0.25, 5e-324]),
    "weight beside its codes": lambda header, tensors: tensors.update({"conv1.weight": torch.ones(16, 3, 3, 3)}),
    "gap beyond floats": _set("alphabets", "conv1", value=[2, 0, 10**400]),
    "mean beyond floats": _set("mean", value=[10**400] * 3),
    "tensor too many": lambda header, tensors: tensors.update(extra=torch.ones(1)),
}


HOSTILE_INPUTS = {
    "scale zero": _tensor("conv1.input_scale", lambda t: t * 0),
    "scale NaN": _tensor("conv1.input_scale", lambda t: t * float("nan")),
    "scale type": _tensor("conv1.input_scale", lambda t: t.half()),
    "scales": _tensor("conv1.input_scale", lambda t: t.repeat(2)),
    "zero point beyond the levels": _tensor("conv1.input_zero_point", lambda t: t * 0 + 16),
    "zero point type": _tensor("conv1.input_zero_point", lambda t: t.float()),
    "zero point missing": _tensor("conv1.input_zero_point", lambda t: None),
}


HOSTILE_ZERO_POINTS = {
    "short": _tensor("conv1.zero_point", lambda t: t[:-1].clone()),
    "long": _tensor("conv1.zero_point", lambda t: t.repeat(2)),
    "type": _tensor("conv1.zero_point", lambda t: t.float()),
    "of nothing": lambda header, tensors: tensors.update({"bn1.zero_point": torch.zeros(4, dtype=torch.uint8)}),
}


@pytest.mark.parametrize("name", HOSTILE_ZERO_POINTS)
def test_hostile_zero_points_are_refused(made: list[Quantized], name: str, tmp_path: Path) -> None:
    _refused(made[29], HOSTILE_ZERO_POINTS[name], tmp_path)


def test_zero_points_at_a_larger_alphabet_are_refused(made: list[Quantized], tmp_path: Path) -> None:
    points = torch.zeros(packed_bytes(16, 3), dtype=torch.uint8)
    _refused(made[14], lambda header, tensors: tensors.update({"conv1.zero_point": points}), tmp_path)


@pytest.mark.parametrize("name", HOSTILE_INPUTS)
def test_hostile_inputs_are_refused(made: list[Quantized], name: str, tmp_path: Path) -> None:
    _refused(made[10], HOSTILE_INPUTS[name], tmp_path)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(made: list[Quantized], name: str, tmp_path: Path) -> None:
    _refused(made[1], HOSTILE[name], tmp_path)


def _refused(quantized: Quantized, change: Any, tmp_path: Path) -> None:
    """The changed file has a digest of its own, so that it is refused for what it holds."""
    header, tensors = _content(quantized, tmp_path)
    change(header, tensors)
    del header["sha256"]
    if "nan" in str(header):  # which has no digest
        save_file(tensors, tmp_path / "bad", metadata={"kdq": json.dumps(header)})
    else:
        write_sealed(tmp_path / "bad", "kdq", header, tensors)
    with pytest.raises(UserError, match="damaged, or not a packed model") as raised:
        load(tmp_path / "bad")
    assert "SHA-256" not in str(raised.value) or "nan" in str(header)


def _content(quantized: Quantized, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    pack(quantized, tmp_path / "good")
    load(tmp_path / "good")
    with safe_open(tmp_path / "good", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["kdq"]), tensors


def _other_weight(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    tensors["conv1.scale"] *= 2


EDITS = {
    "a scale": _other_weight,
    "a name": lambda header, tensors: tensors.update({"conv1.scales": tensors.pop("conv1.scale")}),
    "the classes": _set("classes", value=8),
    "the mean": _set("mean", value=[0.5, 0.4, 0.2]),
    "the digest": _set("sha256", value="0" * 64),
    "the type of the digest": _set("sha256", value=None),
    "a field more": _set("note", value="x"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_differs_from_what_was_packed_is_refused(made: list[Quantized], name: str, tmp_path: Path) -> None:
    header, tensors = _content(made[1], tmp_path)
    EDITS[name](header, tensors)
    save_file(tensors, tmp_path / "bad", metadata={"kdq": json.dumps(header)})
    with pytest.raises(UserError, match="SHA-256 is not the one that it was packed with"):
        load(tmp_path / "bad")


def test_the_earlier_format_is_refused_in_one_line(made: list[Quantized], tmp_path: Path) -> None:
    header, tensors = _content(made[1], tmp_path)
    del header["sha256"]
    save_file(tensors, tmp_path / "old", metadata={"kdq": json.dumps({**header, "format": 2})})
    with pytest.raises(
        UserError, match=r"^\S*old: .*format 2, .* version reads formats 3 and 4\); pack the model again$"
    ):
        load(tmp_path / "old")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=st.sampled_from([1, 10]), in_head=st.booleans(), place=st.floats(0, 1, exclude_max=True))
def test_a_file_with_any_bit_flipped_is_refused_or_the_same(
    made: list[Quantized], index: int, in_head: bool, place: float, tmp_path: Path
) -> None:
    path = tmp_path / f"{index}.safetensors"
    if not path.exists():
        pack(made[index], path)
    content = bytearray(path.read_bytes())
    bits = 8 * (len(content) - payload_bytes(path)) if in_head else 8 * len(content)
    byte, bit = divmod(int(place * bits), 8)
    content[byte] ^= 1 << bit
    (tmp_path / "flipped").write_bytes(content)
    try:
        loaded = load(tmp_path / "flipped")
    except UserError as error:
        assert "damaged, or not a packed model" in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert torch.equal(logits(loaded, images()), logits(made[index].model, images()))


def test_a_file_that_cannot_be_written_leaves_the_former_one(made: list[Quantized], tmp_path: Path) -> None:
    pack(made[1], tmp_path / "model")
    before = (tmp_path / "model").read_bytes()
    with _largest_file(1000), pytest.raises(OSError, match="File too large"):
        pack(made[2], tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("arch", "message"),
    {
        "torchvision:mobilenet_v2?width_mult=1000": r"of at least [\d,]+ weights, its safetensors hold",
        "transformers:vit?num_hidden_layers=1000000000": r"of at least [\d,]+ weights, its safetensors hold",
        "torchvision:nothing": "unknown model of torchvision",
        "python:nets.py:net": "a user's file, 'nets.py', which is run only if you name it",
        "resnet21": "damaged, or not a packed model",
        "transformers:timm_wrapper?model_args={%22checkpoint_path%22:%22evil.pth%22}": "which a packed file may not",
        "transformers:google/vit-base-patch16-224": "names weights, a folder or a repository",
        "torchvision:resnet18?weights=elsewhere.pth": "names weights, a folder or a repository",
    }.items(),
)
def test_an_architecture_that_the_file_cannot_hold_is_not_built(
    made: list[Quantized], arch: str, message: str, tmp_path: Path
) -> None:
    quantized, path = made[-1], tmp_path / "model.safetensors"
    pack(quantized, path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["kdq"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    del header["sha256"]
    write_sealed(path, "kdq", {**header, "arch": arch}, tensors)
    with pytest.raises(UserError, match=message):
        load(path)
