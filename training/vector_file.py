"""Photo vectors on disk while geocells are fitted to them: 4.7 million of 768 dims take 7.2 GB there, not in memory.

In: placed photos, a shard at a time. Out: any rows of them, in an order that depends on the photos' names alone.
"""

import os
import tempfile
from pathlib import Path
from typing import Self

import numpy as np

from indexer.disk.artifact import explain_unwritable
from indexer.vectors.prototypes import Placed
from indexer.vectors.whitening import Transform
from training.holding_out import name_keys

_STORED = np.dtype(np.float16)  # a cosine of unit vectors rounded to it errs by some 1e-5


class VectorFile:
    """Vectors of photos as geocells meet them (transformed), and the cells the photos lie in.

    A context manager. The file has no name, so that it is gone when the process is, however that ends. Rows are
    numbered in the order of a digest of their photos' names: the same photos in other shards have the same numbers.

    Args:
        width: D.
        transform: what vectors pass first; None takes them as they are.
        beside: the file lies on this path's disk.
    """

    def __init__(self, width: int, *, transform: Transform | None, beside: Path) -> None:
        self._width = width
        self._transform = transform
        self._target = beside
        with explain_unwritable(beside):
            beside.absolute().parent.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=beside.absolute().parent)
        self._cells: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []
        self._order = np.empty(0, np.int64)
        self.cells = np.empty((0, 0), np.int32)  # (N, L), the cell of each level or -1

    def __len__(self) -> int:
        return len(self.cells)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, placed: Placed) -> None:
        """Append photos. `finish` comes before rows are read."""
        vectors = placed.vectors if self._transform is None else self._transform.apply(placed.vectors)
        with explain_unwritable(self._target):
            self._file.write(np.ascontiguousarray(vectors, _STORED).data)
        self._cells.append(placed.cells.astype(np.int32))
        self._keys.append(name_keys(placed.photo.tolist()))

    def finish(self) -> None:
        """Put the rows in order."""
        with explain_unwritable(self._target):
            self._file.flush()
        if self._keys:
            self._order = np.argsort(np.concatenate(self._keys), kind="stable")
            self.cells = np.concatenate(self._cells)[self._order]
        self._keys.clear()
        self._cells.clear()

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Vectors of these rows, in this order: (n, D) float32."""
        size = self._width * _STORED.itemsize
        # Read, not mapped: the pages of a mapping count as this process's memory.
        parts = [os.pread(self._file.fileno(), size, number * size) for number in self._order[numbers].tolist()]
        return np.frombuffer(b"".join(parts), _STORED).reshape(len(numbers), self._width).astype(np.float32)
