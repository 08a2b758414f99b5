"""Which photos of a leaf a gallery keeps: the most typical first, and none that is too like one that was kept.

Typical are photos whose vectors are near the leaf's own. Ten pictures of one scene say no more than one.
"""

import numpy as np

ALIKE_COSINE = 0.98  # above it two photos are near-duplicates; photos of one place of different days lie far below
_BLOCK = 512  # photos compared with those kept, and with one another, at once


def most_typical_first(vectors: np.ndarray, leaf_vector: np.ndarray, names: np.ndarray) -> np.ndarray:
    """The order of photos by their cosine to their leaf's vector, equals by name: (n,) int64.

    vectors: (n, D) float32 unit rows. leaf_vector: (D,) unit. names: (n,) str.
    """
    similarity = np.einsum("nd,d->n", vectors.astype(np.float64), leaf_vector.astype(np.float64))
    return np.lexsort((names.astype(str), -similarity))


def different(vectors: np.ndarray, *, settled: int = 0, limit: int | None = None) -> np.ndarray:
    """Which photos no photo kept before them is a near-duplicate of: (n,) bool.

    vectors: (n, D) float32 unit rows, in the order in which they are to be kept. settled: the first so many are kept,
    whatever they are like. limit: to keep no more than so many.
    """
    kept = np.zeros(len(vectors), bool)
    kept[:settled] = True
    chosen = np.empty_like(vectors)  # vectors of those kept
    n_chosen = settled
    chosen[:settled] = vectors[:settled]
    for begin in range(settled, len(vectors), _BLOCK):
        if limit is not None and n_chosen >= limit:
            break
        block = vectors[begin : begin + _BLOCK]
        fresh = ~((block @ chosen[:n_chosen].T) > ALIKE_COSINE).any(axis=1)
        alike = np.triu(block @ block.T > ALIKE_COSINE, 1)
        for row in np.flatnonzero(alike.any(axis=1)):
            if fresh[row]:
                fresh[alike[row]] = False
        kept[begin : begin + len(block)] = fresh
        chosen[n_chosen : n_chosen + fresh.sum()] = block[fresh]
        n_chosen += int(fresh.sum())
    if limit is not None:
        kept[np.flatnonzero(kept)[limit:]] = False
    return kept


def first_of_each(codes: np.ndarray, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """Which photos have no photo before them of the same vector and the same place: (n,) bool.

    codes: (n, S) uint8.
    """
    places = np.ascontiguousarray(np.stack([lat_deg, lng_deg], axis=1) + 0.0).view(np.uint8)  # -0.0 is 0.0
    both = np.ascontiguousarray(np.concatenate([codes, places.reshape(len(codes), -1)], axis=1))
    first = np.zeros(len(codes), bool)
    first[np.unique(both.view(np.dtype((np.void, both.shape[1])))[:, 0], return_index=True)[1]] = True
    return first
