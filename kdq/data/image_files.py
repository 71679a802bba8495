"""Images in files: whatever Pillow reads, as upright pixels in a model's channel order and size."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from kdq.errors import UserError, first_line

LARGEST_PIXELS = 89_478_485
"""Pillow's default limit: a larger image is likely a decompression bomb, a small file that fills the memory."""

STUBS = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow recognises without decoding them."""

FILTER = Image.Resampling.BILINEAR
"""With antialiasing, as in torchvision's transforms."""


def read_image(path: Path, channel_order: str) -> Image.Image:
    """Return the image in a file, in the channel order "L" or "RGB", 8 bits a channel.

    Of an animated image it is the first frame; of one that its EXIF data call rotated or mirrored, what a viewer shows.
    Transparent pixels show a white background, 16-bit ones lose their low 8 bits to rounding, floating-point ones
    must be from 0 to 1. Raises UserError, without the path, for a file that holds no such image, is damaged, or has
    more than LARGEST_PIXELS pixels.
    """
    if not path.is_file():  # a pipe or a device would be waited for
        raise UserError("is no file" if path.exists() else "does not exist")
    with quiet(), opened(path) as image:
        return upright(image, channel_order)


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore Pillow's warnings: of odd metadata, and of bombs, which are refused. For all threads, as warnings are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(source: Path | BytesIO) -> Iterator[Image.Image]:
    """The image in a file or in its bytes, of which only the header has been read.

    Raises UserError, without a path, for what is no image, has too many pixels, or fails to be decoded in the block.
    """
    try:
        with Image.open(source, formats=formats()) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise UserError(_bomb(f"{image.width}x{image.height}"))
            yield image
    except UserError:
        raise
    except Image.DecompressionBombError as error:  # at twice the limit
        raise UserError(_bomb("far too many")) from error
    except UnidentifiedImageError as error:
        raise UserError("is no image that Pillow reads, or damaged") from error
    except Exception as error:  # Pillow's decoders raise almost any exception for damaged bytes
        raise UserError(f"cannot be decoded ({getattr(error, 'strerror', None) or first_line(error)})") from error


@cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the formats that it decodes itself.

    It runs programs for EPS, opens what is inside IPTC in any format (EPS too, and of any size), and only knows STUBS.
    """
    Image.init()
    return tuple(sorted({*Image.OPEN} - {"EPS", "IPTC", *STUBS}))


@cache
def suffixes() -> frozenset[str]:
    """Return the endings of the names of files in these formats, in lower case, such as ".jpg"."""
    known = formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def upright(image: Image.Image, channel_order: str) -> Image.Image:
    """Return an image just opened as its pixels, as `read_image` does."""
    return _convert(ImageOps.exif_transpose(image), channel_order)


def conversions(image: Image.Image, channel_order: str) -> list[str]:
    """Return what an image just opened loses or gains in `upright`, in words for a count of such images."""
    rotated = image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", ())]  # such as "RGB;16B" of a 16-bit PNG
    deep = image.mode == "F" or image.mode.startswith("I") or any(";16" in mode for mode in raw_modes)
    found = {
        "animated (first frame)": getattr(image, "is_animated", False),
        "rotated or mirrored by their EXIF data": rotated,
        "of more than 8 bits a channel": deep,
        "with transparency (on white)": image.has_transparency_data,
        "CMYK": image.mode == "CMYK",
        "with a palette": image.mode in ("P", "PA"),
        "grey (to RGB)": channel_order == "RGB" and is_grey(image),
    }
    return [name for name, holds in found.items() if holds]


def is_grey(image: Image.Image) -> bool:
    """Return whether an image just opened has a single channel of colour by its mode."""
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def _bomb(pixels: str) -> str:
    return f"has {pixels} pixels, at most {LARGEST_PIXELS:,} are decoded; make it smaller"


def _convert(image: Image.Image, channel_order: str) -> Image.Image:
    """Return an image of any of Pillow's modes in another, "L" or "RGB"."""
    image.load()
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # it is None only for a conversion in place
        image = converted
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours)
    return image.convert(channel_order)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a grey image of 16 or 32 bits, integer or floating-point, with 8 bits; Pillow's own conversion clips."""
    values = np.asarray(image)
    largest = 1 if image.mode == "F" else 65_535
    low, high = values.min(), values.max()
    if not 0 <= low <= high <= largest:
        raise UserError(f"has values from {low:g} to {high:g}, must be 0 to {largest}; save it with 8 bits a channel")
    return Image.fromarray(np.rint(values * (255 / largest)).astype(np.uint8))


def _crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return ImageOps.fit(image, size, FILTER)


def _stretch(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, FILTER)


def _pad(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    scale = min(size[0] / image.width, size[1] / image.height)
    if round(scale * min(image.size)) == 0:
        raise UserError(f"has {image.width}x{image.height} pixels, too narrow to be padded; crop or stretch it")
    return ImageOps.pad(image, size, FILTER)


def _keep(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size != size:
        found, wanted = (f"{width}x{height}" for width, height in (image.size, size))
        raise UserError(f"has {found} pixels, must have {wanted}; choose how to resize it")
    return image


RESIZES: dict[str, Callable[[Image.Image, tuple[int, int]], Image.Image]] = {
    "crop": _crop,
    "stretch": _stretch,
    "pad": _pad,
    "none": _keep,
}
"""How an image gets a model's size (width, height). An image that has it stays as it is.

crop: the shorter side is resized, and the centre cut out, nothing more; stretch: both
sides are resized; pad: the longer side is resized, and the rest is black; none: other sizes are refused.
"""


def resized(image: Image.Image, size: tuple[int, int], how: str) -> Tensor:
    """Return the pixels of an image, uint8 [C, height, width]. size: height and width; how: a name in RESIZES.

    Raises UserError, without a path, for an image that cannot be resized so.
    """
    pixels = np.asarray(RESIZES[how](image, (size[1], size[0])))
    return torch.from_numpy(pixels.reshape(*size, -1).transpose(2, 0, 1).copy())
