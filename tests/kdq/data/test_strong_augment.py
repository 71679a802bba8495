"""Resized crops and TrivialAugment against torchvision's; CutMix against its definition; all as functions of (seed,
epoch, image)."""

import warnings
from dataclasses import asdict

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv
from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op

from kdq.data.augment import AugmentConfig, Draws, View, Views
from kdq.data.boxes import ATTEMPTS, crop_boxes, cut_boxes, inside, resized_crops
from kdq.data.trivial_augment import OPERATIONS, STRENGTHS, trivial_augment
from kdq.distill.recipe import TrainConfig
from kdq.errors import UserError

N, C, H, W = 41, 3, 32, 40
IMAGES = torch.randint(0, 256, (N, C, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(N) % 5
ALL = AugmentConfig(flip=True, cutout=3, resized_crop=0.2, trivial_augment=True, cutmix=1.0)


def views(config: AugmentConfig = ALL, mixup_alpha: float = 0.0, stream_seed: int = 0) -> Views:
    return Views(IMAGES, LABELS, config, stream_seed=stream_seed, fill=(0.5,) * C, mixup_alpha=mixup_alpha)


def by_image(batches: list[View]) -> Tensor:
    images, index = (torch.cat([getattr(view, name) for view in batches]) for name in ("images", "index"))
    return images[index.argsort()]


def epoch(source: Views, number: int = 0, batch_size: int = 8) -> Tensor:
    return by_image(list(source.epoch(number, batch_size)))


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.4])
@pytest.mark.parametrize("config", [ALL, AugmentConfig(crop_padding=3, trivial_augment=True)])
def test_a_view_is_a_function_of_seed_epoch_and_image(config: AugmentConfig, mixup_alpha: float) -> None:
    source = views(config, mixup_alpha)
    first = epoch(source)
    assert torch.equal(epoch(views(config, mixup_alpha), batch_size=N), first)
    assert not torch.equal(epoch(source, 1), first)
    assert not torch.equal(epoch(views(config, mixup_alpha, stream_seed=1)), first)
    assert first.shape == (N, C, H, W)
    assert first.min() >= 0
    assert first.max() <= 1
    view = next(source.epoch(0, 8))
    assert view.images.is_contiguous(memory_format=torch.channels_last)


def test_one_more_augmentation_leaves_the_draws_of_the_others() -> None:
    plain, all_on = views(AugmentConfig(flip=True)).draw(2), views().draw(2)
    for name in ("order", "crop", "flip", "cutout", "partner"):
        assert torch.equal(getattr(plain, name), getattr(all_on, name))
    assert [plain.resized, plain.operation, plain.strength, plain.cut] == [None] * 4


class TestResizedCrop:
    def test_equal_to_torchvisions_to_rounding(self) -> None:
        boxes = views(AugmentConfig(resized_crop=0.05)).draw(0).resized
        assert boxes is not None
        found = resized_crops(IMAGES, boxes)
        for image, box, actual in zip(IMAGES, boxes.tolist(), found, strict=True):
            expected = tv.resized_crop(image, *box, size=[H, W], antialias=True)
            assert (actual.int() - expected.int()).abs().max() <= 1

    def test_a_crop_of_everything_is_the_image(self) -> None:
        assert torch.equal(resized_crops(IMAGES, torch.tensor([[0, 0, H, W]] * N)), IMAGES)

    @pytest.mark.parametrize("smallest", [0.08, 0.5, 1.0])
    def test_boxes_are_within_the_image_and_have_the_share_and_the_ratio(self, smallest: float) -> None:
        uniform = torch.rand(5000, ATTEMPTS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        top, left, height, width = crop_boxes(uniform, (60, 60), smallest).unbind(1)
        assert (top >= 0).all()
        assert (top + height <= 60).all()
        assert (left >= 0).all()
        assert (left + width <= 60).all()
        assert ((height + 0.5) * (width + 0.5) >= smallest * 3600).all()
        ratio = width / height
        assert ((ratio > 0.66) & (ratio < 1.5)).all()
        if smallest < 1:
            shares = (height * width / 3600).double()
            assert shares.std() > 0.1
            assert shares.min() < smallest + 0.05

    def test_where_no_box_fits_the_crop_is_the_whole_image(self) -> None:
        uniform = torch.full((3, ATTEMPTS, 4), 0.999, dtype=torch.float64)
        assert crop_boxes(uniform, (8, 80), 0.99).tolist() == [[0, 0, 8, 80]] * 3


class TestTrivialAugment:
    def test_operations_are_torchvisions(self) -> None:
        names = [name.replace("_", "").replace("colour", "color") for name in OPERATIONS]
        assert names == [name.lower() for name in TrivialAugmentWide()._augmentation_space(STRENGTHS)]

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("number", range(len(OPERATIONS)))
    def test_pixels_are_torchvisions(self, number: int, channels: int) -> None:
        name, (strengths, has_sign) = list(TrivialAugmentWide()._augmentation_space(STRENGTHS).items())[number]
        images = IMAGES[:3, :channels].clone()
        images[1] = images[1] // 3 + 20
        images[2] = 7
        for strength in range(STRENGTHS):
            for sign in (1, -1) if has_sign else (1,):
                value = float(strengths[strength]) * sign if strengths.ndim else 0.0
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    expected = torch.stack(
                        [_apply_op(image, name, value, InterpolationMode.NEAREST, None) for image in images]
                    )
                actual = trivial_augment(images, torch.full((3,), number), torch.full((3,), sign * strength))
                # A pixel exactly between two is rounded to either.
                assert (actual != expected).float().mean() < 0.005, (name, value)

    def test_every_operation_and_strength_is_drawn(self) -> None:
        images = torch.zeros(4000, 1, H, H, dtype=torch.uint8)
        config = AugmentConfig(trivial_augment=True)
        draws = Views(images, torch.zeros(4000, dtype=torch.int64), config, stream_seed=0, fill=(0.0,)).draw(0)
        assert draws.operation is not None
        assert draws.strength is not None
        assert set(draws.operation.tolist()) == set(range(len(OPERATIONS)))
        assert set(draws.strength.tolist()) == set(range(-STRENGTHS + 1, STRENGTHS))

    def test_small_images_are_refused(self) -> None:
        with pytest.raises(UserError, match="images have 28 pixels, but must have at least 32"):
            AugmentConfig(trivial_augment=True).check(28)


class TestCutMix:
    @staticmethod
    def drawn(source: Views) -> tuple[View, Draws]:
        draws = source.draw(0)
        return source.view(0, torch.arange(N), draws), draws

    def test_a_box_of_the_partner_replaces_its_share_of_the_image(self) -> None:
        view, draws = self.drawn(views(AugmentConfig(cutmix=1.0)))
        assert view.parts is not None
        assert view.mix is not None
        assert draws.cut is not None
        for i, (top, bottom, left, right) in enumerate(draws.cut.tolist()):
            expected = view.parts[0].images[i].clone()
            expected[:, top:bottom, left:right] = view.parts[1].images[i][:, top:bottom, left:right]
            assert torch.equal(view.images[i], expected)
            share = (bottom - top) * (right - left) / (H * W)
            assert view.mix[i].item() == pytest.approx(1 - share)
        assert torch.equal(view.parts[1].index, draws.partner)
        assert view.mix.std() > 0.1

    def test_beside_mixup_half_of_the_images_are_cut(self) -> None:
        view, draws = self.drawn(views(AugmentConfig(cutmix=1.0), mixup_alpha=0.5))
        plain, _ = self.drawn(views(AugmentConfig(), mixup_alpha=0.5))
        assert draws.cut is not None
        mixed = draws.cut[:, 0] < 0
        assert 0.2 < mixed.float().mean() < 0.8
        assert torch.equal(view.images[mixed], plain.images[mixed])
        cut, _ = self.drawn(views(AugmentConfig(cutmix=1.0)))
        assert torch.equal(view.images[~mixed], cut.images[~mixed])

    def test_boxes_are_clipped_and_of_the_share(self) -> None:
        uniform = torch.rand(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        share = torch.linspace(0, 1, 1000)
        boxes = cut_boxes(uniform, share, (64, 32))
        top, bottom, left, right = boxes.unbind(1)
        assert top.min() >= 0
        assert bottom.max() <= 64
        assert left.min() >= 0
        assert right.max() <= 32
        area = (bottom - top) * (right - left) / (64 * 32)
        assert (area <= share + 1e-6).all()
        unclipped = (top > 0) & (bottom < 64) & (left > 0) & (right < 32)
        assert ((share - area)[unclipped] < 0.1).all()
        assert torch.equal(inside(boxes, (64, 32)).sum((1, 2, 3)), (bottom - top) * (right - left))


def test_identities_of_earlier_versions_stay() -> None:
    assert AugmentConfig().identity() == {"crop_padding": 0, "flip": False, "cutout": 0}
    recipe = TrainConfig(epochs=1, batch_size=1, lr=0.1)
    assert recipe.identity()["augment"] == {"crop_padding": 0, "flip": False, "cutout": 0}
    assert ALL.identity() == asdict(ALL)
    assert ALL.unmixed.identity() == {name: value for name, value in asdict(ALL).items() if name != "cutmix"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resized_crop": -0.1}, "resized_crop = -0.1: must be a share from 0"),
        ({"resized_crop": 1.5}, "resized_crop = 1.5: must be a share"),
        ({"resized_crop": 0.5, "crop_padding": 4}, "crop_padding = 4: must be 0 with resized_crop"),
        ({"cutmix": -1.0}, "cutmix = -1.0: must be a number that is at least 0"),
        ({"cutmix": float("nan")}, "cutmix = nan: must be a number"),
    ],
)
def test_values_that_are_not_allowed_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AugmentConfig(**settings)  # type: ignore[arg-type]
