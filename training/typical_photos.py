"""Which photos are most typical of each finest cell: those whose vectors are nearest to the cell's own.

Near-duplicates count once: ten pictures of one scene say no more than one.
"""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyarrow as pa

from indexer.bundles.references import references_table
from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed

DUPLICATE_COSINE = 0.98  # of transformed vectors; photos of one place taken on different days lie far below
_CANDIDATES = 4  # looked at for each reference wanted


def typical_photos(batches: Iterable[Placed], geocells: Geocells, *, k: int) -> pa.Table:
    """The k most typical photos of each leaf (`indexer.bundles.references`), of photos that come in batches."""
    typical = TypicalPhotos(geocells, k=k)
    for placed in batches:
        typical.add(placed)
    return typical.table()


class TypicalPhotos:
    """The most typical photos of each leaf so far; photos are added in any order and number.

    Memory is the candidates: 4 * k rows of D float16 for each leaf.
    """

    def __init__(self, geocells: Geocells, *, k: int) -> None:
        self._geocells = geocells
        self._k = k
        self._best: dict[str, np.ndarray] | None = None

    def add(self, placed: Placed) -> None:
        """Photos of one shard, their vectors as the encoder made them."""
        inside = placed.take(np.flatnonzero(placed.cells[:, -1] >= 0))
        if not len(inside.cells):
            return
        vectors = self._geocells.compared(inside.vectors)
        leaf = inside.cells[:, -1]
        new = {
            "leaf": leaf,
            "similarity": np.einsum("nd,nd->n", vectors, self._geocells.vectors[-1][leaf]),
            "photo": inside.photo,
            "lat": inside.lat_deg,
            "lng": inside.lng_deg,
            "vector": vectors.astype(np.float16),
        }
        if self._best is not None:
            new = {name: np.concatenate([self._best[name], column]) for name, column in new.items()}
        # Equally similar photos by name, so that the order of shards changes nothing.
        order = np.lexsort((new["photo"].astype(str), -new["similarity"], new["leaf"]))
        kept = order[_position_in_run(new["leaf"][order]) < _CANDIDATES * self._k]
        self._best = {name: column[kept] for name, column in new.items()}

    def table(self) -> pa.Table:
        """References of every leaf that has photos (`indexer.bundles.references`)."""
        if self._best is None:
            width = self._geocells.width
            nothing = np.empty(0)
            return references_table(nothing, nothing, nothing, nothing, nothing, np.empty((0, width)))
        best = self._best
        bounds = [*np.flatnonzero(np.diff(best["leaf"], prepend=-1)).tolist(), len(best["leaf"])]
        kept = np.concatenate([first + self._different(best, first, last) for first, last in pairwise(bounds)])
        best = {name: column[kept] for name, column in best.items()}
        rank = _position_in_run(best["leaf"])
        return references_table(best["leaf"], rank, best["photo"], best["lat"], best["lng"], best["vector"])

    def _different(self, best: dict[str, np.ndarray], first: int, last: int) -> np.ndarray:
        """Positions of a leaf's k best photos of which no two are near-duplicates, the most typical first."""
        vectors = best["vector"][first:last].astype(np.float32)
        names = best["photo"][first:last]
        chosen: list[int] = []
        for position in range(last - first):
            alike = (vectors[chosen] @ vectors[position] > DUPLICATE_COSINE) | (names[chosen] == names[position])
            if not alike.any():
                chosen.append(position)
            if len(chosen) == self._k:
                break
        return np.array(chosen)


def _position_in_run(values: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... within each run of equal values (N,)."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    lengths = np.diff(np.append(starts, len(values)))
    return np.arange(len(values)) - np.repeat(starts, lengths)
