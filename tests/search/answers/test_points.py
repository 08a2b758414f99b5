"""Where answers point: each kind against what the bundle says of its cells."""

from dataclasses import replace

import numpy as np
import pytest
import s2sphere

from indexer.bundles.bundle import Bundle
from indexer.earth.geo import haversine_km, lat_lng, unit_vectors
from indexer.earth.places import nearest_cities
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.points import AnswerPoints, CapPoints, points_of_bundle
from search.answers.precision_cap import CoarseCells
from search.answers.radii import share_within
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH
from tests.search.gallery_oracle import FIT, engine_with


def test_a_bundle_has_the_kinds_that_it_has_the_means_for(engine: Engine) -> None:
    assert set(points_of_bundle(engine.bundle, photos=False)) == {"cell", "mass", "medoid"}


def test_a_bundle_with_a_cap_has_its_cells_too(engine: Engine) -> None:
    capped = replace(engine.bundle, precision_cap_km=600.0)
    assert set(points_of_bundle(capped, photos=True)) == {"cell", "mass", "medoid", "density", "cap"}


def test_discs_of_cap_cells_reach_their_farthest_corners(engine: Engine) -> None:
    cells = CoarseCells(engine.bundle.hierarchy.leaves, 600.0)
    assert cells.s2_ids is not None
    discs = CapPoints(cells).discs
    for number, cell in enumerate(cells.s2_ids.tolist()):
        corners = s2sphere.Cell(s2sphere.CellId(cell))
        places = [s2sphere.LatLng.from_point(corners.get_vertex(corner)) for corner in range(4)]
        km = [
            haversine_km(cells.lat_deg[number], cells.lng_deg[number], place.lat().degrees, place.lng().degrees)
            for place in places
        ]
        assert discs.radius_km[number] == pytest.approx(max(km), rel=1e-9)


def test_radii_of_a_cap_hold_what_is_wanted_of_whole_cells_and_know_nothing_finer(engine: Engine) -> None:
    queries = unit_rows(20, WIDTH, seed=4)
    posterior = engine.find(queries, left_out=0.0).posterior
    assert posterior is not None
    cells = CoarseCells(engine.bundle.hierarchy.leaves, 600.0)
    points, best = CapPoints(cells), np.zeros(20, np.int64)
    at = points(best, posterior)
    dense = np.zeros((20, len(cells)))
    np.add.at(dense, (posterior.query, cells.of_leaf[posterior.leaf]), posterior.probability)
    np.testing.assert_array_equal(at.lat_deg, cells.lat_deg[dense.argmax(axis=1)])
    shares = (0.3, 0.8)
    radii = points.radii_km(at, posterior, None, shares)
    for column, share in enumerate(shares):
        for query in range(20):
            apart = haversine_km(at.lat_deg[query], at.lng_deg[query], cells.lat_deg, cells.lng_deg)
            near, far = np.maximum(apart - points.discs.radius_km, 0), apart + points.discs.radius_km
            held = dense[query] @ np.clip((radii[query, column] - near) / (far - near), 0, 1)
            assert held == pytest.approx(share, abs=1e-4)
        np.testing.assert_allclose(points.share_within(at, posterior, None, radii[:, column]), share, atol=1e-4)
    # Which leaf of a cell holds its share changes nothing.
    moved = replace(posterior, leaf=cells.first_leaf[cells.of_leaf[posterior.leaf]])
    assert not np.array_equal(moved.leaf, posterior.leaf)
    np.testing.assert_array_equal(points(best, moved).lat_deg, at.lat_deg)
    np.testing.assert_allclose(points.radii_km(at, moved, None, shares), radii, rtol=1e-9)


def test_places_have_the_names_of_what_is_around_them(engine: Engine) -> None:
    queries = unit_rows(30, WIDTH, seed=4)
    found = engine.find(queries)
    for kind, points in points_of_bundle(engine.bundle, photos=False).items():
        at = points(found.hits.leaf[:, 0], found.posterior)
        city, country = nearest_cities(at.lat_deg, at.lng_deg)
        np.testing.assert_array_equal(at.city, city, err_msg=kind)
        np.testing.assert_array_equal(at.country, country, err_msg=kind)


def test_no_leaf_has_more_around_it_than_the_heaviest(engine: Engine) -> None:
    queries, leaves = unit_rows(30, WIDTH, seed=4), engine.bundle.hierarchy.leaves
    found = engine.find(queries)
    points = AnswerPoints(engine.bundle, "mass", mass_km=800)
    at = points(found.hits.leaf[:, 0], found.posterior)

    def held(lat: np.ndarray, lng: np.ndarray) -> np.ndarray:
        return share_within(found.posterior, points.discs, lat, lng, np.full(30, 800.0))

    best = found.hits.leaf[:, 0]
    gained = held(at.lat_deg, at.lng_deg) - held(leaves.lat_deg[best], leaves.lng_deg[best])
    assert (gained >= -1e-9).all()
    assert gained.max() > 0.01


def test_answers_may_point_at_the_medoid_of_the_cell(engine: Engine) -> None:
    bundle, queries = engine.bundle, unit_rows(30, WIDTH, seed=4)
    usual = engine.answer(queries, k=2)
    answers = Engine(bundle, options=SearchOptions(point="medoid")).answer(queries, k=2)
    assert bundle.hierarchy.medoids is not None
    leaf = usual.hits.leaf[:, 0]
    np.testing.assert_array_equal(answers.hits.leaf, usual.hits.leaf)
    np.testing.assert_array_equal(np.stack([answers.at.lat_deg, answers.at.lng_deg], 1), bundle.hierarchy.medoids[leaf])
    apart = haversine_km(answers.at.lat_deg, answers.at.lng_deg, usual.at.lat_deg, usual.at.lng_deg)
    assert 0 < apart.max()
    assert (apart <= bundle.hierarchy.leaves.radius_km[leaf] + 1e-6).all()  # a photo of the cell


def test_with_photos_answers_may_point_at_the_densest_place(photo_bundle: Bundle) -> None:
    queries, photos = unit_rows(30, WIDTH, seed=4), points_of_bundle(photo_bundle, photos=True)
    assert set(photos) == {"density", "cell", "mass", "medoid"}
    found = engine_with(photo_bundle, replace(FIT, lists=2), mode="exact").find(queries)
    evidence, best, leaves = found.evidence, found.hits.leaf[:, 0], photo_bundle.hierarchy.leaves
    assert evidence is not None
    assert 0 < evidence.there.sum() < 30
    at = photos["density"](best, found.posterior, evidence)
    lat, lng = lat_lng(np.where(evidence.there[:, None], evidence.points, 1.0))
    np.testing.assert_allclose(at.lat_deg, np.where(evidence.there, lat, leaves.lat_deg[best]))
    np.testing.assert_allclose(at.lng_deg, np.where(evidence.there, lng, leaves.lng_deg[best]))
    city, country = nearest_cities(at.lat_deg, at.lng_deg)
    np.testing.assert_array_equal(at.city, city)
    np.testing.assert_array_equal(at.country, country)


def test_with_photos_the_heaviest_leaf_is_that_of_the_density(photo_bundle: Bundle) -> None:
    found = engine_with(photo_bundle, FIT, mode="exact").find(unit_rows(20, WIDTH, seed=4), left_out=0.0)
    evidence, leaves = found.evidence, photo_bundle.hierarchy.leaves
    assert evidence is not None
    assert found.posterior is not None
    points = AnswerPoints(photo_bundle, "mass", mass_km=500)
    chosen = points.leaves(found.hits.leaf[:, 0], found.posterior, evidence)
    tried, _ = found.posterior.likeliest(32)
    middles = unit_vectors(leaves.lat_deg, leaves.lng_deg)
    held = np.stack([evidence.density.within(middles[leaf], np.full(20, 500.0)) for leaf in tried.T], axis=1)
    np.testing.assert_array_equal(chosen, tried[np.arange(20), held.argmax(axis=1)])
    assert (chosen != found.hits.leaf[:, 0]).any()


def test_radii_with_photos_hold_the_density(photo_bundle: Bundle) -> None:
    found = engine_with(photo_bundle, FIT, mode="exact").find(unit_rows(20, WIDTH, seed=5))
    assert found.posterior is not None
    for points in points_of_bundle(photo_bundle, photos=True).values():
        at = points(found.hits.leaf[:, 0], found.posterior, found.evidence)
        radii = points.radii_km(at, found.posterior, found.evidence, (0.5, 0.9))
        for share, km in zip((0.5, 0.9), radii.T, strict=True):
            assert (points.share_within(at, found.posterior, found.evidence, km) >= share - 1e-6).all()
            assert (points.share_within(at, found.posterior, found.evidence, km * (1 - 1e-4)) <= share + 1e-6).all()
