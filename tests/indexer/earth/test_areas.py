"""Areas against points that are drawn in them: none is nearer than the nearest, and what lies inside stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.earth import s2
from indexer.earth.areas import Area, CellArea, Disc, cells_around
from indexer.earth.geo import EARTH_RADIUS_KM, haversine_km, lat_lng, unit_vectors
from indexer.errors import InputError

SEEDS = st.integers(0, 10_000)


def anywhere(rng: np.random.Generator, n: int) -> np.ndarray:
    points = rng.normal(size=(n, 3))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def check_nearest(area: Area, inside: np.ndarray, others: np.ndarray) -> None:
    """inside: points (N, 3) of the area. others: any."""
    np.testing.assert_array_equal(area.nearest(inside), inside)
    found = area.nearest(others)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-12)
    assert (np.einsum("ij,ij->i", found, others) >= (inside @ others.T).max(axis=0) - 1e-12).all()
    assert (np.linalg.norm(found - area.middle, axis=1) <= 2 * np.sin(area.reach_rad / 2) + 1e-9).all()


@settings(max_examples=60)
@given(SEEDS)
def test_the_nearest_point_of_a_disc(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lat, lng = rng.choice([90.0, -90.0, 12.0, 60.0]), rng.choice([180.0, -179.99, 3.0])
    km = float(np.exp(rng.uniform(np.log(0.01), np.log(19_000))))
    disc = Disc.around(lat, lng, km)
    turn, far = rng.uniform(0, 2 * np.pi, 500), 0.999999 * disc.reach_rad * np.sqrt(rng.random(500))
    one = np.cross(disc.middle, [0.3, -0.5, 0.8])
    one /= np.linalg.norm(one)
    aside = np.cos(turn)[:, None] * one + np.sin(turn)[:, None] * np.cross(disc.middle, one)
    inside = np.cos(far)[:, None] * disc.middle + np.sin(far)[:, None] * aside
    others = anywhere(rng, 50)
    check_nearest(disc, inside, others)
    away = haversine_km(*lat_lng(disc.nearest(others)), np.full(50, lat), np.full(50, lng))
    was = haversine_km(*lat_lng(others), np.full(50, lat), np.full(50, lng))
    np.testing.assert_allclose(away, np.minimum(was, km), rtol=1e-6, atol=1e-4)


def test_a_disc_of_no_radius_is_its_middle_and_one_of_all_the_earth_is_all_of_it() -> None:
    points = anywhere(np.random.default_rng(0), 20)
    none, whole = Disc.around(10.0, 20.0, 0.0), Disc.around(10.0, 20.0, 50_000.0)
    np.testing.assert_allclose(none.nearest(points), np.tile(none.middle, (20, 1)), atol=1e-12)
    np.testing.assert_array_equal(whole.nearest(points), points)
    antipode = Disc.around(90.0, 0.0, 100.0).nearest(np.array([[0.0, 0.0, -1.0]]))
    assert antipode[0] @ [0, 0, 1] == pytest.approx(np.cos(100 / EARTH_RADIUS_KM))


@settings(max_examples=40)
@given(SEEDS, st.integers(0, 20))
def test_the_nearest_point_of_a_cell(seed: int, s2_level: int) -> None:
    rng = np.random.default_rng(seed)
    lat, lng = rng.choice([90.0, -89.0, 0.0, 35.3, rng.uniform(-90, 90)]), rng.choice([180.0, 45.0, -100.0])
    own = s2.parents(s2.point_ids(np.array([lat]), np.array([lng])), s2_level)
    (area,) = CellArea.of(own)
    mixed = rng.dirichlet(np.ones(4), 400) @ area.corners
    inside = 0.9999 * mixed / np.linalg.norm(mixed, axis=1, keepdims=True) + 0.0001 * area.middle
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    assert (s2.locate(own, s2.point_ids(*lat_lng(inside))) == 0).all()
    close = area.middle + area.reach_rad * anywhere(rng, 40)
    close /= np.linalg.norm(close, axis=1, keepdims=True)
    check_nearest(area, inside, np.concatenate([anywhere(rng, 40), close]))


@pytest.mark.parametrize(("lat", "lng"), [(89.7, 10.0), (10.0, 179.9), (35.3, 45.0)])
@pytest.mark.parametrize(("s2_level", "km"), [(3, 1500.0), (2, 9000.0), (3, 0.0), (0, 30_000.0)])
def test_cells_around_a_point_are_all_that_come_near(lat: float, lng: float, s2_level: int, km: float) -> None:
    middle = unit_vectors(np.array([lat]), np.array([lng]))[0]
    every = s2.cells_of_level(s2_level)
    found = cells_around(middle, km, s2_level=s2_level)
    assert found.dtype == np.uint64
    assert (np.diff(found.astype(np.float64)) > 0).all()
    areas = CellArea.of(every)
    nearest = np.concatenate([area.nearest(middle[None]) for area in areas])
    away = haversine_km(*lat_lng(nearest), np.full(len(every), lat), np.full(len(every), lng))
    assert set(every[away <= km].tolist()) <= set(found.tolist())
    reach = EARTH_RADIUS_KM * np.array([area.reach_rad for area in areas])
    centres = haversine_km(*s2.centres(every), np.full(len(every), lat), np.full(len(every), lng))
    assert set(found.tolist()) <= set(every[centres - reach <= km + 1e-6].tolist())


def test_too_many_cells_are_refused_before_they_fill_memory() -> None:
    with pytest.raises(InputError, match="`within_km`: within 5000 km there are more than 16,384 cells"):
        cells_around(np.array([1.0, 0.0, 0.0]), 5000.0, s2_level=14)
