"""What answers are compared with: others from the same model, a bound, the order of leaves; and what they lose by."""

from dataclasses import dataclass, replace

import numpy as np

from indexer.bundles.faiss_index import rows_of
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import unit_vectors
from indexer.vectors.scoring import ScoringModel, log_product
from search.answers.engine import Engine
from search.retrieval.proof import float32_error

_BLOCK = 512  # queries ordered at once: bounds memory at _BLOCK x leaves scores
_FEW = 10  # answers a user might ask for
_SPREAD = 1e-3  # of a posterior, evenly over all leaves: where the true one has nothing, the loss would have no end


@dataclass(frozen=True, slots=True)
class OrderCheck:
    """Whether the search through the leaf index ranks leaves as the product of softmaxes, multiplied out, does."""

    queries: int
    leaves: int  # all of them are ranked, for each query
    differing: int  # queries for which the orders are not the same


def check_order(engine: Engine, queries: np.ndarray) -> OrderCheck:
    """Hold the engine's answers to every query (Q, D), all leaves and the first few, to the brute-force order.

    The engine scores again in float64 what the leaf index finds, and widens its search until it is sure. That can make
    up for an index with the wrong vectors, so the index's own order is checked as well.
    """
    model = engine.bundle.model
    differing = 0
    for begin in range(0, len(queries), _BLOCK):
        block = np.ascontiguousarray(queries[begin : begin + _BLOCK], np.float32)
        expected = brute_force_order(model, block)
        same = index_follows_product(engine, block)
        for k in (min(_FEW, model.n_leaves), model.n_leaves):
            same &= (engine.search(block, k=k).leaf == expected[:, :k]).all(axis=1)
        differing += int((~same).sum())
    return OrderCheck(len(queries), model.n_leaves, differing)


def index_follows_product(engine: Engine, queries: np.ndarray) -> np.ndarray:
    """Whether the leaf index alone orders all leaves as the product does, but for float32 rounding: (Q,) bool.

    queries: (Q, D) float32, contiguous.
    """
    index, model = engine.bundle.leaf_index, engine.bundle.model
    _, leaves = index.search(queries, model.n_leaves)
    products = np.take_along_axis(log_product(model, queries), leaves, axis=1)
    # By how much a leaf's product exceeds that of one ranked before it. Either's float32 score is off by the bound.
    out_of_order = (products - np.minimum.accumulate(products, axis=1)).max(axis=1)
    return np.asarray(out_of_order <= 2 * rounding_bound(queries, rows_of(index)))


def rounding_bound(queries: np.ndarray, leaf_vectors: np.ndarray) -> np.ndarray:
    """How far a float32 score can be from its float64 value, for each query: (Q,) float64."""
    longest = float(np.sqrt(np.einsum("rd,rd->r", leaf_vectors, leaf_vectors, dtype=np.float64).max()))
    return float32_error(queries.shape[1]) * longest * np.linalg.norm(queries.astype(np.float64), axis=1)


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


def leaf_losses(engine: Engine, vectors: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    """Log loss of the true leaf in nats, -log of what the posterior gives to it: (Q,) float64, NaN where there is none.

    vectors: (Q, D) float32, from the encoder. leaf: (Q,) int64, that the photo was taken in, -1 for none.
    """
    queries, losses = engine.prepared(vectors), np.full(len(vectors), np.nan)
    for begin in range(0, len(queries), _BLOCK):
        own = leaf[begin : begin + _BLOCK]
        posterior = engine.find(queries[begin : begin + _BLOCK], left_out=0.0).posterior
        assert posterior is not None, "`find` gives it"
        there = posterior.leaf == own[posterior.query]
        given = np.zeros(len(own))
        given[posterior.query[there]] = posterior.probability[there]
        loss = -np.log((1 - _SPREAD) * given + _SPREAD / engine.n_leaves)
        losses[begin : begin + _BLOCK] = np.where(own < 0, np.nan, loss)
    return losses
