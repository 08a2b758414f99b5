"""What answers are compared with: other answers from the same model, a bound, and the order of leaves."""

from dataclasses import dataclass, replace

import numpy as np

from indexer.geo import unit_vectors
from indexer.hierarchy import Hierarchy
from indexer.scoring import ScoringModel, log_product
from search.engine import Engine

_BLOCK = 512  # queries ordered at once: bounds memory at _BLOCK x leaves scores


@dataclass(frozen=True, slots=True)
class OrderCheck:
    """Whether the search through the leaf index ranks leaves as the product of softmaxes, multiplied out, does."""

    queries: int
    leaves: int  # all of them are ranked, for each query
    differing: int  # queries for which the two orders are not the same


def check_order(engine: Engine, queries: np.ndarray) -> OrderCheck:
    """Compare the complete order of leaves of every query (Q, D) with the brute-force one."""
    model = engine.bundle.model
    differing = 0
    for begin in range(0, len(queries), _BLOCK):
        block = queries[begin : begin + _BLOCK]
        found = engine.search(block, k=model.n_leaves).leaf
        differing += int((found != brute_force_order(model, block)).any(axis=1).sum())
    return OrderCheck(len(queries), model.n_leaves, differing)


def brute_force_order(model: ScoringModel, queries: np.ndarray) -> np.ndarray:
    """Leaves from the highest product of similarities to the lowest, equals by number: (Q, leaves)."""
    scores = log_product(model, queries)
    return np.lexsort((np.broadcast_to(np.arange(model.n_leaves), scores.shape), -scores), axis=1)


def finest_level_leaves(model: ScoringModel, queries: np.ndarray) -> np.ndarray:
    """The best leaf of each query (Q, D) by the finest level's similarity alone: (Q,) int64."""
    weights = np.zeros(len(model.geocells.vectors))
    weights[-1] = 1.0
    finest = replace(model, geocells=replace(model.geocells, level_weights=weights))
    return np.asarray(log_product(finest, queries).argmax(axis=1))


def oracle_leaves(hierarchy: Hierarchy, lat_deg: np.ndarray, lng_deg: np.ndarray) -> np.ndarray:
    """The leaf that contains each point, or the one whose own point is nearest where none does: (N,) int64."""
    leaves = hierarchy.locate(lat_deg, lng_deg)[:, -1].copy()
    outside = np.flatnonzero(leaves < 0)
    points = unit_vectors(hierarchy.leaves.lat_deg, hierarchy.leaves.lng_deg)
    leaves[outside] = (unit_vectors(lat_deg[outside], lng_deg[outside]) @ points.T).argmax(axis=1)
    return leaves
