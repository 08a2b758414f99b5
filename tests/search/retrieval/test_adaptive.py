"""Adaptive search: a proof holds, and an answer without one says so."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.bundles.bundle import Bundle
from indexer.bundles.leaf_index import list_index, stand_ins
from indexer.vectors.scoring import leaf_vectors
from search.retrieval.adaptive import PROVED, SPENT, AdaptiveSearch
from search.retrieval.found import Wanted
from search.retrieval.lists import HierarchyLists
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH, best_of, opened, small_model


def test_a_proven_answer_is_the_answer_and_an_unproven_one_says_so(bundle: Bundle) -> None:
    queries = np.concatenate([unit_rows(200, WIDTH, seed=3), stand_ins(bundle.model, n=200, seed=4)])
    want = best_of(bundle.model, queries, 1)
    shares = []
    for budget in (1, 4, 10**9):
        hits = opened(bundle, "adaptive", probes=1, max_probes=budget).search(queries)
        proved = hits.mode == PROVED
        assert set(hits.mode) <= {PROVED, SPENT}
        np.testing.assert_array_equal(hits.leaf[proved], want[proved])
        shares.append(proved.mean())
    assert shares == sorted(shares)
    assert shares[-1] == 1


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20), st.integers(1, 60))
def test_a_proof_holds_for_any_hierarchy_and_any_budget(seed: int, k: int, probes: int, more: int) -> None:
    model = small_model(seed)
    rows, queries = leaf_vectors(model), unit_rows(10, 8, seed + 99)
    lists = HierarchyLists(model, list_index(model, rows, 1), level=1, probes=1)
    searching = AdaptiveSearch(model, lists, rows, probes=probes, max_probes=probes + more)
    found = searching(queries, k, Wanted(temperature=1.0))
    proved = found.mode == PROVED
    np.testing.assert_array_equal(found.leaf[proved], best_of(model, queries, k)[proved])
    assert (np.diff(found.score) <= 0).all()
