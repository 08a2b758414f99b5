"""Photo vectors as arrays: their checks, their unit length, their sums per cell.

Everything is streamed: a batch is some rows (N, D) and the cell of each, and what is kept has one row per cell.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from indexer.errors import InputError


def check_vectors(vectors: np.ndarray, *, width: int) -> None:
    """Raise InputError where vectors (N, D) float are not of D = width, or a row is zero or not finite."""
    if vectors.ndim != 2 or vectors.shape[1] != width:
        raise InputError(
            f"Photo vectors of shape {vectors.shape}; (photos, {width}) is needed here. "
            "Use vectors of the encoder that the others came from."
        )
    norms = _norms(vectors)  # one number a row, where a table of flags would be a quarter of the vectors' size
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if wrong.size:
        raise InputError(
            f"{wrong.size} of {len(vectors)} photo vectors are zero or not finite, the first in row {wrong[0]}. "
            "Leave out photos whose status is not 'ok', and mend or remove the others."
        )


def check_cells(cells: np.ndarray, *, rows: int, n_cells: int) -> None:
    """Raise InputError where cells are not a number for each row: (N,) integers from -1 (no cell) to n_cells - 1."""
    if cells.shape != (rows,) or not np.issubdtype(cells.dtype, np.integer):
        raise InputError(f"Cells of shape {cells.shape} and type {cells.dtype}; ({rows},) integers are needed here.")
    if rows and not (cells.min() >= -1 and cells.max() < n_cells):
        raise InputError(
            f"Cell numbers from {cells.min()} to {cells.max()}, but the cells are 0 to {n_cells - 1} (-1: none). "
            "Take them from the hierarchy that the cells belong to."
        )


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows (N, D) float scaled to norm 1: (N, D) float32. A row of zeros has no direction and stays zero."""
    norms = _norms(vectors)
    # Divided in the vectors' own type, float32 at least: twice as fast for float32 as by way of float64.
    wide = np.result_type(vectors, np.float32)
    return np.divide(vectors, np.where(norms > 0, norms, 1.0).astype(wide)[:, None]).astype(np.float32, copy=False)


def _norms(vectors: np.ndarray) -> np.ndarray:
    # Squares in float64: those of a float32 overflow from 1e20 on.
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))


@dataclass(frozen=True, slots=True, eq=False)
class CellSums:
    """Running sums of vectors per cell; `add` changes the arrays in place."""

    counts: np.ndarray  # (C,) int64
    sums: np.ndarray  # (C, D) float64

    @classmethod
    def zeros(cls, n_cells: int, width: int) -> "CellSums":
        """Sums of nothing yet."""
        return cls(np.zeros(n_cells, np.int64), np.zeros((n_cells, width)))

    def add(self, vectors: np.ndarray, cells: np.ndarray) -> None:
        """Add rows (N, D) to the sums of their cells, (N,) integers; rows of cell -1 are left out."""
        rows = np.flatnonzero(cells >= 0)
        present, slot = np.unique(cells[rows], return_inverse=True)
        # A sparse product is the fastest way measured to sum rows by group. One core, shards of 8,192 x 768, 13,000
        # cells: 565,000 rows/s; sorting and np.add.reduceat 230,000; np.add.at 21,000.
        member = csr_matrix((np.ones(len(rows)), (slot, rows)), shape=(len(present), len(vectors)))
        self.sums[present] += member @ vectors
        self.counts[present] += np.bincount(slot, minlength=len(present))
