"""Networks as a user writes them: one that torch.fx cannot trace, and narrow ones of libraries' own classes."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Branching(nn.Module):
    """Code with branches, over a convolution, one of sequences, attention, and a layer called twice."""

    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 4, stride=4, padding=1, padding_mode="reflect", bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.mix = nn.Conv1d(width, width, 3, padding=1, groups=2)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        self.twice = nn.Linear(width, width)
        self.position = nn.Parameter(torch.zeros(1, 1, width))
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(images)))
        if x.shape[-1] > 4:
            x = F.avg_pool2d(x, 2)
        tokens = (x.flatten(2) + self.mix(x.flatten(2))).transpose(1, 2) + self.position
        tokens = tokens + self.attend(tokens, tokens, tokens, need_weights=False)[0]
        logits: Tensor = self.head(self.twice(F.silu(self.twice(tokens))).mean(1))
        return logits


def windows(classes: int, channels: int) -> nn.Module:
    return Windows(classes, channels)


def branching(classes: int, channels: int, width: int = 16) -> nn.Module:
    return Branching(classes, channels, width)


class Windows(nn.Module):
    """Normalises windows of 2 x 2 pixels as if each were an image; has a constant that it computes when it is built."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, classes)
        self.register_buffer("table", torch.linspace(0.1, 1, 8)[:, None] @ torch.full((1, 1), 0.7), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        if x.shape[1] > 8:
            raise ValueError("more than 8 channels")
        windows = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        x = self.norm(windows).mean((2, 3)).unflatten(0, (images.shape[0], -1)).mean(1)
        logits: Tensor = self.head(F.relu(x) + self.table[:, 0])
        return logits


class Keeping(nn.Module):
    """Keeps what it computes from its biases, as the attention of timm's LeViT does; with a branch, as its TinyViT."""

    def __init__(self, classes: int, channels: int, branches: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(channels, 8, 4, stride=4), nn.Linear(8, classes)
        self.biases, self.branches = nn.Parameter(torch.zeros(8)), branches
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.kept = {}
        return super().train(mode)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).mean((2, 3))
        if self.branches and x.shape[1] > 8:
            raise ValueError("more than 8 channels")
        if "biases" not in self.kept:
            self.kept["biases"] = self.biases * 2
        logits: Tensor = self.head(F.relu(x + self.kept["biases"]))
        return logits


def keeping(classes: int, channels: int, branches: bool = False) -> nn.Module:
    return Keeping(classes, channels, branches)


class Tokens(nn.Module):
    """The mean of patches and a token, classified by two heads, as a distilled ViT is; its body is declared last."""

    def __init__(self, classes: int, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.patches = nn.Conv2d(channels, width, 4, stride=4, bias=False)
        self.head, self.head_dist = nn.Linear(width, classes), nn.Linear(width, classes)
        self.body = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth)))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = self.body((patches + self.token).mean(1))
        logits: Tensor = self.head(x) + self.head_dist(x)
        return logits


def tokens(classes: int, channels: int, width: int = 16, depth: int = 1) -> nn.Module:
    return Tokens(classes, channels, width, depth)


def vit(classes: int, channels: int, **options: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}
    net: nn.Module = VisionTransformer(**{**sizes, **options}, num_classes=classes)
    return net


def swin(classes: int, channels: int, version: int = 1) -> nn.Module:
    from torchvision.models import swin_transformer as library

    blocks = {1: library.SwinTransformerBlock, 2: library.SwinTransformerBlockV2}
    merging = {1: library.PatchMerging, 2: library.PatchMergingV2}
    sizes = {"patch_size": [2, 2], "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": [4, 4]}
    parts = {"block": blocks[version], "downsample_layer": merging[version]}
    net: nn.Module = library.SwinTransformer(**sizes, **parts, num_classes=classes)
    return net


def convnext(classes: int, channels: int) -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    net: nn.Module = ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 2)], num_classes=classes)
    return net


def efficientnet(classes: int, channels: int) -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    blocks = [MBConvConfig(2, 3, 1, 8, 8, 2), MBConvConfig(4, 5, 2, 8, 16, 1)]
    net: nn.Module = EfficientNet(blocks, dropout=0.1, num_classes=classes, last_channel=32)
    return net


def as_text(classes: int, channels: int) -> str:
    return "no network"


class Aliased(nn.Module):
    """A network whose last layer has two names, and is called by the name of its argument."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 4, stride=4)
        self.fc = nn.Linear(8, classes)
        self.head = self.fc

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(input=self.stem(x).relu().mean((2, 3)))
        return logits


def aliased(classes: int, channels: int) -> nn.Module:
    return Aliased(classes, channels)
