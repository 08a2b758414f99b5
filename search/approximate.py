"""Approximate hierarchical search: usually right, and never said to be exact.

An index that visits some lists, or keeps few bits, finds candidates, which are scored again in float64 from the level
vectors themselves.
"""

import numpy as np

from indexer.leaf_index import SPARE, rescored
from indexer.scoring import ScoringModel
from search.exact import Candidates


def approximate_search(
    queries: np.ndarray, *, candidates: Candidates, n_lists: int, model: ScoringModel, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """About the k best leaves of each query.

    queries: (Q, D) float32, finite. candidates: finds leaves; the spare ones, scored again, mend what few bits put in
    the wrong order. n_lists: the number of its lists, 0 if it has none. k: at most the number of leaves.
    Returns leaves (Q, k) int64 and scores v . G_r + b_r (Q, k) float64, descending; the scores are right, and a leaf
    with a higher one may be missing.
    """
    n_candidates = min(k + SPARE, model.n_leaves)
    _, leaf = candidates(queries, n_candidates)
    # The lists visited can hold fewer than k leaves; then all lists are visited.
    few = np.flatnonzero((leaf >= 0).sum(axis=1) < k)
    if few.size:
        leaf[few] = candidates(queries[few], n_candidates, probes=n_lists)[1]
    leaf, scores = rescored(model, queries, leaf)
    return leaf[:, :k], scores[:, :k]
