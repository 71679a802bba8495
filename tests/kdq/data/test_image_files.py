"""One picture, a white triangle on dark grey, in every mode and format, and files that are none."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdq.data.image_files import RESIZES, read_image, resized
from kdq.errors import UserError

WIDTH, HEIGHT = 48, 32


def picture() -> Image.Image:
    """Bright above the diagonal from the upper left to the lower right corner, dark below it: no symmetry."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.where(x * HEIGHT > y * WIDTH, 250, 40).astype(np.uint8))


def _save(mode: str, name: str, **options: object) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        picture().convert("L" if mode == "P" else "RGB").convert(mode).save(folder / name, **options)
        return folder / name

    return save


def _array(scale: float, dtype: type, name: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        Image.fromarray((np.asarray(picture(), dtype=np.float64) * scale).astype(dtype)).save(folder / name)
        return folder / name

    return save


def _animated(name: str) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        more = [Image.new("L", (WIDTH, HEIGHT), 255)]
        picture().convert("RGB").save(folder / name, save_all=True, append_images=more, lossless=True)
        return folder / name

    return save


TURNS = {
    1: (),
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_90,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_270,),
}
"""Value of EXIF's Orientation -> how the picture is stored; what undoes it is said in EXIF 2.32, section 4.6.4."""


def _turned(orientation: int) -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        image = picture()
        for turn in TURNS[orientation]:
            image = image.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(folder / "turned.png", exif=exif)
        return folder / "turned.png"

    return save


def _transparent(mode: str) -> Callable[[Path], Path]:
    """The bright part is transparent black, the dark part opaque."""

    def save(folder: Path) -> Path:
        values = np.asarray(picture())
        bright = values == 250
        grey = Image.fromarray(np.where(bright, 0, values).astype(np.uint8))
        grey = grey.convert("RGB" if mode == "RGBA" else "L")
        grey.putalpha(Image.fromarray(np.where(bright, 0, 255).astype(np.uint8)))
        grey.save(folder / "transparent.png")
        return folder / "transparent.png"

    return save


def _transparent_palette(folder: Path) -> Path:
    image = picture().convert("P")
    image.save(folder / "palette.png", transparency=250)
    return folder / "palette.png"


def _lab(folder: Path) -> Path:
    values = np.asarray(picture()).astype(float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    lightness = np.rint((116 * np.cbrt(linear) - 16) * 2.55).astype(np.uint8)  # CIE 1976, of both values
    neutral = np.zeros_like(lightness)  # a = b = 0
    Image.frombytes("LAB", (WIDTH, HEIGHT), np.stack([lightness, neutral, neutral], -1).tobytes()).save(
        folder / "lab.tif"
    )
    return folder / "lab.tif"


ZOO = {
    "grey": _save("L", "grey.png"),
    "RGB": _save("RGB", "rgb.png"),
    "palette": _save("P", "palette.png"),
    "two colours": _save("1", "one.png"),
    "CMYK": _save("CMYK", "cmyk.jpg", quality=100),
    "YCbCr": _save("YCbCr", "ycbcr.jpg", quality=100),
    "grey and opaque": _save("LA", "la.png"),
    "RGBA": _save("RGBA", "rgba.png"),
    "WebP": _save("RGB", "rgb.webp", lossless=True),
    "GIF": _save("P", "p.gif"),
    "BMP": _save("RGB", "rgb.bmp"),
    "TIFF": _save("RGB", "rgb.tif", compression="tiff_lzw"),
    "JPEG 2000": _save("RGB", "rgb.jp2"),
    "PPM": _save("RGB", "rgb.ppm"),
    "ending of another format": _save("RGB", "rgb.jpg", format="PNG"),
    "no ending": _save("RGB", "image", format="PNG"),
    "16 bits": _array(257, np.uint16, "sixteen.png"),
    "16 bits in a TIFF": _array(257, np.uint16, "sixteen.tif"),
    "32 bits": _array(257, np.int32, "thirtytwo.tif"),
    "floating-point": _array(1 / 255, np.float32, "float.tif"),
    "LAB": _lab,
    "animated GIF": _animated("animated.gif"),
    "animated WebP": _animated("animated.webp"),
    "animated PNG": _animated("animated.png"),
    **{f"EXIF orientation {value}": _turned(value) for value in TURNS},
}
TRANSPARENT = {"LA": _transparent("LA"), "RGBA": _transparent("RGBA"), "P": _transparent_palette}


@pytest.mark.parametrize("channel_order", ["L", "RGB"])
@pytest.mark.parametrize("name", ZOO)
def test_it_is_the_same_picture_upright_in_every_mode_and_format(name: str, channel_order: str, tmp_path: Path) -> None:
    image = read_image(ZOO[name](tmp_path), channel_order)
    assert (image.mode, image.size) == (channel_order, (WIDTH, HEIGHT))
    values = np.asarray(image).reshape(HEIGHT, WIDTH, -1).astype(int)
    wanted = np.asarray(picture()).astype(int)[..., None]
    if name == "two colours":
        wanted = np.where(wanted == 250, 255, 0)
        assert (values == wanted).mean() > 0.7, "dithered"
    else:
        assert np.abs(values - wanted).mean() < 2


@pytest.mark.parametrize("mode", TRANSPARENT)
def test_transparent_pixels_are_white(mode: str, tmp_path: Path) -> None:
    values = np.asarray(read_image(TRANSPARENT[mode](tmp_path), "RGB"))
    assert np.array_equal(values, np.where(np.asarray(picture()) == 250, 255, 40)[..., None].repeat(3, -1))


def _png(width: int, height: int) -> bytes:
    """An image of any size whose pixels are missing."""

    def chunk(content: bytes) -> bytes:
        return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))

    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(header) + chunk(b"IDAT" + zlib.compress(b"")) + chunk(b"IEND")


def _cut(folder: Path) -> bytes:
    content = ZOO["RGB"](folder).read_bytes()
    return content[: len(content) // 2]


def _iptc(content: bytes) -> bytes:
    """A grey image of 16 x 16 pixels whose data are a file of any format: IPTC-NAA Information Interchange Model 4."""
    records = {
        (3, 60): b"\1\0",
        (3, 20): struct.pack(">I", 16),
        (3, 30): struct.pack(">I", 16),
        (3, 120): struct.pack(">I", 5),
        (8, 10): content,
        (8, 11): b"",
    }
    return b"".join(struct.pack(">BBBH", 28, *tag, len(value)) + value for tag, value in records.items())


BAD: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda folder: b"", "is no image that Pillow reads"),
    "text": (lambda folder: b"<html>not found</html>", "is no image that Pillow reads"),
    "truncated": (_cut, "cannot be decoded"),
    "EPS in an IPTC file": (
        lambda folder: _iptc(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(x) print\n%%EOF\n"),
        "is no image that Pillow reads",
    ),
    "a bomb": (lambda folder: _png(10_000, 10_000), "has 10000x10000 pixels, at most 89,478,485 are decoded"),
    "a large bomb": (lambda folder: _png(2**31 - 1, 2**31 - 1), "has far too many pixels"),
    "floating-point beyond 1": (
        lambda folder: _array(1, np.float32, "f.tif")(folder).read_bytes(),
        "has values from 40 to 250, must be 0 to 1",
    ),
    "NaN": (lambda folder: _array(float("nan"), np.float32, "f.tif")(folder).read_bytes(), "values from nan to nan"),
    "32 bits beyond 16": (
        lambda folder: _array(1000, np.int32, "i.tif")(folder).read_bytes(),
        "has values from 40000 to 250000, must be 0 to 65535",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_refused(name: str, tmp_path: Path) -> None:
    content, reason = BAD[name]
    (tmp_path / "bad").write_bytes(content(tmp_path))
    with pytest.raises(UserError, match=reason):
        read_image(tmp_path / "bad", "RGB")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "nothing", "does not exist"), (tmp_path, "is no file")):
        with pytest.raises(UserError, match=reason):
            read_image(path, "RGB")


def test_odd_exif_data_do_not_matter(tmp_path: Path) -> None:
    for odd in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xaa" * 50):
        picture().save(tmp_path / "odd.jpg", exif=odd)
        assert read_image(tmp_path / "odd.jpg", "L").size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("how", RESIZES)
@pytest.mark.parametrize("channel_order", ["L", "RGB"])
def test_an_image_of_the_models_size_keeps_its_pixels(how: str, channel_order: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(channel_order)
    pixels = resized(image, (5, 7), how)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (len(channel_order), 5, 7))
    assert np.array_equal(pixels.numpy().transpose(1, 2, 0).squeeze(), np.asarray(image))


def stripes() -> Image.Image:
    """40 x 20 pixels: 10 columns of 0, 20 of 100, 10 of 200."""
    return Image.fromarray(np.repeat(np.uint8([0, 100, 100, 200]), 10)[None].repeat(20, 0))


def test_crop_keeps_the_centre_and_stretch_all_of_it() -> None:
    cropped = resized(stripes(), (10, 10), "crop")[0]
    assert cropped[:, 1:9].unique().tolist() == [100]
    assert (cropped - 100.0).abs().max() < 20, "the filter of the outermost columns reaches beyond them"
    stretched = resized(stripes(), (10, 40), "stretch")[0]
    assert stretched[:, 0].unique().tolist() == [0]
    assert stretched[:, 20].unique().tolist() == [100]
    assert stretched[:, 39].unique().tolist() == [200]


def test_pad_keeps_all_of_it_and_adds_black() -> None:
    padded = resized(stripes().point(lambda value: value + 50), (40, 40), "pad")[0]
    assert padded[:10].unique().tolist() == padded[30:].unique().tolist() == [0]
    assert padded[10:30].unique().tolist() == [50, 150, 250]


def test_what_would_vanish_and_what_has_another_size_is_refused() -> None:
    with pytest.raises(UserError, match="has 1x5000 pixels, too narrow to be padded"):
        resized(Image.new("L", (1, 5000)), (8, 8), "pad")
    with pytest.raises(UserError, match="has 40x20 pixels, must have 40x40"):
        resized(stripes(), (40, 40), "none")
