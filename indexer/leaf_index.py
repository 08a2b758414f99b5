"""The leaf index: the kind of FAISS index the leaf vectors are kept in, chosen by their number, and how well it finds.

In: a scoring model. Out: `leaves.faiss` and what the manifest says of it. Inverted lists are those of the tree: the
quantiser is a level of the hierarchy, and a list holds the leaves below one of its cells, so that a search goes from
coarse to fine. A cell of that level is compared by its prefix of the leaf vector, the sum of E_l / tau_l down to it.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from indexer.faiss_index import (
    Index,
    Precision,
    flat_index,
    inverted_index,
    list_count,
    search_index,
    set_probes,
    size_bytes,
)
from indexer.scoring import ScoringModel, leaf_vectors, scores_of
from indexer.vectors import unit_rows

# Up to here one scan of everything is fast enough, and exact.
EXHAUSTIVE_LEAVES = 200_000
SPARE = 8  # candidates beyond those asked for, which are scored again in float64
_ENOUGH_RECALL = 0.999  # what the number of lists to visit is chosen for
_QUERIES = 2000


@dataclass(frozen=True, slots=True)
class IndexChoice:
    """Which kind of index to make."""

    kind: Literal["auto", "flat", "ivf"] = "auto"  # auto: flat up to EXHAUSTIVE_LEAVES
    precision: Precision = "fp32"


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """What a bundle's manifest says of its leaf index."""

    kind: str  # 'flat' or 'ivf'
    precision: str
    size_bytes: int
    quantiser_level: int | None  # of 'ivf'
    probes: int | None  # lists a search visits
    recall_at_1: float  # share of queries that get the best of all leaves
    recall_at_10: float  # share of the ten best leaves that are among the ten found
    queries: int  # that this was measured with
    measured_on: str  # 'photos' or 'cells': vectors of photos, or stand-ins made from geocells


def build_leaf_index(
    model: ScoringModel, choice: IndexChoice, *, photos: np.ndarray | None = None
) -> tuple[Index, dict[str, Any]]:
    """Make the index of a model's leaf vectors and measure its recall against a full scan.

    photos: (Q, D) float32 photo vectors to measure with; without them, `stand_ins`.
    """
    leaves = leaf_vectors(model)
    kind = choice.kind
    if kind == "auto":
        kind = "flat" if len(leaves) <= EXHAUSTIVE_LEAVES else "ivf"
    queries = stand_ins(model) if photos is None else np.ascontiguousarray(photos[:_QUERIES], np.float32)
    best = _answers(flat_index(leaves), model, queries)
    level, probes = None, None
    if kind == "flat":
        index = flat_index(leaves, choice.precision)
    else:
        index, level, probes = _lists(model, leaves, choice.precision, queries, best)
    at_1, at_10 = _recall(_answers(index, model, queries), best)
    measured_on = "cells" if photos is None else "photos"
    facts = IndexFacts(
        kind,
        choice.precision,
        size_bytes(index),
        level,
        probes,
        at_1,
        at_10,
        len(queries),
        measured_on,
    )
    return index, asdict(facts)


def tree_lists(model: ScoringModel, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists that follow the tree: one for each cell of a level that has leaves.

    Returns the list of each leaf (leaves,) int64, and the heads (M, leaf_width) float32: for each list the sum of
    lambda_l E_l / tau_l over the levels down to its cell, and the largest bias among its leaves, without which a leaf
    that only its prior makes the best would lie in a list that is never visited.
    """
    _, leaf, lists = np.unique(model.ancestors[:, level], return_index=True, return_inverse=True)
    heads = np.zeros((len(leaf), model.geocells.width))
    for above in range(level + 1):
        rows = model.geocells.vectors[above][model.ancestors[leaf, above]]
        heads += model.scales[above] * rows.astype(np.float64)
    if model.bias is not None:
        largest = np.full(len(leaf), -np.inf)
        np.maximum.at(largest, lists, model.bias)
        heads = np.concatenate([heads, largest[:, None]], axis=1)
    return lists.astype(np.int64), heads.astype(np.float32)


def stand_ins(model: ScoringModel, *, n: int = _QUERIES, seed: int = 0) -> np.ndarray:
    """Vectors in place of photos: finest geocells drawn at random, with as much noise again: (n, D) float32 unit rows.

    At a cosine of 0.7 to their cell they are about as far from it as photos are.
    """
    rng = np.random.default_rng(seed)
    cells = model.geocells.vectors[-1]
    noise = unit_rows(rng.normal(size=(n, model.geocells.width)))
    return unit_rows(cells[rng.integers(0, len(cells), n)] + noise)


def rescored(model: ScoringModel, queries: np.ndarray, leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of each query (Q, K), -1 for none, in the order of their float64 scores, equals by number.

    Returns leaves and scores, both (Q, K); -1 comes last, with a score of minus infinity.
    """
    found = leaves >= 0
    scores = np.where(found, scores_of(model, queries, np.where(found, leaves, 0)), -np.inf)
    order = np.lexsort((leaves, -scores), axis=1)
    return np.take_along_axis(leaves, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _answers(index: Index, model: ScoringModel, queries: np.ndarray, *, probes: int | None = None) -> np.ndarray:
    """The ten best leaves that an index finds: (Q, 10) int64."""
    _, found = search_index(index, model.extended(queries), min(10 + SPARE, model.n_leaves), probes=probes)
    return rescored(model, queries, found)[0][:, :10]


def _recall(found: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    shared = (found[:, :, None] == best[:, None, :]).any(axis=1)
    return float((found[:, 0] == best[:, 0]).mean()), float(shared.mean())


def _lists(
    model: ScoringModel, leaves: np.ndarray, precision: Precision, queries: np.ndarray, best: np.ndarray
) -> tuple[Index, int, int]:
    """Inverted lists of the level that needs the fewest comparisons for the recall wanted, and what was chosen."""
    fewest, chosen = np.inf, None
    for level in range(max(1, len(model.geocells.vectors) - 1)):
        lists, heads = tree_lists(model, level)
        length = len(leaves) / len(heads)  # of a list, on average
        most = min((fewest - len(heads)) / length, len(heads))  # lists to visit before another level does better
        if most < 1:
            break  # comparing the heads alone costs more than the best so far
        index = inverted_index(leaves, lists, heads, precision)
        probes = _probes_needed(index, model, queries, best, most=int(most))
        if probes is not None:
            fewest, chosen = len(heads) + probes * length, (index, level, probes)
    assert chosen is not None, "all lists of the first level find everything"
    set_probes(chosen[0], chosen[2])
    return chosen


def _probes_needed(
    index: Index, model: ScoringModel, queries: np.ndarray, best: np.ndarray, *, most: int
) -> int | None:
    """The fewest lists, doubling from one, that reach the recall wanted; None where `most` do not."""
    probes = 1
    while _recall(_answers(index, model, queries, probes=probes), best)[0] < _ENOUGH_RECALL:
        if probes == list_count(index):
            return probes  # all of them: what is still missed, few bits have lost
        if probes == most:
            return None
        probes = min(2 * probes, most)
    return probes
