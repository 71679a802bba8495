"""Exported models, run by the programs that they are for: onnxruntime, torch.export and safetensors without kdq."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from kdq.__main__ import main
from kdq.errors import UserError
from kdq.export import onnx_format
from kdq.export.card import wilson
from kdq.export.check import Check, compare
from kdq.export.model import FORMATS, Exported, Format, export
from kdq.models.classifier import Classifier, Normalization, Signature, build
from kdq.models.evaluate import logits, top1
from kdq.pack.file import Packed, load, pack, unpack
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import layer_names, quantize, quantize_many
from kdq.quantize.result import Quantized
from tests.patience import patient

SIZELESS = Path(__file__).parents[1] / "pack" / "format3.safetensors"  # later formats always say the size
NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
SIGNATURE = Signature(("ant", "b|ee", "c\nd", "*e*", "f", "été", "[g](h)"), (8, 8), "RGB")


def images(count: int = 16, seed: int = 0, size: int = 8) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def model(arch: str = "resnet8") -> Classifier:
    return build(arch, classes=7, normalization=NORMALIZATION, seed=0)


def mixture() -> dict[str, int]:
    return dict(zip(layer_names(model()), (8, 3, 32, 1, 5, 7, 2, 6), strict=True))


CONFIGS = {
    **{f"{bits} bits": QuantizeConfig(bits) for bits in (1, 3, 4, 5, 8, 32)},
    **{f"asymmetric, {bits} bits": QuantizeConfig(bits, "rtn", {"asymmetric": 1}) for bits in (1, 3, 8)},
    "mixed": QuantizeConfig(mixture()),
    "mixed, asymmetric, float32 scales": QuantizeConfig(mixture(), "rtn", {"asymmetric": 1}, stored="float32"),
    **{f"{bits} bits of activations": QuantizeConfig(3, activation_bits=bits) for bits in (4, 6, 8)},
    "8 bits of weights and activations": QuantizeConfig(8, activation_bits=8),
    "mixed, 6 bits of activations": QuantizeConfig(mixture(), "gptq", {"asymmetric": 1}, activation_bits=6),
    **{f"the paper's alphabet, {bits} bits": QuantizeConfig(bits, "gpfq_paper") for bits in (4, 8)},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A packed ResNet-8 for each of CONFIGS."""
    folder = tmp_path_factory.mktemp("packed")
    found = {}
    for name, quantized in zip(CONFIGS, quantize_many(model(), images(), list(CONFIGS.values())), strict=True):
        found[name] = folder / f"{name}.safetensors"
        pack(quantized, found[name], SIGNATURE)
    return found


@pytest.fixture(scope="module")
def to_onnx(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Function of a name in CONFIGS: its ONNX file, made once."""
    folder = tmp_path_factory.mktemp("onnx")
    return cache(lambda name: export(made[name], "onnx", folder / f"{name}.onnx"))


def run_onnx(path: Path, given: Tensor) -> Tensor:
    """The logits by onnxruntime as a user starts it."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": (given.float() / 255).numpy()})[0])


def relative(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / (wanted - wanted.mean(1, keepdim=True)).norm()).item()


@pytest.mark.parametrize("name", CONFIGS)
def test_onnxruntime_computes_our_logits_in_batches_of_any_size(
    made: dict[str, Path], to_onnx: Callable[[str], Exported], name: str
) -> None:
    exported = to_onnx(name)
    # Float sums in another order are rounded to another level now and then; for 8 bits, see `onnx_format._as_onnx`.
    tolerance = {None: 1e-5, 8: 0.03}.get(CONFIGS[name].activation_bits, 5e-3)
    wanted = logits(load(made[name]), images(40, seed=1))
    found = run_onnx(exported.path, images(40, seed=1))
    assert relative(found, wanted) < tolerance
    assert torch.equal(found.argmax(1), wanted.argmax(1))
    assert relative(run_onnx(exported.path, images(40, seed=1)[:1]), wanted[:1]) < 4 * tolerance
    assert exported.exported_bytes == exported.path.stat().st_size
    assert exported.packed_bytes == made[name].stat().st_size


@pytest.mark.parametrize("name", ["3 bits", "5 bits", "mixed", "6 bits of activations"])
def test_its_weights_are_integers_and_its_metadata_say_which(
    made: dict[str, Path], to_onnx: Callable[[str], Exported], name: str
) -> None:
    exported = to_onnx(name)
    proto, packed = onnx.load(exported.path), unpack(made[name])
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    types = {4: TensorProto.UINT4, 8: TensorProto.UINT8}
    for layer, (bits, wide) in exported.widths.items():
        assert bits == packed.layers[layer].alphabet.bits
        assert wide == (4 if bits <= 4 else 8)
        codes = tensors[f"model.net.{layer}.weight.codes"]
        assert codes.data_type == types[wide]
        assert len(codes.raw_data) == math.ceil(packed.layers[layer].codes.numel() * wide / 8)
        values = numpy_helper.to_array(codes).astype(int)
        if bits > 1 and (packed.layers[layer].scale > 0).all():
            assert (values == packed.layers[layer].codes.numpy()).all(), "the codes of the packed file"
    floats = [name for name, tensor in tensors.items() if name.endswith(".weight")]
    assert floats == [f"model.net.{layer}.weight" for layer, bits in _widths(name).items() if bits == 32]
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(properties["class_names"]) == list(SIGNATURE.class_names)
    assert (properties["arch"], properties["channel_order"]) == ("resnet8", "RGB")
    assert json.loads(properties["bits"]) == {key: bits for key, (bits, _) in exported.widths.items()}
    assert json.loads(properties["exported_bits"]) == {key: wide for key, (_, wide) in exported.widths.items()}
    kinds = [node.op_type for node in proto.graph.node]
    rounded = len(packed.layers) if "activations" in name else 0
    assert kinds.count("QuantizeLinear") == rounded
    assert kinds.count("DequantizeLinear") == len(packed.layers) + rounded
    [image], [output] = proto.graph.input, proto.graph.output
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 3, 8, 8]
    assert (image.name, output.name) == ("image", "logits")


def _widths(name: str) -> dict[str, int]:
    return CONFIGS[name].allocation.by_layer(list(layer_names(model())))


def test_it_is_small(made: dict[str, Path], to_onnx: Callable[[str], Exported]) -> None:
    """Half a byte a weight, 9 bytes a channel (scale, half a zero point, bias), and the graph."""
    exported = to_onnx("3 bits")
    weights = sum(layer.codes.numel() for layer in unpack(made["3 bits"]).layers.values())
    assert exported.exported_bytes < weights / 2 + 9 * 7 * 64 + 15_000


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("arch", ["resnet20", "resnet18"])
def test_other_architectures_are_exported(arch: str, to: str, tmp_path: Path) -> None:
    bits = 4 if arch == "resnet20" else 32  # whose Gram matrices are small
    pack(quantize(model(arch), images(), QuantizeConfig(bits, "rtn")), tmp_path / "packed")
    exported = export(tmp_path / "packed", to, tmp_path / "exported", images(size=8))
    assert exported.check.error < 1e-5
    assert exported.check.agreement == 1


class Tokens(nn.Module):
    """Grouped and depthwise convolutions, attention, and linear layers on tokens: not only what ResNets have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.depthwise(self.stem(x)).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        tokens = tokens + self.mlp(self.norm(tokens))
        pooled: Tensor = self.head(tokens.mean(1))
        return pooled


@pytest.mark.parametrize("activation_bits", [None, 5])
def test_layers_on_tokens_are_exported(activation_bits: int | None) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokens = Classifier("tokens", Tokens(), 7, NORMALIZATION)
    quantized = quantize(tokens, images(), QuantizeConfig(4, "rtn", activation_bits=activation_bits))
    packed = Packed(quantized.model, quantized.layers)
    content = onnx_format.write(packed, {}, (8, 8))
    found = compare(packed.model, onnx_format.run(content, packed), images(20, seed=1), None, "onnxruntime")
    assert found.error < 2e-3, "onnxruntime rounds the inputs of matrices of 4 bits to 8 bits"
    kinds = [node.op_type for node in onnx.load_from_string(content).graph.node]
    rounded = len(packed.layers) - 2 if activation_bits else 0  # q_proj, k_proj and v_proj round the same inputs
    assert kinds.count("QuantizeLinear") == rounded
    assert kinds.count("DequantizeLinear") == len(packed.layers) + rounded


@pytest.mark.parametrize("name", ["mixed, 6 bits of activations", "the paper's alphabet, 8 bits"])
def test_a_torch_program_computes_our_logits(made: dict[str, Path], name: str, tmp_path: Path) -> None:
    program = torch.export.load(export(made[name], "torch", tmp_path / "model.pt2").path).module()
    given = images(5, seed=1)
    for count in (1, 5):
        torch.testing.assert_close(program(given[:count] / 255), logits(load(made[name]), given[:count]))


def test_a_torch_program_runs_without_kdq(made: dict[str, Path], tmp_path: Path) -> None:
    exported = export(made["3 bits"], "torch", tmp_path / "model.pt2")
    code = (
        "import json, sys, torch\n"
        "extra = {'kdq.json': ''}\n"
        "model = torch.export.load(sys.argv[1], extra_files=extra).module()\n"
        "print(model(torch.zeros(1, 3, 8, 8)).argmax().item(), json.loads(extra['kdq.json'])['arch'])\n"
        "assert not [name for name in sys.modules if name.startswith('kdq')]\n"
    )
    command = [sys.executable, "-c", code, str(exported.path)]
    done = subprocess.run(command, check=True, timeout=patient(60), cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{logits(load(made['3 bits']), torch.zeros(1, 3, 8, 8)).argmax()} resnet8\n"


def test_safetensors_are_read_by_a_network_of_torch_alone(made: dict[str, Path], tmp_path: Path) -> None:
    exported = export(made["3 bits"], "safetensors", tmp_path / "weights.safetensors")
    state = load_file(exported.path)
    with safe_open(exported.path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    assert config["class_names"] == list(SIGNATURE.class_names)
    assert {key.rpartition(".")[2] for key in state} == {"weight", "bias"}
    packed = load(made["3 bits"])
    first = nn.Conv2d(3, 16, 3, padding=1)
    first.load_state_dict({"weight": state["conv1.weight"], "bias": state["conv1.bias"]})
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    given = (images() / 255 - mean) / std
    assert torch.equal(first(given), packed.net.conv1(given))  # type: ignore[operator, union-attr]
    assert exported.check.error < 1e-6
    again = export(made["3 bits"], "safetensors", tmp_path / "again.safetensors")
    assert again.path.read_bytes() == exported.path.read_bytes()


def test_accuracies_are_compared_on_labelled_images(made: dict[str, Path], tmp_path: Path) -> None:
    labels = torch.arange(40) % 7
    found = export(made["4 bits"], "onnx", tmp_path / "model", images(40, seed=1), labels).check
    assert found.packed_top1 == found.exported_top1 == top1(load(made["4 bits"]), images(40, seed=1), labels)
    assert found.images == 40


def spoiled(change: float) -> Format:
    """Exports to ONNX what computes something else."""
    onnx = FORMATS["onnx"]
    return replace(onnx, run=lambda content, packed: lambda given: change * given.mean((2, 3)).repeat(1, 3)[:, :7])


@pytest.mark.parametrize("labels", [None, torch.arange(16) % 7])
def test_an_export_that_predicts_something_else_fails_and_leaves_no_file(
    made: dict[str, Path], labels: Tensor | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", spoiled(1.0))
    if labels is not None:
        labels = logits(load(made["4 bits"]), images()).argmax(1)
    with pytest.raises(UserError, match=r"the exported model is not the packed one: .*nothing was written"):
        export(made["4 bits"], "onnx", tmp_path / "model.onnx", images(), labels)
    assert list(tmp_path.iterdir()) == []


def test_logits_that_are_not_numbers_fail(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "onnx", spoiled(float("nan")))
    with pytest.raises(UserError, match="its logits differ by nan"):
        export(made["4 bits"], "onnx", tmp_path / "model.onnx")


@pytest.mark.parametrize(("theirs", "fails"), [(91.64, False), (91.54, False), (91.5, True), (91.8, True)])
def test_a_tenth_of_a_point_is_allowed(theirs: float, fails: bool) -> None:
    check = Check("onnxruntime", 10_000, 0.5, 0.99, 91.64, theirs)
    if fails:
        with pytest.raises(UserError, match=f"its top-1 accuracy is {theirs:.2f} %, the packed model's 91.64 %"):
            check.verify(is_rounded=False)
    else:
        check.verify(is_rounded=False)


def test_levels_off_a_grid_are_exported_with_real_weights_only(tmp_path: Path) -> None:
    pack(quantize(model(), images(), QuantizeConfig(3, "gpfq_l0")), tmp_path / "packed", SIGNATURE)
    with pytest.raises(UserError, match=r"leave a gap of .* export --to torch or safetensors"):
        export(tmp_path / "packed", "onnx", tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
    assert export(tmp_path / "packed", "torch", tmp_path / "model.pt2").check.agreement == 1


def test_what_is_missing_is_named_with_the_remedy(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_format, "NEEDED", ("onnx", "onnx_of_the_future"))
    with pytest.raises(UserError, match=r"needs onnx_of_the_future; install with: pip install 'kdq\[export\]'"):
        export(made["4 bits"], "onnx", tmp_path / "model.onnx")


def test_mistakes_are_refused(made: dict[str, Path], tmp_path: Path) -> None:
    packed, output = made["4 bits"], tmp_path / "model.onnx"
    with pytest.raises(UserError, match="unknown format 'onxx': did you mean 'onnx'"):
        export(packed, "onxx", output)
    with pytest.raises(UserError, match="is a folder"):
        export(packed, "onnx", tmp_path)
    with pytest.raises(UserError, match="is the packed model itself"):
        export(packed, "torch", packed)
    with pytest.raises(UserError, match="cannot be read"):
        export(tmp_path / "nowhere", "onnx", output)
    with pytest.raises(UserError, match="of 16x16 pixels, the model is made for 8x8"):
        export(packed, "safetensors", output, images(size=16))
    with pytest.raises(UserError, match=r"labels: .* one class an image"):
        export(packed, "safetensors", output, images(), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError, match="their labels must be 0 to 6, that of image 3 is 7"):
        export(packed, "safetensors", output, images(), torch.arange(16) + 4)
    with pytest.raises(UserError, match=r"image size \(9, 9\): the model is made for \(8, 8\)"):
        export(packed, "safetensors", output, size=(9, 9))
    with pytest.raises(UserError, match="give it by --image-size"):
        export(SIZELESS, "safetensors", output)
    assert not output.exists()
    assert export(SIZELESS, "safetensors", output, size=(9, 9)).check.error < 1e-6


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_card_says_what_is_known(made: dict[str, Path], tmp_path: Path) -> None:
    labels = logits(load(made["mixed"]), images()).argmax(1)
    facts = {"Teacher": "resnet56, 93.4 %", "Data": "a|b\n*c*"}
    exported = export(
        made["mixed"], "onnx", tmp_path / "m.onnx", images(), labels, images_name="test images", facts=facts,
        command="python study/run.py --space x",
    )  # fmt: skip
    card = exported.card.read_text()
    assert exported.card == tmp_path / "m.onnx.md"
    assert card.startswith("# resnet8, 1 to 8 bits\n")
    assert "Top-1 100.00 % of 16 test images (95% interval 80.64 to 100.00 %); exported, in onnxruntime" in card
    assert "```sh\npython study/run.py --space x\n```" in card
    rows = {row[0]: row[1:] for line in card.splitlines() if line.startswith("|") and (row := cells(line))}
    assert rows["Teacher"] == ["resnet56, 93.4 %"]
    assert rows["Data"] == [r"a\|b?\*c\*"]
    assert rows["layer1.0.conv1"][:2] == ["3", "4"]
    assert rows["layer1.0.conv2"][:2] == ["32", "32"]
    total = int(rows["**all**"][-1].replace(",", ""))
    layers = [rows[name] for name in layer_names(model())]
    assert total == sum(int(row[-1].replace(",", "")) for row in layers)
    header = int.from_bytes(made["mixed"].read_bytes()[:8], "little")
    assert total == made["mixed"].stat().st_size - 8 - header
    assert card.index("2. c?d") > card.index(r"1. b\|ee") > card.index("0. ant")
    assert r"6. \[g\](h)" in card


def test_the_card_of_a_file_alone_leaves_out_what_is_not_known(made: dict[str, Path], tmp_path: Path) -> None:
    card = export(made["32 bits"], "safetensors", tmp_path / "model").card.read_text()
    assert card.startswith("# resnet8, float\n")
    assert "## Accuracy" not in card
    assert "## How it is made" not in card
    assert "random images" in card
    assert "None" not in card


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [(0, 10, 0.0, 27.75), (5, 10, 23.66, 76.34), (9164, 10_000, 91.08, 92.17)],
)
def test_wilsons_interval_by_its_formula(correct: int, count: int, low: float, high: float) -> None:
    z, share = 1.959964, correct / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    found = wilson(correct, count)
    assert found == pytest.approx((100 * (centre - half), 100 * (centre + half)), abs=1e-4)
    assert found == pytest.approx((low, high), abs=0.01)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed classifier of digits that has learnt nothing."""
    path = tmp_path_factory.mktemp("digits") / "model.safetensors"
    own = build("resnet8", classes=10, normalization=Normalization((0.3,), (0.3,)), seed=0)
    quantized: Quantized = quantize(own, images()[:, :1], QuantizeConfig(4, "rtn"))
    pack(quantized, path, Signature(tuple("0123456789"), (8, 8), "L"))
    return path


def command(*arguments: object) -> Sequence[str]:
    return ["export", *map(str, arguments)]


def test_the_command_checks_on_test_images_and_says_both_sizes(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "model.onnx"
    assert main(command(digits, "--to", "onnx", "--output", output, "--dataset", "digits")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (f"{output}: onnx, {output.stat().st_size:,} bytes (packed: {digits.stat().st_size:,} bytes)")
    assert lines[1] == "weights: 8 layers at 4 → 4 bits"
    assert "on 500 test images of digits: 100.00 % of the predicted classes agree" in lines[2]
    assert re.fullmatch(r"top-1: packed \d+\.\d\d %, exported \d+\.\d\d %", lines[3])
    assert f"python -m kdq export {digits} --to onnx" in Path(f"{output}.md").read_text()


def photographs(folder: Path, classes: Sequence[str]) -> Path:
    """A folder of ten images of each class."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for each, image in enumerate(images(10, seed=number, size=12)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name / f"{each}.png")
    return folder


def test_the_command_checks_on_images_of_the_users_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantized = quantize(build("resnet8", classes=2, normalization=NORMALIZATION, seed=0), images(), QuantizeConfig(4))
    pack(quantized, packed := tmp_path / "model.safetensors", Signature(("ant", "bee"), (8, 8), "RGB"))
    to = ["--to", "safetensors", "--output", tmp_path / "model"]
    own = f"folder:{photographs(tmp_path / 'own', ['ant', 'bee'])}"
    assert main(command(packed, *to, "--dataset", own)) == 0
    assert f"on 4 test images of {own}: 100.00 % of the predicted classes agree" in capsys.readouterr().out
    others = f"folder:{photographs(tmp_path / 'others', ['ant', 'wasp'])}"
    assert main(command(packed, *to, "--dataset", others)) == 2
    assert "has the classes ant, wasp, the model has ant, bee; give the model's data" in capsys.readouterr().err


def test_the_commands_mistakes_are_one_line_and_status_2(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    to = ["--to", "safetensors", "--output", tmp_path / "model"]
    for arguments, reason in (
        ([tmp_path / "nothing", *to], "cannot be read"),
        ([digits, *to, "--dataset", "digit"], "unknown data set 'digit': did you mean 'digits'"),
        ([digits, *to, "--dataset", "cifar10"], "--dataset cifar10: needs --data-dir"),
        ([digits, *to, "--dataset", "digits", "--image-size", "9"], "the model is made for (8, 8)"),
        ([digits, *to, "--data-dir", "x"], "of which data set?"),
        ([digits, "--to", "torch", "--output", tmp_path / "file" / "model"], "cannot be written (File exists)"),
    ):
        assert main(command(*arguments)) == 2
        shown, said = capsys.readouterr()
        assert shown == ""
        assert reason in said
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file"]


def test_a_program_moves_to_another_device(tmp_path: Path) -> None:
    """As docs/export.md says, a network that makes tensors by itself too; "meta" stands for a GPU."""
    sizes = "hidden_size=16&num_attention_heads=2&image_size=8&num_hidden_layers=1&intermediate_size=32&patch_size=4"
    pack(quantize(model(f"transformers:vit?{sizes}"), images(), QuantizeConfig(4, "rtn")), tmp_path / "model")
    export(tmp_path / "model", "torch", tmp_path / "model.pt2")
    program = move_to_device_pass(torch.export.load(tmp_path / "model.pt2"), "meta")
    found = program.module()(images().float().to("meta"))
    assert (found.device.type, found.shape) == ("meta", (16, 7))
