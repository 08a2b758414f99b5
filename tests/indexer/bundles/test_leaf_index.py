"""The leaf index: which kind is made, that its lists follow the hierarchy, that recall is measured, not promised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles import leaf_index
from indexer.bundles.faiss_index import (
    is_exact,
    list_count,
    read_index,
    rows_of,
    search_index,
    set_probes,
    stored_probes,
    write_index,
)
from indexer.bundles.leaf_index import (
    IndexChoice,
    best_of_all,
    build_leaf_index,
    hierarchy_lists,
    list_index,
    stand_ins,
)
from indexer.cells.hierarchy import Hierarchy
from indexer.vectors.scoring import ScoringModel, leaf_vectors, log_product
from tests.conftest import random_geocells, unit_rows

WIDTH = 12


@pytest.fixture(scope="module")
def model(hierarchy: Hierarchy) -> ScoringModel:
    return ScoringModel(random_geocells(hierarchy, WIDTH, seed=0), hierarchy.ancestors, hierarchy.leaves.n_photos)


def test_few_leaves_are_scanned_and_many_are_in_lists(model: ScoringModel, monkeypatch: pytest.MonkeyPatch) -> None:
    index, facts, _ = build_leaf_index(model, IndexChoice())
    assert is_exact(index)
    assert (facts.kind, facts.precision, facts.queries) == ("flat", "fp32", 2000)
    assert facts.quantiser_level is facts.probes is None
    assert facts.recall_at_1 == facts.recall_at_10 == 1
    monkeypatch.setattr(leaf_index, "EXHAUSTIVE_LEAVES", 100)
    _, facts, _ = build_leaf_index(model, IndexChoice())
    assert facts.kind == "ivf"


def test_lists_hold_the_leaves_below_a_cell_and_heads_are_its_part_of_the_score(model: ScoringModel) -> None:
    for level in range(3):
        lists, list_vectors = hierarchy_lists(model, level)
        cells = model.ancestors[:, level]
        assert len(set(zip(lists.tolist(), cells.tolist(), strict=True))) == len(list_vectors) == len(np.unique(cells))
        prefix = sum(
            model.scales[above] * model.geocells.vectors[above][model.ancestors[:, above]] for above in range(level + 1)
        )
        np.testing.assert_allclose(list_vectors[lists], prefix, rtol=1e-5)
    np.testing.assert_allclose(hierarchy_lists(model, 2)[1], leaf_vectors(model), rtol=1e-5)


def test_a_list_is_worth_as_much_as_the_most_photographed_leaf_in_it(model: ScoringModel) -> None:
    favoured = replace(model, geocells=replace(model.geocells, prior_exponent=2.0))
    assert favoured.bias is not None
    for level in range(3):
        lists, list_vectors = hierarchy_lists(favoured, level)
        np.testing.assert_array_equal(list_vectors[:, :-1], hierarchy_lists(model, level)[1])
        for number, bias in enumerate(list_vectors[:, -1]):
            assert bias == np.float32(favoured.bias[lists == number].max())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_each_kind_survives_its_file(model: ScoringModel, tmp_path: Path, kind: str, precision: str) -> None:
    index, facts, _ = build_leaf_index(model, IndexChoice(kind, precision))
    write_index(index, tmp_path / "i.faiss")
    again = read_index(tmp_path / "i.faiss")
    assert facts.size_bytes == (tmp_path / "i.faiss").stat().st_size
    queries = unit_rows(50, WIDTH, seed=1)
    np.testing.assert_array_equal(search_index(again, queries, 5)[1], search_index(index, queries, 5)[1])
    assert facts.recall_at_1 >= 0.99
    assert facts.recall_at_10 >= 0.95  # lists to visit are chosen by the best leaf alone


def test_all_lists_find_what_a_scan_finds(model: ScoringModel) -> None:
    index, facts, _ = build_leaf_index(model, IndexChoice("ivf"))
    assert facts.quantiser_level in (0, 1)
    assert 1 <= facts.probes <= list_count(index)
    scan, _, _ = build_leaf_index(model, IndexChoice("flat"))
    queries = unit_rows(100, WIDTH, seed=2)
    set_probes(index, list_count(index))
    np.testing.assert_array_equal(search_index(index, queries, 3)[1], search_index(scan, queries, 3)[1])
    few = search_index(index, queries, 200, probes=1)[1]
    assert (few == -1).any()  # one list does not hold so many
    np.testing.assert_array_equal(rows_of(scan), leaf_vectors(model))


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_beam_is_chosen_for_every_index_and_finds_what_it_was_measured_to(model: ScoringModel, kind: str) -> None:
    index, facts, beam = build_leaf_index(model, IndexChoice(kind))
    lists = list_index(model, leaf_vectors(model), beam.level)
    queries = stand_ins(model)
    best = best_of_all(model, leaf_vectors(model), queries)
    _, found = search_index(lists, queries, 1, probes=beam.probes)
    assert (found[:, 0] == best[:, 0]).mean() == pytest.approx(beam.recall_at_1, abs=1e-3)
    assert beam.recall_at_1 >= 0.999
    if beam.probes > 1:  # no more lists than that takes
        fewer = search_index(lists, queries, 1, probes=beam.probes - 1)[1]
        assert (fewer[:, 0] == best[:, 0]).mean() < 0.9995
    if kind == "ivf":
        assert (facts.quantiser_level, facts.probes) == (beam.level, beam.probes)
        assert stored_probes(index) == beam.probes


def test_the_best_of_all_leaves_are_those_of_a_scan_in_float64(model: ScoringModel) -> None:
    queries = unit_rows(300, WIDTH, seed=5)
    order = np.argsort(-log_product(model, queries), axis=1, kind="stable")
    np.testing.assert_array_equal(best_of_all(model, leaf_vectors(model), queries), order[:, :10])


def test_a_scan_finds_all_where_cells_were_split(model: ScoringModel) -> None:
    """Parts of a cell have its vector until they are fitted: some are more of the same than a search looks at."""
    parts = np.repeat(np.arange(model.n_leaves), np.tile([1, 2, 30], model.n_leaves)[: model.n_leaves])
    finest = model.geocells.vectors[-1][model.ancestors[parts, -1]]
    ancestors = np.concatenate([model.ancestors[parts, :-1], np.arange(len(parts))[:, None]], axis=1)
    geocells = replace(model.geocells, vectors=[*model.geocells.vectors[:-1], finest])
    split = ScoringModel(geocells, ancestors, np.ones(len(parts), np.int64))
    _, facts, _ = build_leaf_index(split, IndexChoice("flat"))
    assert facts.recall_at_1 == facts.recall_at_10 == 1


def test_recall_is_measured_with_photos_where_there_are_some(model: ScoringModel) -> None:
    photos = unit_rows(64, WIDTH, seed=3)
    _, facts, beam = build_leaf_index(model, IndexChoice(), photos=photos)
    assert (facts.queries, facts.measured_on) == (beam.queries, beam.measured_on) == (64, "photos")


def test_fewer_bits_take_less_room(model: ScoringModel) -> None:
    sizes = [build_leaf_index(model, IndexChoice("flat", bits))[1].size_bytes for bits in ("fp32", "fp16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_stand_ins_are_as_far_from_their_cell_as_photos_are(model: ScoringModel) -> None:
    rows = stand_ins(model, n=500)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    nearest = (rows @ model.geocells.vectors[-1].T).max(axis=1)
    assert 0.6 < np.median(nearest) < 0.9
