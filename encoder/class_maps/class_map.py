"""The meaning of a class map: for each pixel of a photo the number of its class, 255 where there is none.

A map is a one-channel PNG: grey values of 8 bits, or the indices of a palette (whatever colours they stand for). It has
the shape of the upright photo at some scale, so that what is cut out of the photo can be cut out of its map.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from encoder.config import MAX_PIXELS
from indexer.errors import BadImage

NO_CLASS = 255

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">4x4sIIBB")  # the length of a PNG's first chunk, its name, and width, height, depth, colour
_GREY, _PALETTE = 0, 3  # how a PNG names them


def map_shape(photo_size: tuple[int, int], *, edge: int, longest: int) -> tuple[int, int]:
    """Height and width of a photo's map: the shorter edge at most `edge` pixels, the longer at most `longest`.

    photo_size: (width, height) of the upright photo, in pixels; a map is never larger.
    """
    scale = min(1.0, edge / min(photo_size), longest / max(photo_size))
    width, height = (max(1, round(scale * side)) for side in photo_size)
    return height, width


def check_fit(shape: tuple[int, int], photo_size: tuple[int, int]) -> None:
    """Raise BadImage (map_size) unless a map of (height, width) fits an upright photo of (width, height), in pixels.

    It does if their shapes differ only by scale, and by the pixel that an edge of the smaller one was rounded by.
    """
    (map_height, map_width), (width, height) = shape, photo_size
    difference = abs(map_height * width - map_width * height)
    if min(*shape, *photo_size) < 1 or difference > max(*shape, *photo_size):
        raise BadImage(
            "map_size",
            f"a class map of {map_width} x {map_height} pixels for a photo of {width} x {height} (upright); "
            "it must have the photo's shape at some scale",
        )


def decode_map(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A class map (h, w) uint8 from the bytes of a PNG; BadImage (bad_map) where it is none, or too large."""
    if not data.startswith(_SIGNATURE) or len(data) < len(_SIGNATURE) + _HEADER.size:
        raise BadImage("bad_map", "a class map is a PNG, and this is none")
    _, width, height, bits, colour = _HEADER.unpack_from(data, len(_SIGNATURE))
    # Not by Pillow's mode: it spreads grey values of 2 and 4 bits over 0 to 255, and they would name other classes.
    if not (colour == _PALETTE or (colour == _GREY and bits == 8)):
        raise BadImage(
            "bad_map",
            f"a PNG of colour type {colour} with {bits} bits; class maps are grey (type 0) with 8 bits, or have a "
            "palette (type 3)",
        )
    if width * height > max_pixels:
        raise BadImage("bad_map", f"{width} x {height} pixels; at most {max_pixels:,} are decoded")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            classes = np.array(image)
    except Exception as error:  # noqa: BLE001 (damaged files make Pillow raise nearly anything, and one is one row)
        raise BadImage("bad_map", str(error) or type(error).__name__) from None
    return checked_map(classes)


def checked_map(classes: np.ndarray) -> np.ndarray:
    """The same class map; raises BadImage (bad_map) where it is not (h, w) uint8."""
    if classes.dtype != np.uint8 or classes.ndim != 2:
        raise BadImage("bad_map", f"{classes.dtype} values of shape {classes.shape}; a class map is (h, w) uint8")
    return classes


def encode_map(classes: np.ndarray) -> bytes:
    """The PNG of a class map (h, w) uint8, without loss."""
    stream = io.BytesIO()
    # Run lengths suit areas of one value: 1.8 ms and 10.0 kB for a map of 512 x 384, where Pillow's `optimize` takes
    # 34 ms for 9.7 kB.
    Image.fromarray(classes).save(stream, "PNG", compress_type=zlib.Z_RLE)
    return stream.getvalue()
