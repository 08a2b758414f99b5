"""Rows of numbers on disk while something is made of them: 4.7 million of 768 float16 take 7.2 GB there, not in memory.

In: rows, some at a time. Out: any of them, in any order.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from indexer.disk.artifact import explain_unwritable


class RowFile:
    """Rows of a width. A context manager; the file has no name, so it is gone when the process is, however that ends.

    Args:
        width: numbers of a row.
        dtype: of the numbers, as they are kept.
        beside: the file lies on this path's disk.

    Raises:
        InputError: nothing can be written there.
    """

    def __init__(self, width: int, dtype: Any, *, beside: Path) -> None:
        self._width, self._dtype, self._beside = width, np.dtype(dtype), beside
        self._n_rows = 0
        with explain_unwritable(beside):
            beside.absolute().parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=beside.absolute().parent)

    def __len__(self) -> int:
        return self._n_rows

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file up, and with it the rows."""
        self._file.close()

    def add(self, rows: np.ndarray) -> None:
        """Add rows (N, width), rounded to this file's numbers."""
        with explain_unwritable(self._beside):
            self._file.write(np.ascontiguousarray(rows, self._dtype).data)
            self._file.flush()
        self._n_rows += len(rows)

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """These rows, in this order: (n, width) float32."""
        size = self._width * self._dtype.itemsize
        # Read, not mapped: the pages of a mapping count as this process's memory.
        parts = [os.pread(self._file.fileno(), size, number * size) for number in numbers.tolist()]
        return np.frombuffer(b"".join(parts), self._dtype).reshape(len(numbers), self._width).astype(np.float32)
