"""Photo vectors on disk while geocells are fitted to them: 4.7 million of 768 dims take 7.2 GB there, not in memory.

In: placed photos, a shard at a time. Out: any rows of them, in an order that depends on the photos' names alone.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np

from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from indexer.vectors.row_file import RowFile
from training.holding_out import name_keys

_STORED = np.dtype(np.float16)  # a cosine of unit vectors rounded to it errs by some 1e-5


class VectorFile:
    """Vectors of photos as geocells meet them (transformed), and the cells the photos lie in.

    A context manager. The file has no name, so that it is gone when the process is, however that ends. Rows are
    numbered in the order of a digest of their photos' names: the same photos in other shards have the same numbers.

    Args:
        batches: photos, with vectors as the encoder made them.
        geocells: that they are to meet.
        beside: the file lies on this path's disk.
    """

    def __init__(self, batches: Iterable[Placed], geocells: Geocells, *, beside: Path) -> None:
        self._file = RowFile(geocells.width, _STORED, beside=beside)
        cells, keys = [np.empty((0, len(geocells.vectors)), np.int32)], [np.empty(0, np.uint64)]
        for placed in batches:
            self._file.add(geocells.compared(placed.vectors))
            cells.append(placed.cells.astype(np.int32))
            keys.append(name_keys(placed.photo.tolist()))
        self._order = np.argsort(np.concatenate(keys), kind="stable")
        self.cells = np.concatenate(cells)[self._order]  # (N, L), the cell of each level or -1

    def __len__(self) -> int:
        return len(self.cells)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Vectors of these rows, in this order: (n, D) float32."""
        return self._file.rows(self._order[numbers])
