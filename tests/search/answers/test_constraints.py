"""Regions and priors against brute force over all leaves with a mask, in every mode and kind of index."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from indexer.bundles.bundle import Bundle
from indexer.bundles.leaf_index import IndexChoice, stand_ins
from indexer.cells.hierarchy import Hierarchy
from indexer.cli import main
from indexer.earth.polygons import cell_polygons
from indexer.errors import InputError
from indexer.vectors.scoring import log_product, log_softmax
from search.__main__ import COMMANDS
from search.answers.constraints import Region, names_file
from search.answers.engine import Engine
from search.answers.options import ModeName, SearchOptions
from search.answers.recall import RecallCheck
from search.retrieval.found import Searched
from search.retrieval.lists import HierarchyLists
from tests.conftest import unit_rows
from tests.search.answers.conftest import overlapping
from tests.search.conftest import MODES, WIDTH, MakeBundle

BOX = "-30,-40,60,50"


@pytest.fixture(params=[("flat", 0.0), ("flat", 0.7), ("ivf", 0.0)], ids=lambda case: f"{case[0]}-{case[1]}")
def bundle(request: pytest.FixtureRequest, made: MakeBundle) -> Bundle:
    kind, prior = request.param
    return made(IndexChoice(kind), prior)


@pytest.mark.parametrize("mode", MODES)
def test_the_best_allowed_leaf_is_found_and_no_other(bundle: Bundle, mode: ModeName) -> None:
    probes = {} if mode == "exact" else {"probes": 10**9}
    engine = Engine(bundle, options=SearchOptions(mode=mode, region=BOX, **probes))
    allowed = overlapping(bundle.hierarchy, shapely.box(-40, -30, 50, 60))
    assert 3 < len(allowed) < bundle.model.n_leaves
    queries = unit_rows(50, WIDTH, seed=1)
    logs = log_product(bundle.model, queries)
    masked = np.full(logs.shape, -np.inf)
    masked[:, allowed] = logs[:, allowed]
    hits = engine.search(queries, k=3)
    np.testing.assert_array_equal(hits.leaf, np.argsort(-masked, axis=1, kind="stable")[:, :3])
    # A score is what it is without the region, and a probability that of a photo taken there.
    plain = Engine(bundle).search(queries, k=bundle.model.n_leaves)
    for row in range(50):
        own = plain.score[row, plain.leaf[row] == hits.leaf[row, 0]]
        assert hits.score[row, 0] == pytest.approx(own[0], rel=1e-9)
    shares = np.exp(log_softmax(logs[:, allowed]))
    np.testing.assert_allclose(hits.probability[:, 0], shares.max(axis=1), rtol=1e-4)
    assert engine.counts == ("allowed leaves" if mode == "exact" else "visited allowed leaves")
    posterior = engine.find(queries, left_out=0.0).posterior
    assert posterior is not None
    assert np.isin(posterior.leaf, allowed).all()
    assert engine.search_facts["allowed_leaves"] == len(allowed)


def test_a_beam_misses_no_region_because_others_are_nearer(bundle: Bundle) -> None:
    """Queries that belong elsewhere: the lists nearest to them hold nothing that is allowed."""
    allowed = Region(BOX, None).cells(bundle.hierarchy.leaves)
    elsewhere = np.setdiff1d(np.arange(bundle.model.n_leaves), allowed)
    queries = bundle.model.geocells.vectors[-1][elsewhere[:40]]
    hits = Engine(bundle, options=SearchOptions(mode="beam", probes=1, region=BOX)).search(queries)
    assert np.isin(hits.leaf, allowed).all()
    best = Engine(bundle, options=SearchOptions(mode="exact", region=BOX)).search(queries)
    found = Engine(bundle, options=SearchOptions(mode="beam", region=BOX)).search(queries)
    assert (found.leaf == best.leaf).mean() >= 0.95  # queries such as no list was chosen for


def test_a_beam_visits_as_many_lists_as_the_region_takes(bundle: Bundle) -> None:
    """What was chosen for all leaves says nothing of the lists of some."""
    probes = {}
    for region in (None, BOX):
        facts = Engine(bundle, options=SearchOptions(mode="beam", region=region)).search_facts
        probes[region] = facts["level"], facts["probes"]
    queries = stand_ins(bundle.model, n=200, seed=4)
    allowed = Region(BOX, None).cells(bundle.hierarchy.leaves)
    there = queries[np.isin(log_product(bundle.model, queries).argmax(axis=1), allowed)]
    best = Engine(bundle, options=SearchOptions(mode="exact", region=BOX)).search(there)
    found = Engine(bundle, options=SearchOptions(mode="beam", region=BOX)).search(there)
    assert (found.leaf == best.leaf).mean() >= 0.99
    whole = HierarchyLists.of(Searched.of(bundle))
    assert probes[None] == (whole.level, whole.probes)


def test_what_is_ruled_out_wholly_is_left_out(bundle: Bundle) -> None:
    hierarchy = bundle.hierarchy
    assert hierarchy.leaves.s2_ids is not None
    shape = shapely.box(-40, -30, 50, 60)
    inside = np.flatnonzero([shape.contains(cell) for cell in cell_polygons(hierarchy.leaves.s2_ids)])
    allowed = Region(None, BOX).cells(hierarchy.leaves)
    assert len(inside)
    np.testing.assert_array_equal(np.union1d(allowed, inside), np.arange(len(hierarchy.leaves)))
    assert not np.intersect1d(allowed, inside).size
    both = Region(BOX, "-30,-40,60,0").cells(hierarchy.leaves)
    np.testing.assert_array_equal(
        both,
        np.intersect1d(
            Region(BOX, None).cells(hierarchy.leaves),
            Region(None, "-30,-40,60,0").cells(hierarchy.leaves),
        ),
    )


def test_geojson_may_be_given_itself(bundle: Bundle, tmp_path: Path) -> None:
    text = shapely.to_geojson(shapely.box(-40, -30, 50, 60))
    file = tmp_path / "area.geojson"
    file.write_text(text)
    queries = unit_rows(30, WIDTH, seed=1)
    for option in ("region", "not_region"):
        itself, named = (
            Engine(bundle, options=SearchOptions(**{option: given})).search(queries, k=3) for given in (text, str(file))
        )
        np.testing.assert_array_equal(itself.leaf, named.leaf)
    assert (itself.leaf != Engine(bundle).search(queries, k=3).leaf).any()
    for wrong in ("{", '{"type": "Point", "coordinates": [1, 2]}', '{"a":' * 5000, '{"type": "FeatureCollection"}'):
        with pytest.raises(InputError, match="`region` GeoJSON"):
            Region(wrong, None)
    assert (names_file(" {}.json"), names_file("a.JSON"), names_file("FR")) == (False, True, False)


def test_countries_are_those_of_the_cells_names(hierarchy: Hierarchy) -> None:
    leaves = hierarchy.leaves
    codes, counts = np.unique(leaves.country, return_counts=True)
    first, second = codes[np.argsort(-counts)][:2]
    found = Region(f"{first.lower()}, {second}", None).cells(leaves)
    np.testing.assert_array_equal(found, np.flatnonzero(np.isin(leaves.country, [first, second])))
    rest = Region(None, str(first)).cells(leaves)
    np.testing.assert_array_equal(rest, np.flatnonzero(leaves.country != first))


@pytest.mark.parametrize("mode", MODES)
def test_another_prior_is_that_of_a_bundle_built_with_it(bundle: Bundle, mode: ModeName) -> None:
    queries = stand_ins(bundle.model, n=40, seed=2)
    for exponent in (0.0, 2.0):
        probes = {} if mode == "exact" else {"probes": 10**9}
        engine = Engine(bundle, options=SearchOptions(mode=mode, prior_exponent=exponent, **probes))
        model = replace(bundle.model, geocells=replace(bundle.model.geocells, prior_exponent=exponent))
        best = np.argsort(-log_product(model, queries), axis=1, kind="stable")[:, :2]
        np.testing.assert_array_equal(engine.search(queries, k=2).leaf, best)
        assert engine.search_facts["prior_exponent"] == exponent


def test_recall_is_against_exact_search_of_the_same_region(bundle: Bundle) -> None:
    recall = RecallCheck(Engine(bundle, options=SearchOptions(mode="beam", probes=10**9, region=BOX)), 30)
    recall.add(np.arange(30), unit_rows(30, WIDTH, seed=3), np.ones(30, np.int64))
    measured = recall.measure()
    assert measured is not None
    assert (measured.at_1, measured.at_10) == (1, 1)


def test_a_region_between_the_cells_is_refused(hierarchy: Hierarchy) -> None:
    rng = np.random.default_rng(0)
    lat, lng = rng.uniform(-60, 60, 500), rng.uniform(-170, 170, 500)
    row = int(np.flatnonzero(hierarchy.locate(lat, lng)[:, -1] < 0)[0])
    box = ",".join(f"{value:.9f}" for value in (lat[row], lng[row], lat[row] + 1e-6, lng[row] + 1e-6))
    with pytest.raises(InputError, match="no cell of this bundle overlaps it"):
        Region(box, None).cells(hierarchy.leaves)


def test_all_ruled_out_and_options_that_do_not_go_together_are_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="leaves no cell"):
        Region(None, "-90,-180,90,180").cells(engine.bundle.hierarchy.leaves)
    with pytest.raises(InputError, match="for comparison"):
        SearchOptions(score="cosine-affine", region="FR")
    with pytest.raises(InputError, match="calibrated for the whole Earth"):
        SearchOptions(region="FR", radii=True)
    narrow = Engine(engine.bundle, options=SearchOptions(region=BOX))
    with pytest.raises(InputError, match="finest cells in the region"):
        narrow.check_k(narrow.n_leaves + 1)


def test_run_names_the_region_and_refuses_another_in_its_folder(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = tmp_path / "r.geojson"
    shape.write_text(shapely.to_geojson(shapely.box(-40, -30, 50, 60)))
    common = ["run", "--registry", world / "R", "--photos", world / "photos.csv", "--checkpoint", world / "C"]
    given = [str(each) for each in (*common, "--out", tmp_path / "O", "--region", shape)]
    assert main("search", "test", COMMANDS, argv=[*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["search"]["region"] == str(shape)
    shape.write_text(shapely.to_geojson(shapely.box(-40, -30, 50, 61)))
    assert main("search", "test", COMMANDS, argv=given) == 2
    assert "region" in capsys.readouterr().err
