"""What a search is opened from; answers to queries, put together and taken apart."""

import numpy as np

from indexer.bundles.bundle import Bundle
from indexer.vectors.scoring import leaf_vectors
from search.retrieval.found import ALL_LEAVES, VISITED_LEAVES, Hits, Searched, joined_hits, queries_at_once


def hits(n: int, first: int) -> Hits:
    leaf = np.arange(first, first + 2 * n).reshape(n, 2)
    return Hits(leaf, leaf * 0.5, leaf * 0.01, np.full(n, f"from {first}"))


def test_blocks_of_queries_are_joined_taken_and_replaced() -> None:
    whole = joined_hits([hits(3, 0), hits(2, 100)], 2)
    assert whole.leaf[:, 0].tolist() == [0, 2, 4, 100, 102]
    assert whole.take(np.array([4, 1])).score.tolist() == [[51, 51.5], [1, 1.5]]
    other = whole.replaced(np.array([3, 0]), hits(2, 50))
    assert other.leaf[:, 0].tolist() == [52, 2, 4, 50, 102]
    assert other.mode.tolist() == ["from 50", "from 0", "from 0", "from 50", "from 100"]
    assert joined_hits([], 2).leaf.shape == joined_hits([], 2).probability.shape == (0, 2)


def test_fewer_queries_go_together_the_more_leaves_there_are() -> None:
    assert queries_at_once(ALL_LEAVES, 1000) > queries_at_once(ALL_LEAVES, 100_000) >= 1
    assert queries_at_once(ALL_LEAVES, 10**9) == 1
    assert queries_at_once(VISITED_LEAVES, 1000) == queries_at_once(VISITED_LEAVES, 10**9)


def test_leaf_vectors_are_whole_though_the_index_keeps_fewer_bits(bundle: Bundle) -> None:
    searched = Searched.of(bundle)
    np.testing.assert_array_equal(searched.leaf_vectors, leaf_vectors(bundle.model))
    assert (searched.beam, searched.precision) == (bundle.beam, bundle.index_facts.precision)
