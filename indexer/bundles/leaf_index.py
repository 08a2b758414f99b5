"""The leaf index: the kind of FAISS index the leaf vectors are kept in, chosen by their number, and how well it finds.

In: a scoring model. Out: `leaves.faiss` and what the manifest says of it. Inverted lists are those of the hierarchy:
the quantiser is one of its levels, and a list holds the leaves below one of its cells, so that a search goes from
coarse to fine. A cell of that level is compared by its prefix of the leaf vector, the sum of E_l / tau_l down to it.

Which level, and how many lists a search visits, is measured for every bundle, also where `leaves.faiss` is flat: lists
follow from level vectors and ranges alone, so a reader makes them in a moment when it searches coarse to fine, and a
bundle does not carry its leaf vectors twice.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from indexer.bundles.faiss_index import (
    Index,
    Precision,
    flat_index,
    inverted_index,
    search_index,
    set_probes,
    size_bytes,
)
from indexer.vectors.cell_sums import unit_rows
from indexer.vectors.scoring import ScoringModel, leaf_vectors, scores_of

# Up to here one scan of everything is fast enough, and exact.
EXHAUSTIVE_LEAVES = 200_000
SPARE = 8  # candidates beyond those wanted, among which float64 decides
# The share of a sample for which the list of the best leaf is visited; of other queries 0.999 are promised.
_ENOUGH_RECALL = 0.9995
_QUERIES = 2000
_SCORES = 1 << 24  # held at once while the best leaves of the sample are found: 64 MB
# A row in a list costs as much as this many list vectors: these are one product of matrices, lists are read here and
# there from memory. Measured at 768 dims on one core with AVX2: 8 to 12.
_LIST_ROW_COST = 10.0

MeasuredOn = Literal["photos", "cells"]  # vectors of photos, or stand-ins made from geocells


@dataclass(frozen=True, slots=True)
class IndexChoice:
    """Which kind of index to make."""

    kind: Literal["auto", "flat", "ivf"] = "auto"  # auto: flat up to EXHAUSTIVE_LEAVES
    precision: Precision = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRecall:
    """How much of what a full scan finds a search was measured to find."""

    recall_at_1: float  # share of queries that get the best of all leaves, or one that is its equal
    recall_at_10: float  # share of the ten best leaves that are among the ten found
    queries: int  # that this was measured with
    measured_on: MeasuredOn


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts(MeasuredRecall):
    """What a bundle's manifest says of its leaf index."""

    kind: Literal["flat", "ivf"]
    precision: Precision
    size_bytes: int
    quantiser_level: int | None  # of 'ivf'
    probes: int | None  # lists a search visits


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam(MeasuredRecall):
    """How a search goes from coarse to fine: what was chosen, and what it was measured to find."""

    level: int  # whose cells the lists are
    probes: int  # lists a search visits


def build_leaf_index(
    model: ScoringModel, choice: IndexChoice, *, photos: np.ndarray | None = None
) -> tuple[Index, IndexFacts, Beam]:
    """Make the index of a model's leaf vectors, choose lists and their number, and measure recall against a full scan.

    photos: (Q, D) float32 photo vectors to measure with; without them, `stand_ins`.
    """
    leaves = leaf_vectors(model)
    kind = choice.kind
    if kind == "auto":
        kind = "flat" if len(leaves) <= EXHAUSTIVE_LEAVES else "ivf"
    measured_on: MeasuredOn = "cells" if photos is None else "photos"
    queries = stand_ins(model) if photos is None else np.ascontiguousarray(photos[:_QUERIES], np.float32)
    best = best_of_all(model, leaves, queries)
    level, probes = choose_beam(model, queries, best[:, 0])
    lists = list_index(model, leaves, level, choice.precision if kind == "ivf" else "fp32")
    set_probes(lists, probes)
    index, found = lists, _recall(lists, model, queries, best)
    beam = Beam(level=level, probes=probes, measured_on=measured_on, **found)
    if kind == "flat":
        index = flat_index(leaves, choice.precision)
        found = _recall(index, model, queries, best)
    facts = IndexFacts(
        kind=kind,
        precision=choice.precision,
        size_bytes=size_bytes(index),
        quantiser_level=level if kind == "ivf" else None,
        probes=probes if kind == "ivf" else None,
        measured_on=measured_on,
        **found,
    )
    return index, facts, beam


def list_index(model: ScoringModel, leaves: np.ndarray, level: int, precision: Precision = "fp32") -> Index:
    """Inverted lists of a level; leaves: its model's leaf vectors."""
    lists, list_vectors = hierarchy_lists(model, level)
    return inverted_index(leaves, lists, list_vectors, precision=precision)


def choose_beam(model: ScoringModel, queries: np.ndarray, best: np.ndarray) -> tuple[int, int]:
    """The level whose lists cost the least for the recall wanted, and how many of them a search then visits.

    queries: (Q, D) float32. best: (Q,) int64, the best of all leaves for each.
    A query finds its best leaf when it visits as many lists as the list vectors that do not score below that of the
    leaf's list. So the number of lists needed is a quantile of those ranks; nothing is searched to know it.
    """
    extended = model.extended(queries)
    cheapest, chosen = np.inf, None
    for level in range(max(1, len(model.geocells.vectors) - 1)):
        lists, list_vectors = hierarchy_lists(model, level)
        rank = np.sort(_ranks(extended, list_vectors, lists[best]))
        probes = int(rank[int(np.ceil(_ENOUGH_RECALL * len(rank))) - 1])
        cost = len(list_vectors) + _LIST_ROW_COST * probes * model.n_leaves / len(list_vectors)
        if cost < cheapest:
            cheapest, chosen = cost, (level, probes)
    assert chosen is not None, "there is a level"
    return chosen


def _ranks(queries: np.ndarray, list_vectors: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many list vectors do not score below one of them, for each query: (Q,) int64; own: (Q,) int64, that one."""
    ranks = np.empty(len(queries), np.int64)
    step = max(1, _SCORES // len(list_vectors))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        scores = queries[block] @ list_vectors.T
        ranks[block] = (scores >= np.take_along_axis(scores, own[block, None], axis=1)).sum(axis=1)
    return ranks


def best_of_all(model: ScoringModel, leaves: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The ten best of all leaves, or all of fewer: (Q, 10) int64."""
    n = min(10 + SPARE, model.n_leaves)
    result = []
    step = max(1, _SCORES // len(leaves))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        scores = model.extended(block) @ leaves.T
        found = np.argpartition(scores, -n, axis=1)[:, -n:]
        result.append(rescored(model, block, found)[0][:, :10])
    return np.concatenate(result)


def hierarchy_lists(model: ScoringModel, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists that follow the hierarchy: one for each cell of a level that has leaves.

    Returns the list of each leaf (leaves,) int64, and the list vectors (M, leaf_width) float32: for each list the
    sum of lambda_l E_l / tau_l over the levels down to its cell, and the largest bias among its leaves, without which
    a leaf that only its prior makes the best would lie in a list that is never visited.
    """
    _, leaf, lists = np.unique(model.ancestors[:, level], return_index=True, return_inverse=True)
    list_vectors = np.zeros((len(leaf), model.geocells.width))
    for above in range(level + 1):
        rows = model.geocells.vectors[above][model.ancestors[leaf, above]]
        list_vectors += model.scales[above] * rows.astype(np.float64)
    if (bias := model.bias) is not None:
        largest = np.full(len(leaf), -np.inf)
        np.maximum.at(largest, lists, bias)
        list_vectors = np.concatenate([list_vectors, largest[:, None]], axis=1)
    return lists.astype(np.int64), list_vectors.astype(np.float32)


def stand_ins(model: ScoringModel, *, n: int = _QUERIES, seed: int = 0) -> np.ndarray:
    """Vectors in place of photos: finest geocells drawn at random, with as much noise again: (n, D) float32 unit rows.

    At a cosine of 0.7 to their cell they are about as far from it as photos are.
    """
    rng = np.random.default_rng(seed)
    cells = model.geocells.vectors[-1]
    noise = unit_rows(rng.normal(size=(n, model.geocells.width)))
    drawn = cells[rng.integers(0, len(cells), n)]
    return unit_rows((drawn if model.geocells.biases is None else unit_rows(drawn)) + noise)


def rescored(model: ScoringModel, queries: np.ndarray, leaves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of each query (Q, K), -1 for none, in the order of their float64 scores, equals by number.

    Returns leaves and scores, both (Q, K); -1 comes last, with a score of minus infinity.
    """
    found = leaves >= 0
    scores = np.where(found, scores_of(model, queries, np.where(found, leaves, 0)), -np.inf)
    order = np.lexsort((leaves, -scores), axis=1)
    return np.take_along_axis(leaves, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _recall(index: Index, model: ScoringModel, queries: np.ndarray, best: np.ndarray) -> dict[str, Any]:
    """What `MeasuredRecall` says of an index; best: (Q, 10) int64, the leaves it should find."""
    _, candidates = search_index(index, model.extended(queries), min(10 + SPARE, model.n_leaves))
    # By scores: of equal leaves, such as a cell that was split and not fitted since, any is as good.
    found, wanted = rescored(model, queries, candidates)[1][:, :10], scores_of(model, queries, best)
    first, shared = found[:, 0] >= wanted[:, 0], found >= wanted[:, -1:]
    return {"recall_at_1": float(first.mean()), "recall_at_10": float(shared.mean()), "queries": len(queries)}
