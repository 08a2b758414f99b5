"""Inverted lists in one file that FAISS opens, written list after list and read by mapping.

FAISS's own header, then its `ArrayInvertedLists`: the lists' sizes, and for each list its codes and its ids. The header
and the sizes are known last, and have a fixed length: they are written last, into the place that was left for them. Ids
are row numbers, which go up from list to list. Lists are addressed by number, so no head of a list is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from indexer.bundles.faiss_index import (
    Index,
    Precision,
    Quantiser,
    list_header,
    list_sizes,
    map_lists,
    quantiser_range,
    scalar_quantiser,
)
from indexer.errors import ArtifactError

_ID = np.dtype("<i8")


@dataclass(frozen=True, slots=True, eq=False)
class Codec:
    """How vectors are kept: 8 bits between a lowest and a highest value of each dimension, or as floats."""

    width: int
    precision: Precision
    low: np.ndarray | None  # (D,) float32, of 8 bits
    span: np.ndarray | None  # (D,) float32, how far above that the highest value is
    _quantiser: Quantiser | None  # FAISS's own, of 8 bits

    @classmethod
    def of_range(
        cls, width: int, precision: Precision, low: np.ndarray | None = None, span: np.ndarray | None = None
    ) -> Self:
        """low, span: (D,) float32, where the precision is int8."""
        if precision != "int8":
            return cls(width, precision, None, None, None)
        assert low is not None, "8 bits lie within a range"
        assert span is not None, "8 bits lie within a range"
        low, span = (np.ascontiguousarray(each, np.float32) for each in (low, span))
        return cls(width, precision, low, span, scalar_quantiser(low, span))

    @property
    def code_size(self) -> int:
        """Bytes of a vector."""
        return self.width * {"int8": 1, "fp16": 2, "fp32": 4}[self.precision]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors (N, D) float32 to codes (N, code_size) uint8; in 8 bits what lies outside the range is cut off."""
        rows = np.ascontiguousarray(vectors, np.float32)
        if not len(rows):
            return np.empty((0, self.code_size), np.uint8)
        if self._quantiser is not None:
            return self._quantiser.compute_codes(rows).reshape(len(rows), -1)
        return rows.astype("<f2" if self.precision == "fp16" else "<f4").view(np.uint8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes (N, code_size) uint8 to vectors (N, D) float32: to the last bit what FAISS makes of them."""
        rows = np.ascontiguousarray(codes)
        if not len(rows):
            return np.empty((0, self.width), np.float32)
        if self._quantiser is not None:
            return self._quantiser.decode(rows)
        return rows.view("<f2" if self.precision == "fp16" else "<f4").astype(np.float32)

    def scale(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Of 8 bits an offset and a step, (D,) float32 each: a vector is offset + step * code, but for rounding.

        A code stands for the middle of its step: the offset holds half a step.
        """
        if self.low is None or self.span is None:
            return None
        step = self.span.astype(np.float64) / 255
        return (self.low + step / 2).astype(np.float32), step.astype(np.float32)


class ListWriter:
    """A file of lists that is being written, in the order of the lists. A context manager; `end` makes it whole.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, codec: Codec, *, n_lists: int) -> None:
        self._codec = codec
        self._sizes: list[int] = []
        self._n_lists = n_lists
        self.rows = 0
        self._file = path.open("wb")
        self._file.write(self._head(np.zeros(n_lists, np.int64)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, codes: Sequence[np.ndarray]) -> None:
        """Write the next list: its codes, (N, code_size) uint8 each, one part after the other."""
        size = sum(map(len, codes))
        for part in codes:
            self._file.write(np.ascontiguousarray(part).data)
        self._file.write(np.arange(self.rows, self.rows + size, dtype=_ID).data)
        self._sizes.append(size)
        self.rows += size

    def end(self) -> np.ndarray:
        """Write the header, now that it is known; returns where each list begins: (lists + 1,) int64."""
        assert len(self._sizes) == self._n_lists, "every list is written, also those that are empty"
        sizes = np.array(self._sizes, np.int64)
        self._file.seek(0)
        self._file.write(self._head(sizes))
        self._file.flush()
        return begins_of(sizes)

    def _head(self, sizes: np.ndarray) -> bytes:
        codec = self._codec
        return list_header(sizes, codec.width, codec.precision, low=codec.low, span=codec.span)


def begins_of(sizes: np.ndarray) -> np.ndarray:
    """Where each of some lists begins, and where the last one ends: (lists + 1,) int64."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ListFile:
    """A file of lists that is mapped: nothing is read before it is looked at."""

    codec: Codec
    begins: np.ndarray  # (lists + 1,) int64: the rows of list i are begins[i] to begins[i + 1]
    _bytes: np.ndarray  # (B,) uint8, of all lists

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map a file that `ListWriter` wrote.

        Raises:
            ArtifactError: it cannot be read, is cut, or is something else.
        """
        index = map_lists(path)
        codec = _codec_of(index)
        begins = begins_of(list_sizes(index))
        content = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
        size = int(begins[-1]) * (codec.code_size + _ID.itemsize)
        if index.ntotal != begins[-1] or len(content) < size:
            raise ArtifactError(
                f"{path}: {index.ntotal} vectors in its header, {begins[-1]} in its lists. Restore it from a copy."
            )
        return cls(codec, begins, content[len(content) - size :])

    def codes(self, number: int) -> np.ndarray:
        """The codes of one list, (N, code_size) uint8: a view into the mapped file, read-only."""
        return self._part(number, int(self.begins[number]), int(self.begins[number + 1]))

    def rows(self, begin: int, end: int) -> np.ndarray:
        """The codes of some rows, whatever lists they are in: (end - begin, code_size) uint8, read-only in one list."""
        if begin >= end:
            return np.empty((0, self.codec.code_size), np.uint8)
        first, last = (int(np.searchsorted(self.begins, row, side="right")) - 1 for row in (begin, end - 1))
        parts = [
            self._part(number, max(begin, int(self.begins[number])), min(end, int(self.begins[number + 1])))
            for number in range(first, last + 1)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def pieces(self, begins: np.ndarray, ends: np.ndarray) -> list[np.ndarray]:
        """The codes of ranges of rows, each within one list: (n, code_size) uint8 each, views into the mapped file.

        begins, ends: (p,) int64.
        """
        size, numbers = self.codec.code_size, np.searchsorted(self.begins, begins, side="right") - 1
        starts = self.begins[numbers] * _ID.itemsize + begins * size  # after the ids of all lists before
        stops = starts + (ends - begins) * size
        parts = zip(starts.tolist(), stops.tolist(), strict=True)
        return [self._bytes[start:stop].reshape(-1, size) for start, stop in parts]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The codes of any rows, (n,) int64, in this order: (n, code_size) uint8."""
        if not len(rows) or (np.diff(rows) == 1).all():
            return self.rows(int(rows[0]), int(rows[-1]) + 1) if len(rows) else self.rows(0, 0)
        size, numbers = self.codec.code_size, np.searchsorted(self.begins, rows, side="right") - 1
        starts = self.begins[numbers] * _ID.itemsize + rows * size
        windows = np.lib.stride_tricks.as_strided(  # at every byte the code that could begin there
            self._bytes, (len(self._bytes) - size + 1, size), (1, 1), writeable=False
        )
        return np.asarray(windows[starts])

    def _part(self, number: int, begin: int, end: int) -> np.ndarray:
        """Rows begin to end, which are of this list."""
        size = self.codec.code_size
        start = int(self.begins[number]) * _ID.itemsize + begin * size  # after the ids of all lists before
        return self._bytes[start : start + (end - begin) * size].reshape(end - begin, size)


def _codec_of(index: Index) -> Codec:
    precision, low, span = quantiser_range(index)
    return Codec.of_range(index.d, precision, low, span)
