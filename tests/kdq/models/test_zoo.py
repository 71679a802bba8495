"""Networks of libraries and of users: every convolution and linear layer in codes, packed, loaded, exported.

A new member of ZOO is tested by all of it. Random weights prove the mechanics, which do not depend on them.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdq.export.model import export
from kdq.models.classifier import Classifier, Normalization, Signature, build
from kdq.models.evaluate import logits
from kdq.pack.file import load, pack, payload_bytes
from kdq.pack.size import total_bits
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize_many

NORMALIZATION = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
CLASSES = 5
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)

CODE = Path(__file__).with_name("user_nets.py")


@dataclass(frozen=True)
class Member:
    """A network by its architecture, and the side of its images; package: that it needs, beside those of kdq."""

    arch: str
    size: int = 32
    package: str | None = None

    @property
    def code(self) -> Path | None:
        return CODE if self.arch.startswith("python:") else None

    def build(self) -> Classifier:
        if self.package:
            pytest.importorskip(self.package)
        model = build(self.arch, classes=CLASSES, normalization=NORMALIZATION, seed=0).eval()
        model.signature = Signature(tuple("abcde"), (self.size, self.size), "RGB")
        fill_zeros(model)
        return model

    def images(self, count: int = 4) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (count, 3, self.size, self.size), dtype=torch.uint8, generator=generator)


@torch.no_grad()
def fill_zeros(model: Classifier) -> None:
    """Make weights random that start at 0, as a ViT's head does: such a network's predictions prove nothing."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if not weight.any():
            weight.normal_(0, 0.1, generator=generator)


SIZES = "hidden_size=16&num_attention_heads=2&image_size=32"


def narrow(function: str) -> Member:
    return Member(f"python:{CODE}:{function}")


ZOO = {
    "a user's": narrow("branching"),
    "one that keeps": narrow("keeping"),
    "one that keeps and branches": narrow("keeping?branches=true"),
    "one of windows": narrow("windows"),
    "ViT": narrow("vit"),
    "a layer of two names": narrow("aliased"),
    "ViT of transformers": Member(f"transformers:vit?{SIZES}&num_hidden_layers=2&intermediate_size=32&patch_size=8"),
    "ResNet of transformers": Member("transformers:resnet?embedding_size=8&hidden_sizes=[8,16]&depths=[1,1]"),
    "Swin": narrow("swin"),
    "Swin V2": narrow("swin?version=2"),
    "ConvNeXt": narrow("convnext"),
    "EfficientNet": narrow("efficientnet"),
    "MobileNetV3 of timm": Member("timm:mobilenetv3_small_050", package="timm"),
    "MobileNetV2": Member("torchvision:mobilenet_v2?width_mult=0.25"),
    "MobileNetV3": Member("torchvision:mobilenet_v3_small?stem=small&width_mult=0.25&reduced_tail=true"),
}
WHOLE = {
    "RegNet": Member("torchvision:regnet_y_400mf"),
    "EfficientNet-B0": Member("torchvision:efficientnet_b0"),
    "ConvNeXt-Tiny": Member("torchvision:convnext_tiny"),
    "VGG-16-BN": Member("torchvision:vgg16_bn?stem=small"),
    "DenseNet-121": Member("torchvision:densenet121"),
    "ViT-B/16": Member("torchvision:vit_b_16?image_size=32"),
    "Swin-T": Member("torchvision:swin_t"),
    "Swin of transformers": Member(
        "transformers:swin?image_size=32&patch_size=4&embed_dim=16&depths=[2,1]&num_heads=[1,2]&window_size=4"
    ),
    "DeiT of transformers": Member(f"transformers:deit?{SIZES}&num_hidden_layers=1&intermediate_size=32&patch_size=8"),
    "MobileViT": Member("timm:mobilevit_xxs", package="timm"),
    "LeViT": Member("timm:levit_128s", 224, package="timm"),
    "EfficientFormer": Member("timm:efficientformer_l1", 224, package="timm"),
    "TinyViT": Member("timm:tiny_vit_5m_224", 224, package="timm"),
    "ConvNeXt V2": Member("timm:convnextv2_atto", package="timm"),
}
"""Networks as large as they are published, and more of transformers: minutes of work, if KDQ_WHOLE_NETWORKS is set."""

MEMBERS = {**ZOO, **(WHOLE if os.environ.get("KDQ_WHOLE_NETWORKS") else {})}


def every_layer(model: Classifier) -> set[str]:
    return {name for name, module in model.net.named_modules() if isinstance(module, LAYERS)}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_network_quantizes_packs_loads_and_exports(name: str, tmp_path: Path) -> None:
    member, method = MEMBERS[name], "rtn" if name in WHOLE else "least_squares"
    given, images = member.build(), member.images()
    for made in quantize_many(given, images, [QuantizeConfig(bits, method) for bits in (8, 4)]):
        assert set(made.layers) == every_layer(made.model)
        file = tmp_path / "packed.safetensors"
        pack(made, file)
        assert 8 * payload_bytes(file) == total_bits(made)
        torch.testing.assert_close(logits(load(file, member.code), images), logits(made.model, images), rtol=0, atol=0)
    for to in ("onnx", "torch") if name in WHOLE else ("onnx",):
        exported = export(file, to, tmp_path / f"exported.{to}", images, code=member.code)
        assert exported.check.agreement == 1


@pytest.mark.parametrize("to", ["onnx", "torch"])
@pytest.mark.parametrize("name", ["a user's", "one of windows", "MobileNetV3"])  # the last by torch.fx
def test_an_autocast_of_the_caller_changes_no_file(name: str, to: str, tmp_path: Path) -> None:
    member = MEMBERS[name]
    given, images, file = member.build(), member.images(), tmp_path / "packed.safetensors"
    with torch.autocast("cpu", torch.bfloat16):
        [made] = quantize_many(given, images, [QuantizeConfig(8, "rtn")])
        pack(made, file)
        loaded = load(file, member.code)
        exported = export(file, to, tmp_path / f"exported.{to}", images, code=member.code)
    assert torch.equal(logits(loaded, images), logits(made.model, images))
    assert exported.check.error < 1e-5  # of float32, where bf16 has 1e-3
