"""Augmented views of the training images, computed in batches on the images' device.

The view of image i in epoch e is a pure function of (stream seed, e, i): it depends neither on the batch
size nor on earlier training. So all trials of a study see the same views, training resumes at any epoch, and
the teacher's logits for a view can be cached under (e, i).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdq.errors import UserError


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Augmentations of an image, in pixels except `flip`.

    crop_padding: black pixels added on each side before a random crop to the original size;
    flip: mirror left to right with probability 1/2; cutout: side of a square of the mean colour at a random
    centre, clipped at the edges (DeVries and Taylor 2017).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if (pixels := getattr(self, name)) < 0:
                raise UserError(f"{name} = {pixels}: must be at least 0 (pixels; 0 turns it off)")

    def check(self, size: int) -> None:
        """Raise UserError for images of `size` x `size` pixels that a view could hide entirely."""
        if self.crop_padding >= size:
            raise UserError(f"crop_padding = {self.crop_padding}: must be below {size}, the size of the images")
        if self.cutout > size:
            raise UserError(f"cutout = {self.cutout}: must be at most {size}, the size of the images")


@dataclass(frozen=True, slots=True)
class View:
    """A batch of B views of one epoch.

    index: int64 [B], the training images shown; images: float32 [B, C, H, W] in [0, 1], channels-last;
    labels: int64 [B]. A mixed view combines two plain ones, its `parts`; its `index` and `labels` are those of
    the first: images = λ·parts[0].images + (1 − λ)·parts[1].images with `mix` = λ, float32 [B]. In a plain
    view, `parts` and `mix` are None.
    """

    epoch: int
    index: Tensor
    images: Tensor
    labels: Tensor
    parts: "tuple[View, View] | None" = None
    mix: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of one epoch, indexed by image, [N, …]; `order` is a permutation of the images.

    crop: int64 [N, 2], top and left; flip: bool [N]; cutout: float32 [N, 2], the square's centre (row, column);
    partner: int64 [N], the image that each is mixed with; mix: float32 [N], the weight λ of the image itself.
    """

    order: Tensor
    crop: Tensor
    flip: Tensor
    cutout: Tensor
    partner: Tensor
    mix: Tensor


class Views:
    """The augmented views of a training set.

    images: uint8 [N, C, H, W]; labels: int64 [N], on the same device; fill: the colour of cutout, one value in
    [0, 1] per channel. With mixup_alpha = a > 0, views are mixed in pairs by λ ~ Beta(a, a)
    (Zhang et al. 2018).
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        config: AugmentConfig,
        *,
        stream_seed: int,
        fill: tuple[float, ...],
        mixup_alpha: float = 0.0,
    ) -> None:
        config.check(min(images.shape[2:]))
        self.images = images
        self.labels = labels
        self.config = config
        self.stream_seed = stream_seed
        self.mixup_alpha = mixup_alpha
        self.fill = torch.tensor(fill, device=images.device)

    def __len__(self) -> int:
        return len(self.images)

    def steps(self, batch_size: int) -> int:
        """Return the number of batches in an epoch: the fewest of at most `batch_size` that cover every image once."""
        return -(-len(self) // batch_size)

    def epoch(self, epoch: int, batch_size: int) -> Iterator[View]:
        """Yield all views of an epoch in its order, in batches whose sizes differ by at most one."""
        draws = self.draw(epoch)
        for index in draws.order.tensor_split(self.steps(batch_size)):
            yield self.view(epoch, index, draws)

    def view(self, epoch: int, index: Tensor, draws: Draws) -> View:
        """Return the views of the images `index`, int64 [B], in an epoch; draws: those of that epoch."""
        view = self._plain(epoch, index, draws)
        if not self.mixup_alpha:
            return view
        partner, mix = self._plain(epoch, draws.partner[index], draws), draws.mix[index]
        images = partner.images.lerp(view.images, mix[:, None, None, None])
        return replace(view, images=images, parts=(view, partner), mix=mix)

    def _plain(self, epoch: int, index: Tensor, draws: Draws) -> View:
        return View(epoch, index, self._augment(index, draws), self.labels[index])

    def _augment(self, index: Tensor, draws: Draws) -> Tensor:
        """Return the unmixed views of the images `index`: float32 [B, C, H, W] in [0, 1], channels-last."""
        height, width = self.images.shape[2:]
        padded = F.pad(self.images[index], (self.config.crop_padding,) * 4)
        y = torch.arange(height, device=index.device)
        x = torch.arange(width, device=index.device)
        columns = torch.where(draws.flip[index, None], x.flip(0), x)  # [B, W]
        top, left = draws.crop[index].unbind(1)
        batch = torch.arange(len(index), device=index.device)[:, None, None]
        # [B, H, W, C] in memory, which is what channels-last means.
        crops = padded[batch, :, (top[:, None] + y)[:, :, None], (left[:, None] + columns)[:, None, :]]
        images = crops.float().div_(255)
        if self.config.cutout:
            images = torch.where(_square(draws.cutout[index], y, x, self.config.cutout), self.fill, images)
        return images.permute(0, 3, 1, 2)

    def draw(self, epoch: int) -> Draws:
        """Return the random numbers of an epoch, on the images' device.

        Every kind of number has its own stream, so enabling one augmentation does not change the others.
        """
        count, (height, width) = len(self), self.images.shape[2:]

        def stream(kind: str) -> torch.Generator:
            return generator(self.stream_seed, epoch, kind)

        shift = 2 * self.config.crop_padding + 1
        uniform = torch.rand(count, generator=stream("mix"), dtype=torch.float64)
        draws = {
            "order": torch.randperm(count, generator=stream("order")),
            "crop": torch.randint(shift, (count, 2), generator=stream("crop")),
            "flip": torch.rand(count, generator=stream("flip")) < (0.5 if self.config.flip else 0.0),
            "cutout": torch.rand(count, 2, generator=stream("cutout")) * torch.tensor([height, width]),
            "partner": torch.randperm(count, generator=stream("partner")),
            "mix": beta_quantile(uniform, self.mixup_alpha) if self.mixup_alpha else uniform,
        }
        return Draws(**{name: draw.to(self.images.device) for name, draw in draws.items()})


def _square(centre: Tensor, y: Tensor, x: Tensor, side: int) -> Tensor:
    """Return the mask [B, H, W, 1] of the squares around the pixels of `centre`, float [B, 2] (row, column)."""
    top, left = (centre.long() - side // 2).unbind(1)
    rows = (y >= top[:, None]) & (y < top[:, None] + side)
    columns = (x >= left[:, None]) & (x < left[:, None] + side)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def generator(stream_seed: int, epoch: int, kind: str) -> torch.Generator:
    """Return the random generator of one kind of number in one epoch."""
    digest = hashlib.sha256(f"{stream_seed}/{epoch}/{kind}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def beta_quantile(uniform: Tensor, alpha: float) -> Tensor:
    """Map uniform numbers in [0, 1), float64 [N], to quantiles of Beta(alpha, alpha): float32 [N] in [0, 1]."""
    from scipy.special import betaincinv  # only mixup needs SciPy

    return torch.from_numpy(np.asarray(betaincinv(alpha, alpha, uniform.numpy()), dtype=np.float32))
