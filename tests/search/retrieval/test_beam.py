"""Beams: the more lists are visited, the more is found."""

from indexer.bundles.bundle import Bundle
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH, best_of, opened


def test_a_beam_visits_what_it_is_told_to(bundle: Bundle) -> None:
    queries = unit_rows(100, WIDTH, seed=5)
    want = best_of(bundle.model, queries, 1)
    found = [(opened(bundle, "beam", probes=n).search(queries).leaf == want).mean() for n in (1, 3, 10**9)]
    assert found == sorted(found)
    assert found[0] < found[-1] == 1
    assert opened(bundle, "beam").search_facts["probes"] == bundle.beam.probes
