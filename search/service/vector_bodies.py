"""Vectors as the body of a request: a `.npy` file, or JSON. What they would take in memory is known before it is taken.

In: the pieces of a body, whose bytes have been let in. Out: an array (N, D) or (D,), whose rows have been let in, too.
"""

import asyncio
import io
import json
import tokenize
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np

from indexer.errors import InputError
from search.service.admission import Visit
from search.service.uploads import BadUpload, within

NPY = frozenset({"application/x-npy", "application/octet-stream"})
JSON = "application/json"
_HEADER_BYTES = 1 << 14  # of a .npy file, in which its shape stands
_NUMBER_BYTES = 32  # that a number takes in JSON at most, spaces included
_FORM = '{"vectors": [[...], ...]}'
# What numpy, and Python's own parser below it, say of headers that are none.
_NO_HEADER = (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError)


@dataclass(frozen=True, slots=True)
class VectorBody:
    """What a request may send: the width of its vectors, and how many at most."""

    width: int
    most: int

    async def read(self, pieces: AsyncIterator[bytes], content_type: str, visit: Visit) -> np.ndarray:
        """The vectors. pieces: of a body that is not too large.

        Raises:
            BadUpload: another kind of body, one that cannot be read, or too many vectors.
            InputError: vectors of another width.
            Full: there is no room for so many.
        """
        kind = content_type.partition(";")[0].strip().lower()
        if kind in NPY:
            return await self._npy(pieces, visit)
        if kind == JSON:
            return await self._json(pieces, visit)
        raise BadUpload(415, f"Send vectors as application/x-npy, or as JSON: {_FORM}.")

    async def _json(self, pieces: AsyncIterator[bytes], visit: Visit) -> np.ndarray:
        content = bytearray()
        most_numbers = self.most * (self.width + 1)
        async for piece in within(pieces, "", max_bytes=1024 + _NUMBER_BYTES * most_numbers):
            content += piece
        # Lists, texts and numbers of Python take far more memory than they do in JSON.
        lists = content.count(b"[")
        self._check_number(max(1, lists - 1))
        if content.count(b",") > most_numbers or content.count(b"{") > 1 or content.count(b'"') > 2:
            raise BadUpload(400, f"Not JSON of the form {_FORM}.")
        visit.enter(max(1, lists - 1))
        rows = await asyncio.to_thread(_json_vectors, bytes(content))
        self._check_shape(rows.shape)
        return rows

    async def _npy(self, pieces: AsyncIterator[bytes], visit: Visit) -> np.ndarray:
        content, header = bytearray(), None
        async for piece in pieces:
            content += piece
            if header is None and (header := _npy_header(bytes(content[:_HEADER_BYTES]))) is not None:
                rows = header.shape[0] if len(header.shape) == 2 else 1
                self._check_header(header)
                self._check_number(rows)
                visit.enter(rows)
            if header is None and len(content) > _HEADER_BYTES:
                break
        if header is None:
            raise BadUpload(400, "Not a .npy file of numbers.")
        size = int(np.prod(header.shape)) * header.dtype.itemsize
        if len(content) != header.begin + size:
            held = len(content) - header.begin
            raise BadUpload(400, f"Not a .npy file: {size:,} bytes of numbers should follow its header, not {held:,}.")
        numbers = np.frombuffer(content, header.dtype, offset=header.begin)
        rows_of = numbers.reshape(header.shape, order="F" if header.fortran_order else "C")
        with np.errstate(over="ignore"):  # they are not finite then, which is told
            return rows_of.astype(np.float32)

    def _check_header(self, header: "_NpyHeader") -> None:
        if header.dtype.kind not in "fiu":
            raise BadUpload(400, "Not a .npy file of numbers.")
        self._check_shape(header.shape)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) not in (1, 2) or shape[-1] != self.width:
            raise InputError(
                f"Vectors of shape {shape}; this bundle takes (n, {self.width}). Were they made by another encoder?"
            )

    def _check_number(self, rows: int) -> None:
        if not 1 <= rows <= self.most:
            status = 400 if rows < 1 else 413
            raise BadUpload(
                status, f"{rows:,} vectors: a request takes from 1 to {self.most:,}. Send several requests."
            )


@dataclass(frozen=True, slots=True)
class _NpyHeader:
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    begin: int  # of the numbers, in bytes


def _npy_header(begin: bytes) -> _NpyHeader | None:
    """What the beginning of a .npy file says of the rest; None where it is none, or not yet."""
    stream = io.BytesIO(begin)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0), (3, 0)):
            return None
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return _NpyHeader(*read(stream), stream.tell())
    except (*_NO_HEADER, tokenize.TokenError):
        return None


def _json_vectors(content: bytes) -> np.ndarray:
    try:
        given = json.loads(content)
        rows = np.array(given["vectors"] if isinstance(given, dict) else given)
        if rows.dtype.kind not in "fiu":
            raise TypeError("something in it is no number")
        with np.errstate(over="ignore"):
            return rows.astype(np.float32)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise BadUpload(400, f"Not JSON of the form {_FORM}: {type(error).__name__}, {str(error)[:200]}.") from None
