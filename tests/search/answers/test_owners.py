"""Leaving out the photos of a query's owner: as by brute force over the gallery without them."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.bundle import Bundle
from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.prototypes import Placed
from search.answers.constraints import Region
from search.answers.engine import Engine
from search.answers.options import ModeName, SearchOptions
from search.answers.owners import NOBODY, GalleryOwners, OwnedLeaves, QueryOwners, owners_of_albums
from search.answers.row_texts import RowTexts
from search.answers.rows import columns_of
from tests.conftest import random_geocells
from tests.search.answers.test_photo_evidence import check, queries_of
from tests.search.conftest import MODES, WIDTH
from tests.search.gallery_oracle import FIT, brute_force, bundle_with_photos, calibrated, engine_with

# Takes many photos, all of them alone, in every second leaf with photos: without these such leaves hold none.
COLLECTOR = "collector"
NAMES = ["ann", "ben", "cleo"]


def whose(placed: Placed, hierarchy: Hierarchy) -> list[str | None]:
    """The owner of each photo; a few are nobody's."""
    rng = np.random.default_rng(5)
    leaf = placed.cells[:, -1]
    names: list[str | None] = [*NAMES, None, ""]
    return [COLLECTOR if each % 4 == 0 else names[rng.integers(0, len(names))] for each in leaf.tolist()]


@pytest.fixture(scope="module")
def owned(
    hierarchy: Hierarchy, hierarchy_folder: Path, placed: Placed, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Of each leaf a few photos, which stand for others, too."""
    geocells, versions = random_geocells(hierarchy, WIDTH, seed=0), tmp_path_factory.mktemp("owned")
    config = GalleryConfig(keep_duplicates=True, gallery_per_leaf=6)
    owners = whose(placed, hierarchy)
    return bundle_with_photos(hierarchy, hierarchy_folder, geocells, placed, versions, config=config, owners=owners)


def owner_names(bundle: Bundle) -> np.ndarray:
    assert bundle.gallery is not None
    names = bundle.gallery.owners(np.arange(len(bundle.gallery)))
    assert names is not None
    return names


@pytest.mark.parametrize("region", [None, "-90,-20,90,120"])
@pytest.mark.parametrize("name", [COLLECTOR, "ann", None, "", "a stranger"])
def test_an_owner_is_left_out_as_if_the_photos_were_not_there(
    owned: Bundle, region: str | None, name: str | None
) -> None:
    gallery, queries = owned.gallery, 0.8 * queries_of(owned, 12)  # as means over crops are: shorter than 1
    assert gallery is not None
    assert (gallery.stands_for > 1).any()
    names = owner_names(owned)
    others = np.ones(len(gallery), bool) if not name else names != name
    only, within = None, np.ones(len(gallery), bool)
    if region is not None:
        where = Region(region, None)
        only, within = where.cells(owned.hierarchy.leaves), where.holds(gallery.lat_deg, gallery.lng_deg)
        assert within.any()
    engine = engine_with(owned, FIT, mode="exact", gallery="all", region=region)
    owners = np.repeat(engine.owners.numbers(pa.array([name], pa.string())), len(queries))[:, None]
    found = engine.find(queries, k=2, owners=owners, left_out=0.0)
    truth = brute_force(owned, FIT, queries, may=others & within, only=only)
    assert found.evidence is not None
    if region is None:
        check(found.evidence, truth, FIT)
    rows = found.evidence.near.row
    assert others[rows[rows >= 0]].all()
    for number in range(len(queries)):
        assert set(rows[number][rows[number] >= 0].tolist()) == set(truth.near[number].tolist())
        own = slice(*found.evidence.posterior.begins[number : number + 2])
        held = np.zeros(truth.posterior.shape[1])
        held[found.evidence.posterior.leaf[own]] = found.evidence.posterior.probability[own]
        np.testing.assert_allclose(held, truth.posterior[number], atol=3e-5)
    everybody = engine.find(queries, k=2, left_out=0.0)
    assert everybody.evidence is not None
    same = np.array_equal(everybody.evidence.near.row, rows)
    assert same == (name not in (COLLECTOR, "ann"))


def test_leaves_that_hold_nobody_elses_photos_count_as_cells_alone(owned: Bundle) -> None:
    """So that S and the weight of the cells are those of a gallery without these photos."""
    queries, gallery = queries_of(owned, 12), owned.gallery
    assert gallery is not None
    mine = owner_names(owned) == COLLECTOR
    leaves = set(gallery.leaf[mine].tolist()) - set(gallery.leaf[~mine].tolist())
    assert leaves
    whole, without = (brute_force(owned, FIT, queries, may=may) for may in (None, ~mine))
    assert (whole.share - without.share > 0.01).any()  # the oracle itself can tell
    engine = engine_with(owned, FIT, mode="exact", gallery="all")
    owners = np.repeat(engine.owners.numbers(pa.array([COLLECTOR])), len(queries))[:, None]
    found = engine.find(queries, owners=owners, left_out=0.0)
    assert found.evidence is not None
    held = np.isin(found.evidence.posterior.leaf, list(leaves))
    expected = np.concatenate([row[row > 0] for row in without.cells[:, sorted(leaves)]])
    np.testing.assert_allclose(np.sort(found.evidence.posterior.probability[held]), np.sort(expected), atol=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_each_query_leaves_out_its_own_owner_in_every_mode(owned: Bundle, mode: ModeName) -> None:
    gallery, queries = owned.gallery, queries_of(owned, 12)
    assert gallery is not None
    names, rng = owner_names(owned), np.random.default_rng(3)
    asking = np.array([COLLECTOR, *NAMES, "", "a stranger"], object)[rng.integers(0, 6, len(queries))]
    fit = replace(FIT, lists=12)
    engine = engine_with(owned, fit, mode=mode, **({} if mode == "exact" else {"probes": 10**6}))
    owners = engine.owners.numbers(pa.array(asking, pa.string()))[:, None]
    together = engine.find(queries, owners=owners, left_out=0.0)
    everybody = engine.find(queries, left_out=0.0)
    assert together.evidence is not None
    assert everybody.evidence is not None
    lists = engine._leaves(queries, k=1, left_out=0.0, n_lists=12).lists
    assert lists is not None
    for number in range(len(queries)):
        may = np.isin(gallery.leaf, lists.leaf[number]) & ((names != asking[number]) | (asking[number] == ""))
        truth = brute_force(owned, fit, queries[number : number + 1], may=may)
        own = together.evidence.near.row[number]
        assert set(own[own >= 0].tolist()) == set(truth.near[0].tolist())
        alone = engine.find(queries[number : number + 1], owners=owners[number : number + 1], left_out=0.0)
        assert alone.evidence is not None
        np.testing.assert_array_equal(alone.evidence.near.row[0], own)
    told = columns_of(engine.answer(queries, k=1, owners=owners))["gallery_photo"].to_pylist()
    of_photo = dict(zip(gallery.names(np.arange(len(gallery))), names, strict=True))
    assert all(
        of_photo[photo] != owner or not owner for photos, owner in zip(told, asking, strict=True) for photo in photos
    )
    before = columns_of(engine.answer(queries, k=1))["gallery_photo"].to_pylist()
    assert any(of_photo[photo] == owner for photos, owner in zip(before, asking, strict=True) for photo in photos)


def test_an_album_leaves_out_all_of_its_owners(owned: Bundle) -> None:
    names, n_photos = owner_names(owned), np.array([3, 2, 4])
    queries = n_photos[:, None] * queries_of(owned, 3)[:3]
    rows = RowTexts(
        pa.array(["ann", "ben", None, COLLECTOR, COLLECTOR, "cleo", "ann", "", "a stranger"]),
        [f"{row}" for row in range(9)],
        "T",
        "who",
        None,
    )
    engine = Engine(
        calibrated(owned, FIT, growth=0.5, protocol="album"),
        options=SearchOptions(mode="exact", gallery="all"),
        protocol="album",
    )
    asked = QueryOwners(rows, engine.owners)
    of_photo = asked.of_photos([f"{row}" for row in range(9)], 0)[:, 0]
    owners = owners_of_albums(of_photo, np.array([0, 0, 0, 1, 1, 2, 2, 2, 2]), 3)
    assert owners.shape == (3, 2)
    found = engine.find(queries.astype(np.float32), n_photos=n_photos, owners=owners, left_out=0.0)
    assert found.evidence is not None
    for number, left_out in enumerate((["ann", "ben"], [COLLECTOR], ["cleo", "ann"])):
        may = ~np.isin(names.astype(str), left_out)
        truth = brute_force(
            owned,
            FIT,
            queries[number : number + 1].astype(np.float32),
            may=may,
            growth=0.5,
            n_photos=n_photos[number : number + 1],
        )
        rows_found = found.evidence.near.row[number]
        assert set(rows_found[rows_found >= 0].tolist()) == set(truth.near[0].tolist())
        own = slice(*found.evidence.posterior.begins[number : number + 2])
        held = np.zeros(truth.posterior.shape[1])
        held[found.evidence.posterior.leaf[own]] = found.evidence.posterior.probability[own]
        np.testing.assert_allclose(held, truth.posterior[0], atol=3e-5)


def test_who_owns_all_photos_is_answered_by_cells(
    hierarchy: Hierarchy, hierarchy_folder: Path, placed: Placed, tmp_path: Path
) -> None:
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    mine = bundle_with_photos(
        hierarchy, hierarchy_folder, geocells, placed, tmp_path, owners=["me"] * len(placed.photo)
    )
    engine, cells = (engine_with(mine, FIT, mode="exact", gallery=how) for how in ("all", "off"))
    queries = queries_of(mine, 5)
    owners = np.repeat(engine.owners.numbers(pa.array(["me"])), len(queries))[:, None]
    answers, alone = engine.answer(queries, k=3, owners=owners), cells.answer(queries, k=3)
    assert set(answers.evidence) == {"cells"}
    np.testing.assert_array_equal(answers.hits.leaf, alone.hits.leaf)
    np.testing.assert_allclose(answers.hits.probability, alone.hits.probability, rtol=1e-5)
    np.testing.assert_array_equal(answers.at.lat_deg, alone.at.lat_deg)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_emptied_leaves_are_those_without_anybody_elses_photo(seed: int, n_owners: int) -> None:
    rng = np.random.default_rng(seed)
    owner, leaf = rng.integers(-1, 4, 30), rng.integers(0, 12, 30)
    leaves = rng.integers(0, 12, 40)
    owners = np.stack([rng.permutation(np.array([*range(5), NOBODY]))[:n_owners] for _ in range(40)])
    found = OwnedLeaves(owner, leaf, 12).emptied(leaves, owners, np.arange(40))
    for number in range(40):
        own = owner[leaf == leaves[number]]
        left = [each for each in own if each == NOBODY or each not in owners[number]]
        assert found[number] == (len(own) > 0 and not left)


def test_owners_by_number_and_who_is_nobody(owned: Bundle) -> None:
    assert owned.gallery is not None
    owners, names = GalleryOwners.of(owned.gallery), owner_names(owned)
    known = np.array([bool(name) for name in names])
    np.testing.assert_array_equal(owners.of_photo == NOBODY, ~known)
    asked = owners.numbers(pa.array([*names, None, "", "a stranger"], pa.string()))
    np.testing.assert_array_equal(asked, [*owners.of_photo, NOBODY, NOBODY, NOBODY])


def test_columns_that_leave_nothing_out_are_told(owned: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    assert owned.gallery is not None
    known = GalleryOwners.of(owned.gallery)

    def asked(*names: str | None) -> QueryOwners:
        photos = [f"{row}" for row in range(len(names))]
        return QueryOwners(RowTexts(pa.array(names, pa.string()), photos, "T", "who", None), known)

    with caplog.at_level(logging.WARNING):
        assert asked("ann", None).of_photos(["1"], 1).tolist() == [[NOBODY]]
        assert not caplog.records
        assert (asked(None, "").of_row == NOBODY).all()
        assert "no row has an owner in who" in caplog.text
        assert (asked("Ann@flickr", None).of_row == NOBODY).all()
        assert "none of the owners in who has a photo in the gallery" in caplog.text
    assert "Ann" not in caplog.text  # whose photos they are is told to nobody


def test_photos_are_found_by_name_or_where_names_repeat_by_order(owned: Bundle) -> None:
    assert owned.gallery is not None
    known, whose = GalleryOwners.of(owned.gallery), pa.array(["ann", "ben", "cleo"], pa.string())
    by_name, by_order = (
        QueryOwners(RowTexts(whose, photos, "T", "who", None), known) for photos in (["a", "b", "c"], ["a", "a", "c"])
    )
    ann, ben, cleo = (known.numbers(whose[row : row + 1])[0] for row in range(3))
    assert by_name.of_photos(["c", "a", "c"], 0)[:, 0].tolist() == [cleo, ann, cleo]
    with pytest.raises(InputError, match="T: has no row for d, which is answered"):
        by_name.of_photos(["a", "d"], 0)
    assert by_order.of_photos(["a", "c"], 1)[:, 0].tolist() == [ben, cleo]
    with pytest.raises(InputError, match="names repeat, and its photos are not those that are answered, from row 0 on"):
        by_order.of_photos(["a", "c"], 0)


def test_bundles_that_know_no_owners_are_refused(photo_bundle: Bundle, engine: Engine, owned: Bundle) -> None:
    with pytest.raises(InputError, match="does not say whose its photos are"):
        _ = Engine(photo_bundle).owners
    for each in (engine, Engine(owned, options=SearchOptions(gallery="off"))):
        with pytest.raises(InputError, match="no gallery, or the search is of cells alone"):
            _ = each.owners
