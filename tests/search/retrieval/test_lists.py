"""Lists that follow the hierarchy: all leaves of those visited, once each, and their sums; and searches of some."""

import numpy as np
import pytest
import torch

from indexer.bundles.bundle import Bundle
from indexer.bundles.faiss_index import Precision, flat_index
from indexer.bundles.leaf_index import list_index
from indexer.vectors.scoring import ScoringModel, leaf_vectors
from search.answers.engine import Engine
from search.answers.options import ModeName
from search.retrieval.found import Searched
from search.retrieval.lists import HierarchyLists
from tests.conftest import unit_rows
from tests.search.conftest import MODES, WIDTH, best_of, opened


def lists_of(model: ScoringModel, precision: Precision = "fp32", level: int = 1) -> HierarchyLists:
    return HierarchyLists(model, list_index(model, leaf_vectors(model), level, precision), level=level, probes=1)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_all_leaves_of_the_lists_are_visited_once(engine: Engine, precision: Precision) -> None:
    model = engine.bundle.model
    lists = lists_of(model, precision)
    queries = unit_rows(20, WIDTH, seed=0)
    chosen = lists.nearest(queries, 3)
    chosen[4, 1:] = -1
    chosen[5] = -1
    visited = lists.visit(queries, chosen)
    cells = np.unique(model.ancestors[:, 1], return_inverse=True)[1]
    truth = queries.astype(float) @ leaf_vectors(model).astype(float).T
    for row in range(20):
        leaf = visited.leaf[row]
        there = leaf >= 0
        want = np.flatnonzero(np.isin(cells, chosen[row][chosen[row] >= 0]))
        assert sorted(leaf[there].tolist()) == want.tolist()
        off = np.abs(visited.score[row][there].numpy() - truth[row, leaf[there].numpy()])
        assert (off <= visited.error[row].item()).all()
        assert bool(visited.score[row][~there].isinf().all())


def test_the_nearest_lists_are_those_a_beam_visits(engine: Engine) -> None:
    lists = lists_of(engine.bundle.model)
    queries = unit_rows(20, WIDTH, seed=1)
    by_beam = lists.look(queries, 5, probes=2)
    by_visit = lists.visit(queries, lists.nearest(queries, 2)).best(torch.arange(20), 5)
    np.testing.assert_array_equal(by_beam.leaf, by_visit.leaf)
    np.testing.assert_allclose(by_beam.score, by_visit.score, rtol=1e-6)


def test_more_visits_add_up(engine: Engine) -> None:
    lists = lists_of(engine.bundle.model)
    queries = unit_rows(6, WIDTH, seed=2)
    nearest = lists.nearest(queries, 4)
    rows = np.array([1, 4])
    grown = lists.visit(queries, nearest[:, :2]).more(rows, lists.visit(queries[rows], nearest[rows, 2:]))
    whole = lists.visit(queries, nearest)
    few = lists.visit(queries, nearest[:, :2])
    none = torch.empty((6, 0), dtype=torch.int64), torch.empty((6, 0), dtype=torch.float64)
    sums = [each.log_sum(*none, 2.0) for each in (grown, whole, few)]
    np.testing.assert_allclose(sums[0][rows], sums[1][rows], rtol=1e-12)
    rest = np.setdiff1d(np.arange(6), rows)
    np.testing.assert_allclose(sums[0][rest], sums[2][rest], rtol=1e-12)


def test_blocks_hold_a_bounded_number_of_leaves(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.retrieval.lists._HELD", 100)
    lists = lists_of(engine.bundle.model)
    nearest = lists.nearest(unit_rows(50, WIDTH, seed=3), 2)
    blocks = list(lists.blocks(nearest))
    assert np.concatenate([np.arange(50)[block] for block in blocks]).tolist() == list(range(50))
    for block in blocks:
        held = lists.sizes[nearest[block]].sum()
        assert held <= 100 or len(nearest[block]) == 1


def test_a_beam_that_was_not_measured_is_chosen_when_it_is_searched(bundle: Bundle) -> None:
    measured = Searched.of(bundle)
    chosen = HierarchyLists.of(Searched(bundle.model, flat_index(measured.leaf_vectors), None, "fp32"))
    assert (chosen.level, chosen.probes) == (bundle.beam.level, bundle.beam.probes)


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
