"""Files of images, opened and not yet decoded; whatever is wrong with one becomes a BadImage with a code and a reason.

Pillow's global settings are left alone: truncated files stay errors, and the limit on pixels is checked here.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from indexer.errors import BadImage
from indexer.photos.photo import PILLOW_MAX_PIXELS

# Formats photos come in (JPEG includes MPO). Others that Pillow knows are left out: some of them start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")


@contextlib.contextmanager
def opened_image(file: bytes | Path, *, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """A file, or all its bytes, as an image of which only the beginning was read. Safe in several threads.

    What Pillow raises of it later, inside the block, becomes a BadImage as well.

    Raises:
        BadImage: not_an_image, too_large (more pixels than `max_pixels`), damaged, no_memory.
    """
    Image.init()  # makes every format known; nothing happens the second time
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    with problems_named(), Image.open(source, formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            size = f"{image.width} x {image.height} pixels"
            raise BadImage("too_large", f"{size}; at most {max_pixels:,} are read")
        yield image


@contextlib.contextmanager
def problems_named() -> Iterator[None]:
    """Raise BadImage in place of whatever Pillow raises of a file."""
    try:
        yield
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not_an_image", f"none of the formats read here ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise BadImage("too_large", f"more than {PILLOW_MAX_PIXELS:,} pixels, which Pillow does not open") from None
    except MemoryError:  # no fault of the file
        raise BadImage("no_memory", "decoding it took more memory than there was") from None
    except Exception as error:  # noqa: BLE001 (damaged files make Pillow raise nearly anything, and one is one row)
        raise BadImage("damaged", str(error) or type(error).__name__) from None
