"""Decoding photos: any format Pillow opens becomes an upright RGB image, or a BadImage with a short code and a reason.

Pillow's global settings are left alone: truncated files stay errors, and the limit on pixels is checked here.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 200_000_000  # a decoded photo of this size takes 600 MB


class BadImage(Exception):
    """A photo that cannot be used. `code` is for tables, `reason` for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


def decode(path: Path, *, shorter_edge: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo as upright RGB.

    Args:
        path: the file.
        shorter_edge: JPEGs may be decoded at a reduced size that keeps the shorter edge at least this long, in pixels;
            None decodes every pixel.
        max_pixels: photos with more pixels than this are refused before they are decoded.

    Raises:
        BadImage: missing, unreadable, empty, not_an_image, too_large, truncated.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise BadImage("missing", "there is no such file") from None
    except (OSError, ValueError) as error:
        raise BadImage("unreadable", str(error)) from None
    if size == 0:
        raise BadImage("empty", "the file has no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata and Pillow's own size warning: the checks here decide
        return _decode(path, shorter_edge, max_pixels)


def _decode(path: Path, shorter_edge: int | None, max_pixels: int) -> Image.Image:
    try:
        with Image.open(path) as image:
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise BadImage(
                    "too_large", f"{image.width} x {image.height} pixels; at most {max_pixels:,} are decoded"
                )
            if shorter_edge is not None:
                _reduce_jpeg(image, shorter_edge)
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise BadImage("not_an_image", "no image format was recognised") from None
    except Image.DecompressionBombError as error:
        raise BadImage("too_large", str(error)) from None
    except IsADirectoryError:
        raise BadImage("not_an_image", "this is a folder") from None
    except PermissionError:
        raise BadImage("unreadable", "permission denied") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        # What Pillow's decoders raise on files that begin well and go wrong.
        raise BadImage("truncated", str(error) or type(error).__name__) from None


def _reduce_jpeg(image: Image.Image, shorter_edge: int) -> None:
    scale = shorter_edge / min(image.size)
    if scale < 1:
        # Does nothing for other formats; for JPEGs the size stays at or above the one asked for. Twice the final
        # size leaves the bicubic filter enough pixels to stay close to a full decode.
        image.draft("RGB", (round(2 * scale * image.width), round(2 * scale * image.height)))


def _rgb(image: Image.Image) -> Image.Image:
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
    """16- and 32-bit grey: Pillow's own conversion clips at 255; a photo uses the whole range."""
    low, high = np.asarray(image).min(), np.asarray(image).max()
    if not (low >= 0 and high <= 65535):  # written so that NaN is refused too
        raise BadImage("not_an_image", f"values from {low} to {high} are not a photo's")
    top = 65535.0 if high > 255 else 255.0
    return image.convert("F").point(lambda value: value * (255.0 / top)).convert("L").convert("RGB")
