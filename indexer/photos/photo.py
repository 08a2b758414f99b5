"""One photo as a source gives it: its name, where its bytes lie, and where it was taken if that is known."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from indexer.photos.uris import masked

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")
# Pillow itself refuses anything above this; at three bytes each it is half a gigabyte.
PILLOW_MAX_PIXELS = 178_956_970


@dataclass(frozen=True, slots=True)
class FileRange:
    """Where bytes lie: a whole file, or a part of one, such as a member of a tar. It opens nothing."""

    uri: str  # a local path, or a URI, with its credentials if it has some
    offset: int = 0
    size: int | None = None  # bytes; None: to the end of the file

    def __repr__(self) -> str:
        return f"FileRange({masked(self.uri)!r}, offset={self.offset}, size={self.size})"


@dataclass(frozen=True, slots=True)
class Photo:
    """One row of a source, or a photo in memory."""

    name: str  # text that any table can hold, with credentials masked; empty where the row names none; may repeat
    # A file's bytes, or where they lie; or an image, for who decodes in this very process. None: the row has no photo.
    data: "FileRange | bytes | Image.Image | None"
    lat_deg: float = math.nan  # NaN where unknown
    lng_deg: float = math.nan
    # A segmentation map that came with the photo: a PNG, or its values (h, w) uint8.
    class_map: "FileRange | bytes | np.ndarray | None" = None


def text_of(name: str) -> str:
    """A name as a table can hold it: bytes that are not UTF-8, which Python keeps as surrogates, become escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
