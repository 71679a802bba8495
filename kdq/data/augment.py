"""Augmented views of the training images, computed in batches on the images' device.

The view of image i in epoch e is a pure function of (stream seed, e, i): it depends neither on the batch
size nor on earlier training. So all trials of a study see the same views, training resumes at any epoch, and
the teacher's logits for a view can be cached under (e, i).
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdq.data.boxes import ATTEMPTS, crop_boxes, cut_boxes, inside, resized_crops
from kdq.data.trivial_augment import OPERATIONS, SMALLEST, STRENGTHS, trivial_augment
from kdq.errors import UserError


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """Augmentations of an image, in their order.

    crop_padding: black pixels added on each side before a random crop to the original size; resized_crop: instead, the
    smallest share of the area of a random crop that is resized to the original size (Szegedy et al. 2015; 0.08 for
    ImageNet), 0 for none; flip: mirror left to right with probability 1/2; trivial_augment: one operation of random
    strength (Müller and Hutter 2021); cutout: side in pixels of a square of the mean colour at a random centre, clipped
    at the edges (DeVries and Taylor 2017); cutmix: the α of Beta(α, α), of which the share of an image is drawn that a
    box of another replaces (Yun et al. 2019; 1 in the paper), 0 for none.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    resized_crop: float = 0.0
    trivial_augment: bool = False
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if (pixels := getattr(self, name)) < 0:
                raise UserError(f"{name} = {pixels}: must be at least 0 (pixels; 0 turns it off)")
        if not 0 <= self.resized_crop <= 1:
            raise UserError(f"resized_crop = {self.resized_crop}: must be a share from 0 (none) to 1")
        if self.resized_crop and self.crop_padding:
            raise UserError(f"crop_padding = {self.crop_padding}: must be 0 with resized_crop, which crops by itself")
        if not 0 <= self.cutmix < math.inf:
            raise UserError(f"cutmix = {self.cutmix}: must be a number that is at least 0 (0 turns it off)")

    def identity(self) -> dict[str, Any]:
        """Return what determines a view, as JSON; of the augmentations of later versions, those that are on."""
        found = asdict(self)
        return {name: value for name, value in found.items() if value or name not in LATER}

    @property
    def unmixed(self) -> "AugmentConfig":
        """The same without CutMix."""
        return replace(self, cutmix=0.0)

    def check(self, size: int) -> None:
        """Raise UserError for images of `size` x `size` pixels that a view could hide entirely."""
        if self.crop_padding >= size:
            raise UserError(f"crop_padding = {self.crop_padding}: must be below {size}, the size of the images")
        if self.cutout > size:
            raise UserError(f"cutout = {self.cutout}: must be at most {size}, the size of the images")
        if self.trivial_augment and size < SMALLEST:
            raise UserError(
                f"trivial_augment = true: images have {size} pixels, but must have at least {SMALLEST}, by which some "
                f"are moved; leave it out"
            )


LATER = ("resized_crop", "trivial_augment", "cutmix")
"""Augmentations of later versions: one that is off is in no identity, so that those of earlier versions stay."""


@dataclass(frozen=True, slots=True)
class View:
    """A batch of B views of one epoch.

    index: int64 [B], the training images shown; images: float32 [B, C, H, W] in [0, 1], channels-last;
    labels: int64 [B]. A mixed view combines two plain ones, its `parts`; its `index` and `labels` are those of
    the first: images = λ·parts[0].images + (1 − λ)·parts[1].images with `mix` = λ, float32 [B], or a box of
    parts[1].images, a share 1 − λ of the area, in parts[0].images. In a plain view, `parts` and `mix` are None.
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
    With the augmentations that need them: resized: int64 [N, 4], crops (see kdq.data.boxes); operation, strength:
    int64 [N], of TrivialAugment; cut: int64 [N, 4], the box from the partner, empty where images are mixed by mixup.
    """

    order: Tensor
    crop: Tensor
    flip: Tensor
    cutout: Tensor
    partner: Tensor
    mix: Tensor
    resized: Tensor | None = None
    operation: Tensor | None = None
    strength: Tensor | None = None
    cut: Tensor | None = None


class Views:
    """The augmented views of a training set.

    images: uint8 [N, C, H, W]; labels: int64 [N], on the device of the views: images that are elsewhere, as too many
    for a GPU's memory, are copied to it batch by batch; fill: the colour of cutout, one value in
    [0, 1] per channel. With mixup_alpha = a > 0, views are mixed in pairs by λ ~ Beta(a, a)
    (Zhang et al. 2018); if CutMix is on too, half of them by that instead.
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
        self.device = labels.device
        self.fill = torch.tensor(fill, device=self.device)

    @property
    def _size(self) -> tuple[int, int]:
        height, width = self.images.shape[2:]
        return height, width

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
        if not (self.mixup_alpha or self.config.cutmix):
            return view
        partner, mix = self._plain(epoch, draws.partner[index], draws), draws.mix[index]
        if draws.cut is None:
            images = partner.images.lerp(view.images, mix[:, None, None, None])
        else:
            is_cut = draws.cut[index, 0] >= 0
            weight = mix.where(~is_cut, 1.0)[:, None, None, None]
            images = partner.images.lerp(view.images, weight.where(~inside(draws.cut[index], self._size), 0.0))
        return replace(view, images=images, parts=(view, partner), mix=mix)

    def _plain(self, epoch: int, index: Tensor, draws: Draws) -> View:
        return View(epoch, index, self._augment(index, draws), self.labels[index])

    def _augment(self, index: Tensor, draws: Draws) -> Tensor:
        """Return the unmixed views of the images `index`: float32 [B, C, H, W] in [0, 1], channels-last."""
        pixels = self.images[index.to(self.images.device)].to(self.device)
        if draws.resized is None:
            pixels = _crops(pixels, draws.crop[index], self.config.crop_padding)
        else:
            pixels = resized_crops(pixels, draws.resized[index])
        if self.config.flip:
            pixels = torch.where(draws.flip[index, None, None, None], pixels.flip(3), pixels)
        if draws.operation is not None and draws.strength is not None:
            pixels = trivial_augment(pixels, draws.operation[index], draws.strength[index])
        images = pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)
        if self.config.cutout:
            hidden = inside(_squares(draws.cutout[index], self.config.cutout), self._size)
            images = torch.where(hidden, self.fill[:, None, None], images).contiguous(memory_format=torch.channels_last)
        return images

    def draw(self, epoch: int) -> Draws:
        """Return the random numbers of an epoch, on the device of the views.

        Every kind of number has its own stream, so enabling one augmentation does not change the others.
        """
        count, config, size = len(self), self.config, self._size

        def stream(kind: str) -> torch.Generator:
            return generator(self.stream_seed, epoch, kind)

        def uniform(kind: str, *shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=stream(kind), dtype=torch.float64)

        mix = uniform("mix")
        draws = {
            "order": torch.randperm(count, generator=stream("order")),
            "crop": torch.randint(2 * config.crop_padding + 1, (count, 2), generator=stream("crop")),
            "flip": torch.rand(count, generator=stream("flip")) < (0.5 if config.flip else 0.0),
            "cutout": torch.rand(count, 2, generator=stream("cutout")) * torch.tensor(size),
            "partner": torch.randperm(count, generator=stream("partner")),
            "mix": beta_quantile(mix, self.mixup_alpha) if self.mixup_alpha else mix,
        }
        if config.resized_crop:
            draws["resized"] = crop_boxes(uniform("resized", ATTEMPTS, 4), size, config.resized_crop)
        if config.trivial_augment:
            draws["operation"] = torch.randint(len(OPERATIONS), (count,), generator=stream("operation"))
            sign = 2 * torch.randint(2, (count,), generator=stream("sign")) - 1
            draws["strength"] = sign * torch.randint(STRENGTHS, (count,), generator=stream("strength"))
        if config.cutmix:
            share = 1 - beta_quantile(uniform("cutmix"), config.cutmix)
            boxes = cut_boxes(uniform("cut", 2), share, size)
            is_cut = uniform("cut or mix") < (0.5 if self.mixup_alpha else 1.0)
            top, bottom, left, right = boxes.unbind(1)
            kept = 1 - (bottom - top) * (right - left) / math.prod(size)
            draws["cut"] = torch.where(is_cut[:, None], boxes, -1)
            draws["mix"] = torch.where(is_cut, kept, draws["mix"]).float()
        return Draws(**{name: draw.to(self.device) for name, draw in draws.items()})


def _crops(images: Tensor, corners: Tensor, padding: int) -> Tensor:
    """Return images, uint8 [B, C, H, W], cropped after `padding` at the corners, int64 [B, 2] (top, left)."""
    if not padding:
        return images
    height, width = images.shape[2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = corners.unbind(1)
    crops: Tensor = windows[torch.arange(len(images), device=images.device), :, top, left]
    return crops


def _squares(centre: Tensor, side: int) -> Tensor:
    """Return the boxes, int64 [B, 4] as of `cut_boxes`, around the pixels of `centre`, float [B, 2] (row, column)."""
    top, left = (centre.long() - side // 2).unbind(1)
    return torch.stack([top, top + side, left, left + side], dim=1)


def generator(stream_seed: int, epoch: int, kind: str) -> torch.Generator:
    """Return the random generator of one kind of number in one epoch."""
    digest = hashlib.sha256(f"{stream_seed}/{epoch}/{kind}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def beta_quantile(uniform: Tensor, alpha: float) -> Tensor:
    """Map uniform numbers in [0, 1), float64 [N], to quantiles of Beta(alpha, alpha): float32 [N] in [0, 1]."""
    if alpha == 1:  # the uniform distribution
        return uniform.float()
    from scipy.special import betaincinv  # here, as the GPU's machine of benchmarks.gpu may lack it

    return torch.from_numpy(np.asarray(betaincinv(alpha, alpha, uniform.numpy()), dtype=np.float32))
