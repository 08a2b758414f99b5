"""A gallery in answers: which photos count, which are told, and what stays as it is without them."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.builds import build
from indexer.bundles.bundle import Bundle, open_bundle
from indexer.bundles.registry import Registry
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km, lat_lng
from indexer.errors import InputError
from indexer.vectors.prototypes import Placed
from indexer.vectors.reranker import N_PROPERTIES
from indexer.vectors.scoring import log_product
from search.answers import engine as engine_module
from search.answers.constraints import Region
from search.answers.engine import Engine
from search.answers.options import ModeName, PointName, SearchOptions
from search.answers.rows import columns_of
from search.retrieval import exact, proof
from tests.conftest import random_geocells
from tests.search.answers.test_photo_evidence import check, queries_of
from tests.search.conftest import MODES, WIDTH
from tests.search.gallery_oracle import FIT, brute_force, bundle_with_photos, calibrated, engine_with, random_reranker
from tests.search.second_device import THERE, SecondDevice


@pytest.fixture(scope="module")
def queries(photo_bundle: Bundle) -> np.ndarray:
    return queries_of(photo_bundle)


def same_answers(one: Engine, other: Engine, queries: np.ndarray, *, k: int = 3) -> None:
    first, second = (columns_of(engine.answer(queries, k=k)) for engine in (one, other))
    assert first.equals(second)


def test_lists_of_all_leaves_are_as_good_as_all_photos(photo_bundle: Bundle, queries: np.ndarray) -> None:
    lists, everything = (
        engine_with(photo_bundle, FIT, mode="exact", gallery=how).find(queries, k=3, left_out=0.0)
        for how in ("lists", "all")
    )
    assert lists.evidence is not None
    assert everything.evidence is not None
    check(lists.evidence, brute_force(photo_bundle, FIT, queries), FIT)
    np.testing.assert_array_equal(lists.hits.leaf, everything.hits.leaf)
    np.testing.assert_allclose(lists.evidence.points, everything.evidence.points, atol=1e-7)


def test_probabilities_add_up_to_how_likely_a_place_in_a_leaf_is(photo_bundle: Bundle, queries: np.ndarray) -> None:
    """More where more of the photos' weight lies in leaves; each photo looked up in all leaves is the oracle."""
    gallery, hierarchy = photo_bundle.gallery, photo_bundle.hierarchy
    assert gallery is not None
    tried = np.random.default_rng(0).uniform((-90, -180), (90, 180), (200, 2)).T
    nowhere = tried[:, hierarchy.locate(*tried)[:, -1] < 0][:, 0]
    moved = np.arange(len(gallery)) % 3 == 0
    lat, lng = (np.where(moved, deg, own) for deg, own in zip(nowhere, (gallery.lat_deg, gallery.lng_deg), strict=True))
    gallery = replace(gallery, lat_deg=lat, lng_deg=lng)
    known = calibrated(replace(photo_bundle, gallery=gallery), FIT)
    photos = known.calibrations["one"].with_photos
    assert photos is not None
    there = hierarchy.locate(gallery.lat_deg, gallery.lng_deg)[:, -1] >= 0
    assert 0.5 < there.mean() < 0.7
    of_cells = replace(known.calibrations["one"], with_photos=replace(photos, inside=0.6, in_leaves=0.7))
    engine = Engine(replace(known, calibrations={"one": of_cells}))
    found = engine.find(queries, k=len(hierarchy.leaves), left_out=0.0)
    truth = brute_force(photo_bundle, FIT, queries)
    in_leaves = truth.weight[:, there].sum(axis=1)
    assert np.ptp(in_leaves) > 0.2
    by_photos = (1 - FIT.cells) * truth.cells[:, np.bincount(gallery.leaf, minlength=engine.n_leaves) > 0].sum(axis=1)
    inside = np.minimum(0.6 * (1 - by_photos + by_photos * in_leaves / 0.7), 1)
    np.testing.assert_allclose(np.nansum(found.hits.probability, axis=1), inside, rtol=1e-5)
    hits = engine_with(known, FIT).find(queries, k=3, left_out=0.0).hits  # where it is not known, all have the same
    np.testing.assert_allclose(found.hits.probability[:, :3], inside[:, None] * hits.probability, rtol=1e-5)
    np.testing.assert_array_equal(found.hits.leaf[:, :3], hits.leaf)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_lists", [1, 6])
def test_only_photos_of_the_best_leaves_lists_count(
    photo_bundle: Bundle, queries: np.ndarray, mode: ModeName, n_lists: int
) -> None:
    """And where there is none, cells decide alone."""
    fit = replace(FIT, lists=n_lists)
    probes = {} if mode == "exact" else {"probes": 10**6}
    found = engine_with(photo_bundle, fit, mode=mode, **probes).find(queries, left_out=0.0)
    assert found.evidence is not None
    gallery = photo_bundle.gallery
    assert gallery is not None
    best = np.argsort(-log_product(photo_bundle.model, queries), axis=1, kind="stable")[:, :n_lists]
    some_without = False
    for number, query in enumerate(queries):
        truth = brute_force(photo_bundle, fit, query[None], may=np.isin(gallery.leaf, best[number]))
        own = found.evidence.near.row[number]
        assert set(own[own >= 0].tolist()) == set(truth.near[0].tolist())
        np.testing.assert_allclose(
            found.evidence.weight[number, : len(truth.near[0])], truth.weight[0, own[own >= 0]], atol=2e-5
        )
        some_without |= not found.evidence.there[number]
        assert found.evidence.there[number] == bool(truth.near[0].size)
    assert some_without == (n_lists == 1)


def test_answers_say_what_decided_and_point_at_cells_where_no_photo_did(
    photo_bundle: Bundle, queries: np.ndarray
) -> None:
    engine = engine_with(photo_bundle, replace(FIT, lists=1), mode="exact")
    answers, cells = (
        engine.answer(queries, k=2),
        engine_with(photo_bundle, FIT, mode="exact", gallery="off").answer(queries, k=2),
    )
    without = answers.evidence == "cells"
    assert 0 < without.sum() < len(queries)
    assert set(answers.evidence[~without]) == {"cells+photos (lists)"}
    np.testing.assert_array_equal(answers.hits.leaf[without], cells.hits.leaf[without])
    np.testing.assert_allclose(answers.hits.probability[without], cells.hits.probability[without], rtol=1e-5)
    np.testing.assert_array_equal(answers.at.lat_deg[without], cells.at.lat_deg[without])
    np.testing.assert_array_equal(answers.at.lng_deg[without], cells.at.lng_deg[without])
    rows = columns_of(answers).to_pylist()
    assert [not row["gallery_photo"] for row in rows] == without.tolist()
    everywhere = engine_with(photo_bundle, FIT, mode="exact", gallery="all").answer(queries, k=2)
    assert set(everywhere.evidence) == {"cells+photos (all)"}


@pytest.mark.parametrize("mode", ["auto", *MODES])
@pytest.mark.parametrize("point", [None, "medoid", "mass"])
def test_switched_off_a_gallery_changes_nothing(
    photo_bundle: Bundle, engine: Engine, queries: np.ndarray, mode: ModeName, point: str | None
) -> None:
    """The bundle of `engine` is the same without a gallery."""
    options = SearchOptions(mode=mode, point=point)  # type: ignore[arg-type]
    plain = Engine(engine.bundle, options=options)
    same_answers(Engine(photo_bundle, options=replace(options, gallery="off")), plain, queries)
    assert "gallery_photo" not in columns_of(plain.answer(queries, k=1)).column_names


def test_a_gallery_that_lost_all_photos_is_as_none(
    photo_bundle: Bundle, engine: Engine, queries: np.ndarray, tmp_path: Path
) -> None:
    own = photo_bundle.gallery
    assert own is not None
    (tmp_path / "names.txt").write_text("\n".join(own.names(np.arange(len(own)))) + "\n")
    home = Registry(tmp_path / "R")
    shutil.copytree(photo_bundle.path, home.versions_folder / photo_bundle.version)
    made = build(home.path, inherit=photo_bundle.version, gallery_remove=tmp_path / "names.txt")
    emptied = open_bundle(made.folder)
    assert emptied.gallery is not None
    assert len(emptied.gallery) == 0
    for k in (1, 3):
        answers = Engine(emptied, options=SearchOptions(mode="exact")).answer(queries, k=k)
        cells = engine.answer(queries, k=k)
        assert set(answers.evidence) == {"cells"}
        np.testing.assert_array_equal(answers.hits.leaf, cells.hits.leaf)
        np.testing.assert_allclose(answers.hits.probability, cells.hits.probability, rtol=1e-5)
        np.testing.assert_array_equal(answers.at.lat_deg, cells.at.lat_deg)
        np.testing.assert_array_equal(answers.cell_lat_deg, cells.cell_lat_deg)
    for without in (SearchOptions(gallery="all"), SearchOptions(point="density")):
        with pytest.raises(InputError, match="has no gallery, so no photos of known places"):
            Engine(emptied, options=without)


def test_the_heaviest_photos_are_told(photo_bundle: Bundle, queries: np.ndarray) -> None:
    truth, gallery = brute_force(photo_bundle, FIT, queries), photo_bundle.gallery
    assert gallery is not None
    engine = engine_with(photo_bundle, FIT, mode="exact", gallery="all", gallery_photos=4)
    rows = columns_of(engine.answer(queries, k=1)).to_pylist()
    evidence = engine.find(queries).evidence
    assert evidence is not None
    lat, lng = lat_lng(evidence.points)
    name_of = gallery.names(np.arange(len(gallery))).tolist()
    for number, row in enumerate(rows):
        own = [name_of.index(name) for name in row["gallery_photo"]]
        assert len(own) == 4
        heaviest = np.sort(truth.weight[number])[::-1][:4]
        np.testing.assert_allclose(truth.weight[number, own], heaviest, atol=2e-5)
        np.testing.assert_allclose(row["gallery_weight"], heaviest, atol=2e-5)
        np.testing.assert_array_equal(row["gallery_lat"], gallery.lat_deg[own])
        np.testing.assert_array_equal(row["gallery_lng"], gallery.lng_deg[own])
        vectors = np.stack([gallery.vectors(each, each + 1)[0] for each in own]).astype(np.float64)
        np.testing.assert_allclose(row["gallery_cosine"], vectors @ queries[number], atol=1e-5)
        assert haversine_km(row["lat"], row["lng"], lat[number], lng[number]) < 1e-6


def test_cosines_of_albums_are_of_unit_vectors(photo_bundle: Bundle, queries: np.ndarray) -> None:
    one, four = (
        engine_with(photo_bundle, FIT, mode="exact", gallery="all").answer(
            times * queries, k=1, n_photos=np.full(len(queries), times)
        )
        for times in (1, 4)
    )
    assert one.photos is not None
    assert four.photos is not None
    assert np.nanmax(four.photos.cosine) <= 1 + 1e-6
    same = one.photos.photo[:, 0] == four.photos.photo[:, 0]
    np.testing.assert_allclose(four.photos.cosine[same, 0], one.photos.cosine[same, 0], atol=1e-5)


@pytest.mark.parametrize("n", [0, 10**5])
def test_none_or_all_photos_may_be_told(photo_bundle: Bundle, queries: np.ndarray, n: int) -> None:
    answers = engine_with(photo_bundle, FIT, mode="exact", gallery_photos=n).answer(queries, k=1)
    rows = columns_of(answers).to_pylist()
    assert {len(row["gallery_photo"]) for row in rows} == {min(n, FIT.near)}
    if n:
        np.testing.assert_allclose([sum(row["gallery_weight"]) for row in rows], 1, atol=1e-6)


def test_top_places_are_the_densest_photos_of_their_leaves(photo_bundle: Bundle, queries: np.ndarray) -> None:
    truth, gallery, leaves = (
        brute_force(photo_bundle, FIT, queries),
        photo_bundle.gallery,
        photo_bundle.hierarchy.leaves,
    )
    assert gallery is not None
    answers = engine_with(photo_bundle, FIT, mode="exact", gallery="all").answer(queries, k=4)
    seen = set()
    for number in range(len(queries)):
        for place, leaf in enumerate(answers.hits.leaf[number].tolist()):
            own = truth.near[number][gallery.leaf[truth.near[number]] == leaf]
            at = answers.cell_lat_deg[number, place], answers.cell_lng_deg[number, place]
            seen.add(own.size > 0)
            if not own.size:
                assert at == (leaves.lat_deg[leaf], leaves.lng_deg[leaf])
                continue
            density = truth.density(number, truth._places[own], pointing=True)
            best = [(gallery.lat_deg[row], gallery.lng_deg[row]) for row in own[density >= density.max() * (1 - 1e-6)]]
            assert at in best
    assert seen == {True, False}


def test_the_leaf_of_a_point_is_named_where_it_lies_in_one(photo_bundle: Bundle, queries: np.ndarray) -> None:
    hierarchy = photo_bundle.hierarchy
    table = columns_of(engine_with(photo_bundle, FIT, mode="exact").answer(queries, k=1)).to_pylist()
    leaf = hierarchy.locate(np.array([row["lat"] for row in table]), np.array([row["lng"] for row in table]))[:, -1]
    expected = [None if each < 0 else hierarchy.leaves.keys[each] for each in leaf]
    assert [row["point_key"] for row in table] == expected
    assert any(row["point_key"] != row["key"] for row in table)


def test_cells_that_are_labels_have_no_borders_for_a_point_to_lie_in(photo_bundle: Bundle, queries: np.ndarray) -> None:
    tree = photo_bundle.hierarchy
    labels = replace(tree, levels=tuple(replace(level, s2_ids=None) for level in tree.levels))
    bundle = replace(photo_bundle, hierarchy=labels)
    answers, usual = (engine_with(each, FIT, mode="exact").answer(queries, k=2) for each in (bundle, photo_bundle))
    table = columns_of(answers)
    assert table["point_key"].null_count == len(queries)
    assert set(table["evidence"].to_pylist()) == {"cells+photos (lists)"}
    np.testing.assert_array_equal(answers.at.lat_deg, usual.at.lat_deg)
    np.testing.assert_array_equal(answers.hits.leaf, usual.hits.leaf)
    assert table["gallery_photo"].to_pylist() == columns_of(usual)["gallery_photo"].to_pylist()


@pytest.mark.parametrize("exponent", [0.0, 1.5])
def test_another_prior_counts_for_cells_and_photos(photo_bundle: Bundle, queries: np.ndarray, exponent: float) -> None:
    other = replace(photo_bundle.model, geocells=replace(photo_bundle.model.geocells, prior_exponent=exponent))
    found = engine_with(photo_bundle, FIT, mode="exact", gallery="all", prior_exponent=exponent).find(
        queries, left_out=0.0
    )
    assert found.evidence is not None
    check(found.evidence, brute_force(replace(photo_bundle, model=other), FIT, queries), FIT)


@pytest.mark.parametrize("row", [0, 5, 699])
def test_a_photo_that_is_gone_is_as_if_it_had_never_been_there(
    hierarchy: Hierarchy, hierarchy_folder: Path, placed: Placed, photo_bundle: Bundle, tmp_path: Path, row: int
) -> None:
    """The query is that photo itself, so that it decides while it is there."""
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    rest = placed.take(np.delete(np.arange(len(placed.photo)), row))
    config = GalleryConfig(keep_duplicates=True, gallery_precision="fp32")  # 8 bits have another range without it
    fewer = bundle_with_photos(hierarchy, hierarchy_folder, geocells, rest, tmp_path, config=config)
    query, name = placed.vectors[row : row + 1], placed.photo[row]
    before = engine_with(photo_bundle, FIT, gallery="all").answer(query, k=1)
    after = engine_with(fewer, FIT, mode="exact", gallery="all", gallery_photos=40)
    assert before.photos is not None
    assert name in before.photos.photo
    found = after.find(query, left_out=0.0)
    assert found.evidence is not None
    check(found.evidence, brute_force(fewer, FIT, query), FIT)
    told = after.answer(query, k=1).photos
    assert told is not None
    assert name not in told.photo
    # The same as by all photos without it.
    whole = bundle_with_photos(hierarchy, hierarchy_folder, geocells, placed, tmp_path, config=config)
    assert whole.gallery is not None
    there = whole.gallery.names(np.arange(len(whole.gallery))) != name
    truth = brute_force(whole, FIT, query, may=there)
    np.testing.assert_allclose(truth.points, brute_force(fewer, FIT, query).points, atol=1e-9)


REGIONS = [("FR,JP,US,BR", None), ("-30,100,60,-100", None), (None, "-90,-20,90,180"), ("-60,-120,60,10", "US,MA")]


@pytest.mark.parametrize(("region", "not_region"), REGIONS)
def test_in_a_region_photos_and_cells_are_those_of_brute_force(
    photo_bundle: Bundle, queries: np.ndarray, region: str | None, not_region: str | None
) -> None:
    """By photos whose own place is allowed, whatever leaf they stand in, and by allowed leaves."""
    within, own = Region(region, not_region), photo_bundle.gallery
    assert own is not None
    may, only = within.holds(own.lat_deg, own.lng_deg), within.cells(photo_bundle.hierarchy.leaves)
    truth = brute_force(photo_bundle, FIT, queries, may=may, only=only)
    kept = within.holds(*lat_lng(truth.points))
    for how in ("all", "lists"):
        engine = engine_with(photo_bundle, FIT, mode="exact", gallery=how, region=region, not_region=not_region)
        evidence = engine.find(queries, left_out=0.0).evidence
        assert evidence is not None
        # A point that was moved out of the region is its photo's own place.
        back = replace(evidence, points=np.where(kept[:, None], evidence.points, truth.points))
        check(back, truth, FIT)
        rows = [
            near[truth.density(number, truth._places[near], pointing=True).argmax()]
            for number, near in enumerate(truth.near)
        ]
        np.testing.assert_allclose(evidence.points[~kept], truth._places[rows][~kept], atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("region", [None, "FR,JP,US,BR"])
def test_a_reranker_counts_in_every_mode_and_region(
    photo_bundle: Bundle, queries: np.ndarray, mode: ModeName, region: str | None
) -> None:
    reranker, own, within = random_reranker(N_PROPERTIES, 8, seed=3), photo_bundle.gallery, Region(region, None)
    reranker = replace(reranker, last=3 * reranker.last)
    assert own is not None
    may = only = None
    if region is not None:
        may, only = within.holds(own.lat_deg, own.lng_deg), within.cells(photo_bundle.hierarchy.leaves)
    truth = brute_force(photo_bundle, FIT, queries, may=may, only=only, reranker=reranker)
    probes = {} if mode == "exact" else {"probes": 10**6}
    engine = engine_with(photo_bundle, FIT, mode=mode, region=region, reranker=reranker, **probes)
    evidence = engine.find(queries, left_out=0.0).evidence
    assert evidence is not None
    weight = np.zeros_like(truth.weight)
    known = evidence.near.row >= 0
    weight[np.nonzero(known)[0], evidence.near.row[known]] = evidence.weight[known]
    np.testing.assert_allclose(weight, truth.weight, atol=2e-4)
    plain = engine_with(photo_bundle, FIT, mode=mode, region=region, **probes).find(queries, left_out=0.0).evidence
    assert plain is not None
    assert np.abs(plain.weight - evidence.weight).max() > 0.02  # a hundred times what brute force may differ by


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.sampled_from(MODES), st.booleans(), st.sampled_from(["density", "cell", "mass"]))
def test_no_answer_lies_outside_its_region(
    photo_bundle: Bundle, queries: np.ndarray, seed: int, mode: ModeName, ruled_out: bool, point: PointName
) -> None:
    rng = np.random.default_rng(seed)
    leaves = photo_bundle.hierarchy.leaves
    middle, size = rng.integers(0, len(leaves)), np.exp(rng.uniform(-1, 4, 2))
    south, north = np.clip(leaves.lat_deg[middle] + size[0] * np.array([-0.7, 0.3]), -90, 90)
    west, east = (leaves.lng_deg[middle] + size[1] * np.array([-0.4, 0.6]) + 180) % 360 - 180
    box = f"{south:.6f},{west:.6f},{north:.6f},{east:.6f}"
    given_ = {"not_region": box} if ruled_out else {"region": box}
    engine = engine_with(photo_bundle, FIT, mode=mode, gallery_photos=50, point=point, **given_)
    answers = engine.answer(queries, k=min(3, engine.n_leaves))
    within, named = Region(**{"region": None, "not_region": None, **given_}), answers.hits.leaf >= 0
    for lat_deg, lng_deg in (
        (answers.at.lat_deg, answers.at.lng_deg),
        (answers.cell_lat_deg[named], answers.cell_lng_deg[named]),
    ):
        for number in np.flatnonzero(~within.holds(lat_deg, lng_deg)):  # on the border, but for rounding
            lat = lat_deg[number] + np.array([-1e-6, 0, 1e-6, 0])
            assert within.holds(lat, lng_deg[number] + np.array([0, -1e-6, 0, 1e-6])).any()
    assert answers.photos is not None
    known = ~np.isnan(answers.photos.cosine)
    assert within.holds(answers.photos.lat_deg[known], answers.photos.lng_deg[known]).all()
    assert (answers.evidence != "cells").tolist() == known.any(axis=1).tolist()


def test_under_a_precision_cap_no_photo_and_no_finer_place_is_told(photo_bundle: Bundle, queries: np.ndarray) -> None:
    for bundle, options in (
        (photo_bundle, SearchOptions(precision_cap=800.0)),
        (replace(photo_bundle, precision_cap_km=800.0), SearchOptions()),
    ):
        answers = Engine(bundle, options=options).answer(queries, k=2)
        assert answers.photos is None
        assert answers.point_leaf is None
        table = columns_of(answers)
        assert not [name for name in table.column_names if name.startswith("gallery_")]
        assert table["point_key"].null_count == len(queries)
        assert set(table["evidence"].to_pylist()) == {"cells+photos (lists)"}
        with pytest.raises(InputError, match="`point` density and medoid tell where photos were taken"):
            Engine(bundle, options=replace(options, point="density"))


def test_under_a_precision_cap_probabilities_are_sums_of_photos_and_cells(
    photo_bundle: Bundle, queries: np.ndarray
) -> None:
    engine = engine_with(photo_bundle, FIT, mode="exact", gallery="all", precision_cap=800.0)
    assert engine.coarse is not None
    answers, truth = engine.answer(queries, k=1), brute_force(photo_bundle, FIT, queries)
    sums = np.stack([np.bincount(engine.coarse.of_leaf, row) for row in truth.posterior])
    np.testing.assert_allclose(answers.hits.probability[:, 0], sums.max(axis=1), atol=1.2e-3)


def test_raw_cosines_are_of_cells_alone(photo_bundle: Bundle, engine: Engine, queries: np.ndarray) -> None:
    options = SearchOptions(score="cosine-affine")
    same_answers(Engine(photo_bundle, options=options), Engine(engine.bundle, options=options), queries)


@pytest.mark.parametrize("region", [None, "FR,JP,US,BR"])
def test_no_query_has_no_answer(photo_bundle: Bundle, region: str | None) -> None:
    for how in ("lists", "all"):
        engine = engine_with(photo_bundle, FIT, gallery=how, region=region)
        answers = engine.answer(np.empty((0, WIDTH), np.float32), k=2)
        assert len(answers) == 0
        ((_, answers),) = engine.answers(np.empty((0, WIDTH), np.float32), k=2)
        assert len(answers) == 0
        assert columns_of(answers).num_rows == 0


def test_answers_do_not_depend_on_the_batch(photo_bundle: Bundle, queries: np.ndarray) -> None:
    engine = engine_with(photo_bundle, replace(FIT, lists=9))
    whole = engine.answer(queries, k=2)
    for row in (0, 7, 34):
        alone = engine.answer(queries[row : row + 1], k=2)
        np.testing.assert_array_equal(alone.hits.leaf[0], whole.hits.leaf[row])
        np.testing.assert_allclose(alone.hits.probability[0], whole.hits.probability[row], rtol=1e-4)
        assert (
            haversine_km(alone.at.lat_deg[0], alone.at.lng_deg[0], whole.at.lat_deg[row], whole.at.lng_deg[row]) < 0.01
        )


def test_paths_hold_what_leaves_below_them_hold(photo_bundle: Bundle, queries: np.ndarray) -> None:
    engine, truth = engine_with(photo_bundle, FIT, mode="exact", gallery="all"), brute_force(photo_bundle, FIT, queries)
    found = engine.find(queries, left_out=0.0)
    best = found.hits.leaf[:, 0]
    cell, probability = engine.paths(queries, best, found.posterior)
    for number in range(len(queries)):
        for level in range(cell.shape[1]):
            below = photo_bundle.hierarchy.ancestors[:, level] == cell[number, level]
            assert probability[number, level] == pytest.approx(truth.posterior[number, below].sum(), abs=3e-5)


@pytest.mark.parametrize(("together", "listed"), [(2048, 1 << 23), (7, 1 << 23), (2048, 2)])
@pytest.mark.parametrize("cap", [None, 2000.0])
def test_photos_are_looked_at_for_many_queries_at_once(
    photo_bundle: Bundle,
    queries: np.ndarray,
    together: int,
    listed: int,
    cap: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For fewer where that is enough, or where their posteriors are long; the answers are the same."""
    engine = engine_with(photo_bundle, replace(FIT, lists=4), mode="exact", precision_cap=cap)
    whole = columns_of(engine.answer(queries, k=3))
    monkeypatch.setattr(engine_module, "queries_at_once", lambda counts, n_leaves: 3)
    monkeypatch.setattr(engine_module, "WITH_PHOTOS", together)
    monkeypatch.setattr(engine_module, "LISTED", listed)
    blocks, parts = zip(*engine.answers(queries, k=3), strict=True)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(len(queries)))
    longest = max(block.stop - block.start for block in blocks)
    assert longest == {2048: len(queries), 7: 9}[together] if listed > 2 else longest == 3
    assert pa.concat_tables([pa.table(columns_of(part)) for part in parts]).equals(pa.table(whole))


def test_photos_are_weighed_for_a_few_queries_at_a_time(
    photo_bundle: Bundle, queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(photo_bundle, replace(FIT, lists=4), mode="exact")
    whole = columns_of(engine.answer(queries, k=3))
    monkeypatch.setattr(engine_module, "_WEIGHED", 4)
    blocks, parts = zip(*engine.answers(queries, k=3), strict=True)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(len(queries)))
    assert max(block.stop - block.start for block in blocks) == 4
    assert pa.concat_tables([columns_of(part) for part in parts]).equals(whole)


@pytest.mark.parametrize("low_precision", [False, True])
@pytest.mark.parametrize("region", [None, "FR,JP,US,BR"])
def test_leaves_may_be_searched_on_another_device(
    photo_bundle: Bundle,
    queries: np.ndarray,
    low_precision: bool,
    region: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leaves there, photos on the CPU: the answers are the CPU's."""
    fit = replace(FIT, lists=6)
    plain = engine_with(photo_bundle, fit, mode="exact", region=region)
    expected = columns_of(plain.answer(queries, k=3))
    monkeypatch.setattr(engine_module, "choose_device", lambda name: THERE)
    monkeypatch.setattr(exact, "multiplies_bfloat16", lambda device: low_precision)
    monkeypatch.setitem(proof._NUMBERS, THERE.type, 1 << 10)
    with SecondDevice():
        other = engine_with(photo_bundle, fit, mode="exact", region=region)
        ((_, answers),) = other.answers(queries, k=3)
        columns = columns_of(answers)
        fewest = other.find(queries[:0])
    assert other._leaves._search._scan._rows.device == THERE
    assert len(fewest.hits.leaf) == 0
    assert columns.schema == expected.schema
    for name in columns.column_names:
        one, two = columns[name].to_pylist(), expected[name].to_pylist()
        assert one == pytest.approx(two, nan_ok=True) if isinstance(one[0], float) else one == two, name


@pytest.mark.gpu
def test_leaves_may_be_searched_on_a_gpu(photo_bundle: Bundle, queries: np.ndarray) -> None:
    bundle = calibrated(photo_bundle, replace(FIT, lists=6))
    cpu, gpu = (Engine(bundle, options=SearchOptions(mode="exact"), device=device) for device in ("cpu", "cuda"))
    one, two = (engine.find(queries, k=3) for engine in (cpu, gpu))
    assert one.evidence is not None
    assert two.evidence is not None
    np.testing.assert_array_equal(one.evidence.near.row, two.evidence.near.row)
    np.testing.assert_array_equal(one.hits.leaf, two.hits.leaf)
    np.testing.assert_allclose(one.evidence.weight, two.evidence.weight, rtol=1e-4)
