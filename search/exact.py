"""Exact hierarchical search: the leaves with the highest product of similarities, proven, in a fixed order.

One inner-product search over the leaf vectors finds candidates in float32; they are scored again in float64 from the
level vectors themselves, and the answer is taken only when the rounding error of the first scan cannot have hidden a
better leaf. Equal scores are ordered by leaf, which is S2 order.
"""

from typing import Protocol

import numpy as np

from indexer.leaf_index import SPARE, rescored
from indexer.scoring import ScoringModel

_GATHERED = 1 << 24  # numbers gathered at once while candidates are scored again: 64 MB of float32


class Candidates(Protocol):
    """Finds the best leaves by an index."""

    def __call__(self, queries: np.ndarray, n: int, *, probes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores (Q, n) float32, descending, and leaves (Q, n) int64, -1 where the index finds no more."""


def exact_search(
    queries: np.ndarray, *, candidates: Candidates, leaf_vectors: np.ndarray, model: ScoringModel, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best leaves of each query.

    queries: (Q, D) float32, finite, norm at most 1. candidates: finds the best n leaves of queries among
    all leaves, in float32. leaf_vectors: (leaves, leaf_width) float32, what it compares. k: at most their number.
    Returns leaves (Q, k) int64 and scores v . G_r + b_r (Q, k) float64, descending.
    """
    leaves = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k))
    bound = rounding_bound(model.extended(queries), leaf_vectors)
    undecided = np.arange(len(queries))
    n_candidates = min(k + SPARE, model.n_leaves)
    while undecided.size:
        block = max(1, _GATHERED // (n_candidates * queries.shape[1]))
        proven = np.empty(len(undecided), bool)
        for start in range(0, len(undecided), block):
            rows = undecided[start : start + block]
            found, leaf = candidates(queries[rows], n_candidates)
            best, score = rescored(model, queries[rows], leaf)
            leaves[rows], scores[rows] = best[:, :k], score[:, :k]
            # No leaf outside the candidates scores above their lowest float32 score, give or take the bound.
            proven[start : start + block] = scores[rows, -1] > found[:, -1] + bound[rows]
        undecided = undecided[~proven] if n_candidates < model.n_leaves else undecided[:0]
        n_candidates = min(4 * n_candidates, model.n_leaves)
    return leaves, scores


def rounding_bound(queries: np.ndarray, leaf_vectors: np.ndarray) -> np.ndarray:
    """How far a float32 score can be from its float64 value, for each query: (Q,) float64.

    A float32 inner product of D terms errs by at most D u |v| |G| in any order of summation (u = 2**-24), and rounding
    G to float32 adds u |v| |G| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    longest = float(np.sqrt(np.einsum("rd,rd->r", leaf_vectors, leaf_vectors, dtype=np.float64).max()))
    unit_roundoff = 2.0**-24
    width = queries.shape[1]
    gamma = (width + 2) * unit_roundoff / (1 - (width + 2) * unit_roundoff)
    return gamma * longest * np.linalg.norm(queries.astype(np.float64), axis=1)
