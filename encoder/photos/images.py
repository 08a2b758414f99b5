"""Decoding photos: the bytes of an image become an upright RGB image, or a BadImage with a short code and a reason."""

import io

import numpy as np
from PIL import ExifTags, Image

from encoder.config import MAX_ASPECT, MAX_PIXELS, Resizing
from indexer.errors import BadImage
from indexer.photos.image_files import opened_image, problems_named

_STRIP = 1 << 20  # grey values of 16 or 32 bits that are made into shades at once

# EXIF orientation -> what turns the pixels upright (ImageOps.exif_transpose also rewrites metadata nobody needs here,
# and fails on metadata that is broken).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, *, shorter_edge: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo as upright RGB. Safe to call from several threads.

    Args:
        data: the file, all of it.
        shorter_edge: JPEGs may be decoded at 1/8, 1/4 or 1/2 of their size where that keeps the shorter edge at least
            twice this long, in pixels (exactly twice, where that fraction is no whole number of pixels); None decodes
            every pixel. Crops of 336 then differ from those of a full decode
            by 0.3 to 0.4 of 255 on average, and by more than 2 in 0.5 to 2 % of the values, at the sharpest edges
            (four JPEGs cut from NASA's Blue Marble).
        max_pixels: photos with more pixels than this are refused before they are decoded.

    Raises:
        BadImage: not_an_image, too_large, too_long, damaged, unreadable, no_memory.
    """
    with opened_image(data, max_pixels=max_pixels) as image:
        if max(image.size) > MAX_ASPECT * min(image.size):
            size = f"{image.width} x {image.height} pixels"
            raise BadImage("too_long", f"{size}; at most {MAX_ASPECT} times as long as wide")
        reduced = image if shorter_edge is None else _reduced_jpeg(image, shorter_edge)
        reduced.load()
        return _upright_rgb(reduced, _orientation(image))


def file_of(image: Image.Image) -> bytes:
    """The bytes of a file for an image in memory, so that it goes the way of all photos: upright RGB, without loss.

    As a BMP, which is nearly a copy: a PNG of 12 megapixels takes twelve times as long to write, and six to read.
    Raises as `decode`: what was only opened is decoded here.
    """
    stream = io.BytesIO()
    with problems_named():
        image.load()
        _upright_rgb(image, _orientation(image)).save(stream, "BMP")
    return stream.getvalue()


def _reduced_jpeg(image: Image.Image, shorter_edge: int) -> Image.Image:
    """A large JPEG at a fraction of its size, not yet decoded where that is a whole number of pixels; or the image."""
    width, height = image.size
    # Twice the final size leaves the bicubic filter enough pixels to stay close to a full decode.
    factor = next((factor for factor in (8, 4, 2) if min(width, height) >= 2 * shorter_edge * factor), None)
    if factor is None:
        return image
    drafted = image.draft("RGB", (width // factor, height // factor))  # None for other formats
    if drafted is None or drafted[1][2:] == image.size:
        return image
    # libjpeg rounds 900 / 8 up to 113 pixels, of which the last is half a pixel wide. Taken for a whole one, it would
    # move every pixel of a crop by up to half its size. Lanczos, because a bicubic filter, which comes later, would
    # blur twice: the crops are then as far from those of a full decode as with a whole fraction.
    return image.resize(Resizing(2 * shorter_edge).shape(height, width)[::-1], Image.Resampling.LANCZOS, drafted[1])


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 (broken metadata raises nearly anything, and the pixels are good)
        return 1


def _upright_rgb(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT.get(orientation)
    if turn is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        # White shows what most viewers show; black would invent a night sky around cut-out objects.
        flat = Image.new("RGB", rgba.size, (255, 255, 255))
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16- and 32-bit grey: Pillow's own conversion clips at 255; here the whole range is scaled down.

    The largest value decides what white is where the mode does not: 1 (floats only), 255 or 65535.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # written so that NaN is refused too
        raise BadImage("unreadable", f"grey values from {low} to {high}; from 0 to 65535 they can be shown as a photo")
    if image.mode.startswith("I;16") or high > 255:
        white = 65535
    else:
        white = 1 if image.mode == "F" and high <= 1 else 255
    shades = np.empty(values.shape, np.uint8)
    step = max(1, _STRIP // values.shape[1])
    for row in range(0, len(values), step):  # numbers of 8 bytes for all of a large photo would be gigabytes
        shades[row : row + step] = (values[row : row + step] * (255.0 / white)).round()
    return Image.fromarray(shades).convert("RGB")
