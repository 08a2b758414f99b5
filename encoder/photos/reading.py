"""Bytes of photos, from wherever they lie: a file or a part of one, here or at a URI; or a BadImage that says why not.

Called in worker processes and threads. fsspec keeps one file system for each process, with its connections.
"""

import errno
import io
import os
import random
import stat
import time
from collections.abc import Callable, Sequence

from PIL import Image

from encoder.photos.images import file_of
from indexer.errors import BadImage, MissingBackend
from indexer.photos.photo import FileRange
from indexer.photos.uris import SCHEMES, explained, file_system, local_path, refusal, uri_scheme

MAX_BYTES = 536_870_912  # of one photo; an uncompressed RGB file of the largest size decoded takes 534 million
_ATTEMPTS = 4  # at a photo that a store fails to give
_WAIT_S = 0.5  # before the second attempt; twice as long before each further one
_PASSING = (408, 425, 429)  # of the codes that blame who asks: too slow, too early, too often
_DRIVERS = ("aiohttp", "botocore", "aiobotocore", "s3fs", "gcsfs", "adlfs", "azure", "fsspec", "urllib3", "requests")


def read_bytes(data: FileRange | bytes | Image.Image | None, *, schemes: Sequence[str] = SCHEMES) -> bytes:
    """All bytes of a photo. schemes: of the URIs that may be read; paths without a scheme are of `file`.

    Raises:
        BadImage: missing, unreadable, empty, too_large, scheme, not_an_image (a folder), damaged (it ends too early);
            of an image in memory as `file_of`.
        MissingBackend: the package that reads this scheme is not installed.
    """
    if data is None:
        raise BadImage("missing", "no photo is named here")
    if isinstance(data, Image.Image):
        return file_of(data)
    content = data if isinstance(data, bytes) else _read(data, schemes)
    if len(content) > MAX_BYTES:
        raise BadImage("too_large", f"more than {MAX_BYTES:,} bytes")
    if not content:
        raise BadImage("empty", "the file has no bytes")
    return content


def _read(place: FileRange, schemes: Sequence[str]) -> bytes:
    reason = refusal(place.uri, schemes)
    if reason is not None:
        raise BadImage("scheme", reason)
    if place.size is not None and place.size > MAX_BYTES:
        raise _too_large(place.size)
    path = local_path(place.uri)
    try:
        content = _patiently(place) if path is None else _read_local(path, place)
    except (BadImage, MissingBackend):
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise BadImage("missing", "there is no such file") from None
    except IsADirectoryError:
        raise BadImage("not_an_image", "this is a folder") from None
    except Exception as error:  # noqa: BLE001 (each driver raises what its own libraries raise, and one is one row)
        raise BadImage("unreadable", explained(error)) from None
    if place.size is not None and len(content) != place.size:
        raise BadImage("damaged", f"{len(content):,} bytes of {place.size:,} are there")
    return content


def _read_local(path: str, place: FileRange) -> bytes:
    # Not blocking: a pipe would wait for somebody to write.
    with io.FileIO(path, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("unreadable", "this is a device or a pipe, not a file")
        size = status.st_size - place.offset if place.size is None else place.size
        if size > MAX_BYTES:
            raise _too_large(size)
        file.seek(place.offset)
        return _up_to(size, file.read)


def _patiently(place: FileRange) -> bytes:
    """Try again where a store fails to answer: of millions of requests some always do."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return _read_remote(place)
        except Exception as error:
            if not _may_pass(error):
                raise
            # Not in step with the other processes that met the same overload.
            time.sleep(_WAIT_S * 2**attempt * random.uniform(0.75, 1.25))
    return _read_remote(place)


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help. That there is no such file, and what is refused, stays so."""
    if isinstance(error, BadImage | MissingBackend | FileNotFoundError | IsADirectoryError | PermissionError):
        return False
    if "Credential" in type(error).__name__ or getattr(error, "errno", None) == errno.EINVAL:
        return False  # botocore's and azure's: there are none; and what s3fs makes of a range that a file does not have
    status = getattr(error, "status", None) or getattr(error, "code", None)  # of HTTP, as aiohttp and gcsfs have it
    if isinstance(status, int) and 400 <= status < 500:
        return status in _PASSING
    return isinstance(error, OSError | EOFError | TimeoutError) or type(error).__module__.split(".")[0] in _DRIVERS


def _read_remote(place: FileRange) -> bytes:
    system, path = file_system(place.uri)
    end = MAX_BYTES + 1 if place.size is None else place.offset + place.size
    if uri_scheme(place.uri) in ("http", "https"):
        # A web server may ignore what part is asked for and send without end, which only reading step by step notices.
        if place.size is None:
            with system.open(path, block_size=0, size=1) as stream:
                return _up_to(end, stream.read)
        with system.open(path, block_size=place.size, size=end, cache_type="none") as file:
            file.seek(place.offset)
            return bytes(file.read(place.size))
    try:
        return bytes(system.cat_file(path, start=place.offset, end=end))
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Exception:
        # Object stores refuse to give a range of nothing.
        if system.size(path) == 0:
            return b""
        raise


def _up_to(size: int, read: Callable[[int], bytes | None]) -> bytes:
    """So many bytes or all there are: raw files and sockets give what they have at hand."""
    parts, left = [], size
    while left and (part := read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _too_large(size: int) -> BadImage:
    return BadImage("too_large", f"{size:,} bytes; at most {MAX_BYTES:,} are read")
