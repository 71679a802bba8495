"""CIFAR ResNets (He et al. 2016, section 4.2) and torchvision ResNets with the CIFAR stem."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from kdq import plugins


class ShortcutA(nn.Module):
    """Option-A shortcut: every second pixel, zero channels on both sides (He et al. 2016, section 4.2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pad = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else ShortcutA(in_channels, out_channels, stride)
        self.relu = nn.ReLU(inplace=True)  # memory traffic is a quarter of a step on a CPU

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        activated: Tensor = self.relu(out)
        return activated


class CifarResNet(nn.Module):
    """ResNet-(6n + 2): three stages of n blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(self.pool(out).flatten(1))
        return logits


def _cifar_resnet(depth: int, classes: int, channels: int) -> nn.Module:
    assert (depth - 2) % 6 == 0
    net = CifarResNet((depth - 2) // 6, classes, channels)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return net


def _cifar_stem(name: str, classes: int, channels: int) -> nn.Module:
    """Build a torchvision ResNet with the CIFAR stem, which does not downsample: 3x3 stride-1 conv1, no max-pool."""
    from torchvision.models import resnet  # imports torch's compiler, which takes longer than torch itself

    net: resnet.ResNet = getattr(resnet, name)(weights=None, num_classes=classes)
    net.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    assert isinstance(net, nn.Module)
    return net


ARCHITECTURES: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet8": partial(_cifar_resnet, 8),
    "resnet14": partial(_cifar_resnet, 14),
    "resnet20": partial(_cifar_resnet, 20),
    "resnet32": partial(_cifar_resnet, 32),
    "resnet44": partial(_cifar_resnet, 44),
    "resnet56": partial(_cifar_resnet, 56),
    "resnet110": partial(_cifar_resnet, 110),
    "resnet18": partial(_cifar_stem, "resnet18"),
    "resnet34": partial(_cifar_stem, "resnet34"),
    "resnet50": partial(_cifar_stem, "resnet50"),
}
"""Name -> function of (classes, channels) that builds the network."""


def register_architecture(name: str, build: Callable[[int, int], nn.Module]) -> None:
    """Add an architecture, from a plugin: a function of (classes, channels). Raises UserError for a name taken."""
    plugins.add("architecture", ARCHITECTURES, name, build, "kdq.conformance.architectures")
