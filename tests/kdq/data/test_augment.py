"""Views against a naive loop over images; what they are, and are not, a function of."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from kdq.data.augment import AugmentConfig, View, Views, beta_quantile
from kdq.errors import UserError

N, C, H, W = 37, 3, 8, 10
ALL = AugmentConfig(crop_padding=2, flip=True, cutout=3)
FILL = (0.25, 0.5, 0.75)

IMAGES = torch.randint(0, 256, (N, C, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 5


def views(config: AugmentConfig = ALL, mixup_alpha: float = 0.0, stream_seed: int = 0) -> Views:
    return Views(IMAGES, LABELS, config, stream_seed=stream_seed, fill=FILL, mixup_alpha=mixup_alpha)


def by_image(batches: list[View]) -> Tensor:
    """The images of an epoch's views in the order of the training set."""
    images, index = (torch.cat([getattr(view, name) for view in batches]) for name in ("images", "index"))
    return images[index.argsort()]


def epoch(source: Views, number: int = 0, batch_size: int = 8) -> Tensor:
    return by_image(list(source.epoch(number, batch_size)))


def test_equal_to_a_loop_over_images() -> None:
    source = views()
    draws = source.draw(3)
    for i, actual in enumerate(epoch(source, 3)):
        padded = np.pad(IMAGES[i].numpy(), ((0, 0), (2, 2), (2, 2))) / np.float32(255)
        top, left = draws.crop[i].tolist()
        image = padded[:, top : top + H, left : left + W]
        if draws.flip[i]:
            image = image[:, :, ::-1]
        image = image.copy()
        row, column = (int(centre) for centre in draws.cutout[i])
        for y in range(H):
            for x in range(W):
                if row - 1 <= y <= row + 1 and column - 1 <= x <= column + 1:
                    image[:, y, x] = FILL
        torch.testing.assert_close(actual, torch.from_numpy(image))


def test_without_augmentation_a_view_is_its_image() -> None:
    assert torch.equal(epoch(views(AugmentConfig())), IMAGES.float() / 255)


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
def test_a_view_does_not_depend_on_the_batch_size(mixup_alpha: float) -> None:
    source = views(mixup_alpha=mixup_alpha)
    assert torch.equal(epoch(source, 2, batch_size=5), epoch(source, 2, batch_size=N))


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
def test_views_repeat_and_change_with_seed_and_epoch(mixup_alpha: float) -> None:
    first = epoch(views(mixup_alpha=mixup_alpha), 1)
    assert torch.equal(first, epoch(views(mixup_alpha=mixup_alpha), 1))
    assert not torch.equal(first, epoch(views(mixup_alpha=mixup_alpha), 2))
    assert not torch.equal(first, epoch(views(mixup_alpha=mixup_alpha, stream_seed=1), 1))


def test_turning_one_kind_of_augmentation_on_leaves_the_others_as_they_were() -> None:
    plain, cut = epoch(views(dataclasses.replace(ALL, cutout=0))), epoch(views())
    fill = torch.tensor(FILL)[:, None, None]
    assert ((plain == cut) | (cut == fill)).all()
    assert 0 < (plain != cut).any(1).float().mean() <= 9 / (H * W)


@pytest.mark.parametrize("batch_size", [1, 8, 10, 36, 37, 1000])
def test_an_epoch_holds_every_image_once_in_even_batches(batch_size: int) -> None:
    source = views()
    batches = list(source.epoch(0, batch_size))
    sizes = [len(view.index) for view in batches]
    assert len(batches) == source.steps(batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    index = torch.cat([view.index for view in batches])
    assert torch.equal(index.sort().values, torch.arange(N))
    assert torch.equal(torch.cat([view.labels for view in batches]), LABELS[index])


def test_the_order_changes_with_the_epoch() -> None:
    first, second = (torch.cat([view.index for view in views().epoch(e, 8)]) for e in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
def test_images_are_channels_last_floats_from_0_to_1(mixup_alpha: float) -> None:
    for view in views(mixup_alpha=mixup_alpha).epoch(0, 8):
        assert view.images.shape == (len(view.index), C, H, W)
        assert view.images.dtype == torch.float32
        assert view.images.is_contiguous(memory_format=torch.channels_last)
        assert view.images.min() >= 0
        assert view.images.max() <= 1


def test_a_mixed_view_is_the_convex_combination_of_two_plain_ones() -> None:
    plain, source = epoch(views()), views(mixup_alpha=0.4)
    partner = source.draw(0).partner
    assert torch.equal(partner.sort().values, torch.arange(N))
    for view in source.epoch(0, 8):
        assert view.mix is not None
        mix = view.mix[:, None, None, None]
        expected = mix * plain[view.index] + (1 - mix) * plain[partner[view.index]]
        torch.testing.assert_close(view.images, expected)
        assert view.parts is not None
        for part, index in zip(view.parts, (view.index, partner[view.index]), strict=True):
            assert (part.epoch, part.parts, part.mix) == (0, None, None)
            assert torch.equal(part.index, index)
            assert torch.equal(part.labels, LABELS[index])
            assert torch.equal(part.images, plain[index])


def test_a_plain_view_has_no_partner() -> None:
    view = next(views().epoch(0, 8))
    assert view.mix is None
    assert view.parts is None


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 4.0])
def test_mixing_coefficients_follow_the_beta_distribution(alpha: float) -> None:
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    mix = beta_quantile(uniform, alpha)
    assert mix.dtype == torch.float32
    lower = slice(1000, 5000)  # the upper half, near 1, is finer than float32; it mirrors the lower
    np.testing.assert_allclose(beta.cdf(mix[lower].double(), alpha, alpha), uniform[lower], atol=1e-5)
    torch.testing.assert_close(mix.flip(0), 1 - mix, rtol=0, atol=1e-6)
    assert mix.mean().item() == pytest.approx(0.5, abs=1e-3)
    assert mix.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-2)


def test_crops_and_flips_are_uniform() -> None:
    count = 20_000
    source = Views(IMAGES[:1].expand(count, -1, -1, -1), LABELS[:1].expand(count), ALL, stream_seed=0, fill=FILL)
    draws = source.draw(0)
    places = torch.bincount((draws.crop[:, 0] * 5 + draws.crop[:, 1]), minlength=25)
    assert (places - count / 25).abs().max() < 5 * (count / 25) ** 0.5
    assert abs(draws.flip.sum().item() - count / 2) < 5 * (count / 4) ** 0.5


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AugmentConfig(crop_padding=H), f"crop_padding = {H}: must be below {H}, the size of the images"),
        (AugmentConfig(crop_padding=10**9), "crop_padding = 1000000000: must be below"),
        (AugmentConfig(cutout=H + 1), f"cutout = {H + 1}: must be at most {H}, the size of the images"),
    ],
)
def test_what_could_hide_an_image_entirely_is_refused(config: AugmentConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        views(config)
    views(AugmentConfig(crop_padding=H - 1, cutout=H)).draw(0)


@pytest.mark.parametrize("name", ["crop_padding", "cutout"])
def test_negative_pixels_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} = -1: must be at least 0"):
        AugmentConfig(**{name: -1})
