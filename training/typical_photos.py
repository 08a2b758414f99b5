"""Which photos are most typical of each finest cell: those whose vectors are nearest to the cell's own.

Near-duplicates count once: ten photos of one scene say no more than one.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from indexer.bundles.references import references_table
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed

DUPLICATE_COSINE = 0.98  # of transformed vectors; photos of one place taken on different days lie far below
_CANDIDATES = 4  # looked at for each reference wanted


def typical_photos(batches: Iterable[Placed], geocells: Geocells, *, k: int) -> pa.Table:
    """The k most typical photos of each leaf that has photos (`indexer.bundles.references`), the most typical first.

    batches: in any order and number, with vectors as the encoder made them. Memory is the candidates: 4 * k rows of D
    float16 for each leaf.
    """
    best = {
        "leaf": np.empty(0, np.int64),
        "similarity": np.empty(0),
        "photo": np.empty(0, object),
        "lat": np.empty(0),
        "lng": np.empty(0),
        "vector": np.empty((0, geocells.width), np.float16),
    }
    for placed in batches:
        inside = placed.take(np.flatnonzero(placed.cells[:, -1] >= 0))
        vectors, leaf = geocells.compared(inside.vectors), inside.cells[:, -1]
        similarity = np.einsum("nd,nd->n", vectors, geocells.vectors[-1][leaf])
        new = (leaf, similarity, inside.photo, inside.lat_deg, inside.lng_deg, vectors.astype(np.float16))
        best = {name: np.concatenate([best[name], column]) for name, column in zip(best, new, strict=True)}
        # Equally similar photos by name, so that the order of shards changes nothing.
        order = np.lexsort((best["photo"].astype(str), -best["similarity"], best["leaf"]))
        kept = order[_rank_in_range(best["leaf"][order]) < _CANDIDATES * k]
        best = {name: column[kept] for name, column in best.items()}
    leaves = np.split(np.arange(len(best["leaf"])), np.flatnonzero(np.diff(best["leaf"])) + 1)
    kept = np.concatenate([_different(best["vector"], best["photo"], rows, k=k) for rows in leaves])
    best = {name: column[kept] for name, column in best.items()}
    rank = _rank_in_range(best["leaf"])
    return references_table(best["leaf"], rank, best["photo"], best["lat"], best["lng"], best["vector"])


def _different(vectors: np.ndarray, names: np.ndarray, rows: np.ndarray, *, k: int) -> np.ndarray:
    """Of a leaf's rows, the most typical first, the first k of which no two are near-duplicates."""
    vectors, names = vectors[rows].astype(np.float32), names[rows]
    chosen: list[int] = []
    for position in range(len(rows)):
        alike = (vectors[chosen] @ vectors[position] > DUPLICATE_COSINE) | (names[chosen] == names[position])
        if len(chosen) < k and not alike.any():
            chosen.append(position)
    return rows[chosen]


def _rank_in_range(values: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each range of equal values (N,), which are sorted."""
    return np.arange(len(values)) - np.searchsorted(values, values)
