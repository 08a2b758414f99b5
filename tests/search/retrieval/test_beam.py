"""Beams: the more lists are visited, the more is found; where they hold too few leaves, all lists are visited."""

import numpy as np
import pytest

from indexer.bundles.bundle import Bundle
from search.answers.options import ModeName
from tests.conftest import unit_rows
from tests.search.conftest import MODES, WIDTH, best_of, opened


def test_a_beam_visits_what_it_is_told_to(bundle: Bundle) -> None:
    queries = unit_rows(100, WIDTH, seed=5)
    want = best_of(bundle.model, queries, 1)
    found = [(opened(bundle, "beam", probes=n).search(queries).leaf == want).mean() for n in (1, 3, 10**9)]
    assert found == sorted(found)
    assert found[0] < found[-1] == 1
    assert opened(bundle, "beam").search_facts["probes"] == bundle.beam.probes


@pytest.mark.parametrize("mode", MODES)
def test_every_leaf_can_be_asked_for_though_few_lists_are_visited(bundle: Bundle, mode: ModeName) -> None:
    options = {"beam": {"probes": 1}, "adaptive": {"probes": 1, "max_probes": 1}}.get(mode, {})
    n_leaves = bundle.model.n_leaves
    queries = unit_rows(20, WIDTH, seed=2)
    engine = opened(bundle, mode, **options)
    for probability in (True, False):
        hits = engine.search(queries, k=n_leaves, probability=probability)
        np.testing.assert_array_equal(hits.leaf, best_of(bundle.model, queries, n_leaves))
    assert hits.mode.tolist() == ["adaptive-proved" if mode == "adaptive" else mode] * 20
