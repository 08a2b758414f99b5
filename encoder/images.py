"""Decoding photos: what a file holds becomes an upright RGB image, or a BadImage with a short code and a reason.

Only formats photos come in are opened: others that Pillow knows run programs (EPS) or take any text for a picture.
Transparent pictures are laid on white, animations give their first frame, colour profiles are not applied (CLIP's own
preparation ignores them too). Truncated files stay errors.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 200_000_000  # a decoded photo of this size takes 600 MB
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM")

# EXIF orientation (1 to 8) -> what makes the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImage(Exception):
    """A photo that cannot be used. `code` is for tables, `reason` for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


def decode(source: Path | bytes, *, shorter_edge: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo as upright RGB. Safe to call from several threads.

    Args:
        source: a file, or a file's content.
        shorter_edge: JPEGs may be decoded at a reduced size that keeps the shorter edge at least twice this long, in
            pixels; None decodes every pixel.
        max_pixels: photos with more pixels than this are refused before they are decoded.

    Raises:
        BadImage: missing, unreadable, empty, not_an_image, too_large, truncated, damaged.
    """
    _check_file(source)
    stream = source if isinstance(source, Path) else io.BytesIO(source)
    try:
        with _pillow_set_up(max_pixels), Image.open(stream, formats=_formats()) as image:
            return _decode(image, shorter_edge, max_pixels)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise _unidentified(source) from None
    except Exception as error:  # noqa: BLE001 (damaged files make Pillow raise nearly anything, and one is one row)
        raise _explain(error) from None


def _check_file(source: Path | bytes) -> None:
    try:
        if isinstance(source, Path) and source.is_dir():
            raise BadImage("not_an_image", "this is a folder")
        size = source.stat().st_size if isinstance(source, Path) else len(source)
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage("missing", "there is no such file") from None
    except (OSError, ValueError) as error:
        raise BadImage("unreadable", str(error)) from None
    if size == 0:
        raise BadImage("empty", "the file has no bytes")


def _decode(image: Image.Image, shorter_edge: int | None, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise BadImage("too_large", f"{image.width} x {image.height} pixels; at most {max_pixels:,} are decoded")
    if shorter_edge is not None:
        _reduce_jpeg(image, shorter_edge)
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    return _rgb(image if turn is None else image.transpose(turn))


def _reduce_jpeg(image: Image.Image, shorter_edge: int) -> None:
    scale = 2 * shorter_edge / min(image.size)
    if scale < 1:
        # Does nothing for other formats; for JPEGs the size stays at or above the one asked for. Twice the final
        # size leaves the bicubic filter enough pixels to stay close to a full decode.
        image.draft("RGB", (round(scale * image.width), round(scale * image.height)))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 (broken metadata raises nearly anything, and the pixels are good)
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.mode == "LAB":
        raise BadImage("unreadable", "the colour space is LAB; save the photo as RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        # White shows what most viewers show; black would invent a night sky around cut-out objects.
        flat = Image.new("RGB", rgba.size, (255, 255, 255))
        flat.paste(rgba, mask=rgba.getchannel("A"))
        return flat
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16- and 32-bit grey: Pillow's own conversion clips at 255; the whole range is scaled down here instead.

    The largest value decides what white is where the mode does not: 1 (floats only), 255 or 65535.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # written so that NaN is refused too
        raise BadImage("unreadable", f"grey values from {low} to {high}; at most 0 to 65535 can be shown as a photo")
    if image.mode.startswith("I;16") or high > 255:
        white = 65535
    else:
        white = 1 if image.mode == "F" and high <= 1 else 255
    return Image.fromarray((values * (255.0 / white)).round().astype(np.uint8)).convert("RGB")


def _unidentified(source: Path | bytes) -> BadImage:
    prefix = source[:16] if isinstance(source, bytes) else _first_bytes(source)
    if any(Image.OPEN[name][1](prefix) is True for name in _formats()):
        return BadImage("truncated", "the file breaks off or is damaged in its header")
    return BadImage("not_an_image", f"none of the formats read here ({', '.join(FORMATS)})")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(16)


def _explain(error: Exception) -> BadImage:
    text = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return BadImage("too_large", text)
    if isinstance(error, MemoryError):
        return BadImage("too_large", "not enough memory to decode it")
    if isinstance(error, OSError) and error.errno is not None:  # from the system, not from a decoder
        return BadImage("unreadable", error.strerror or text)
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return BadImage("truncated", text)
    return BadImage("damaged", text)


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow can open."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


_lock = threading.Lock()
_limits: list[int] = []  # of the decodes in progress
_outside: int | None = None  # Pillow's limit while no decode is in progress


@contextlib.contextmanager
def _pillow_set_up(max_pixels: int) -> Iterator[None]:
    """Silence Pillow's warnings and let `max_pixels` stand in for its global limit while any photo is being decoded.

    Both are settings of the process, so the first decode makes them and the last one puts them back;
    `warnings.catch_warnings` in each thread would leave the filters of whichever thread began last.
    """
    global _outside
    with _lock:
        if not _limits:
            _outside = Image.MAX_IMAGE_PIXELS
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _limits.append(max_pixels)
        Image.MAX_IMAGE_PIXELS = _pillow_limit()
    try:
        yield
    finally:
        with _lock:
            _limits.remove(max_pixels)
            if _limits:
                Image.MAX_IMAGE_PIXELS = _pillow_limit()
            else:
                Image.MAX_IMAGE_PIXELS = _outside
                warnings.filters[:] = [entry for entry in warnings.filters if entry != _QUIET]


def _pillow_limit() -> int:
    return -(-max(_limits) // 2)  # Pillow warns above its limit and refuses above twice that
