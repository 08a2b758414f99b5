"""Polygons against the arithmetic of ids: every place of the Earth lies in the polygon of its cell and in no other."""

import numpy as np
import pytest
import shapely

from indexer.cells.hierarchy import Hierarchy
from indexer.earth import s2
from indexer.earth.geo import EARTH_RADIUS_KM, lat_lng, unit_vectors
from indexer.earth.polygons import DEVIATION_KM, DEVIATION_SHARE, cell_polygons
from tests.conftest import EDGE_POINTS


def places(n: int, seed: int) -> np.ndarray:
    """Unit vectors (3 n, 3): all over the sphere, and 100 m to 1,000 km around where polygons go wrong first."""
    rng = np.random.default_rng(seed)
    anywhere = rng.normal(size=(n, 3))
    awkward = unit_vectors(*EDGE_POINTS[rng.integers(len(EDGE_POINTS), size=2 * n)].T)
    awkward += rng.normal(size=awkward.shape) * 10 ** rng.uniform(-4.8, -0.8, (2 * n, 1))
    points = np.concatenate([anywhere, awkward, unit_vectors(*EDGE_POINTS.T)])
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def cells_of(ids: np.ndarray, points: np.ndarray) -> np.ndarray:
    return s2.locate(ids, s2.point_ids(*lat_lng(points)))


def clear_of_edges(ids: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points have their cell to themselves for more than a drawn edge may stray."""
    rng = np.random.default_rng(99)
    clear = np.ones(len(points), bool)
    for _ in range(24):
        aside = np.cross(points, rng.normal(size=points.shape))
        aside *= 2 * DEVIATION_KM / EARTH_RADIUS_KM / np.linalg.norm(aside, axis=1, keepdims=True)
        clear &= cells_of(ids, points + aside) == cells_of(ids, points)
    return clear


def check_places(ids: np.ndarray, polygons: np.ndarray, seed: int) -> None:
    points = places(3000, seed)
    points = points[clear_of_edges(ids, points)]
    assert len(points) > 4000
    lat, lng = lat_lng(points)
    point, cell = shapely.STRtree(polygons).query(shapely.points(lng, lat), predicate="intersects")
    found = np.full(len(points), -1)
    found[point] = cell
    assert len(np.unique(point)) == len(point), "a place in two polygons"
    np.testing.assert_array_equal(found, cells_of(ids, points))


def check_form(polygons: np.ndarray) -> None:
    assert shapely.is_valid(polygons).all()
    west, south, east, north = shapely.bounds(polygons).T
    assert west.min() >= -180
    assert east.max() <= 180
    assert south.min() >= -90
    assert north.max() <= 90
    parts = shapely.get_parts(polygons)
    assert shapely.is_ccw(shapely.get_exterior_ring(parts)).all()
    assert not shapely.get_num_interior_rings(parts).any()


@pytest.mark.parametrize("s2_level", [0, 1, 2, 3])
def test_cells_of_a_level_tile_the_map_and_hold_their_places(s2_level: int) -> None:
    ids = s2.cells_of_level(s2_level)
    polygons = cell_polygons(ids)
    check_form(polygons)
    check_places(ids, polygons, seed=s2_level)
    # Neither gaps nor overlaps: cells of one size share every point of the edge between them.
    assert shapely.area(polygons).sum() == pytest.approx(360 * 180, abs=1e-6)
    assert shapely.union_all(polygons).area == pytest.approx(360 * 180, abs=1e-6)


def test_a_hierarchys_cells_of_mixed_sizes_hold_their_places(hierarchy: Hierarchy) -> None:
    for level in hierarchy.levels:
        assert level.s2_ids is not None
        polygons = cell_polygons(level.s2_ids)
        check_form(polygons)
        check_places(level.s2_ids, polygons, seed=1)


@pytest.mark.parametrize("s2_level", [4, 9, 16, 23, 30])
def test_cells_of_any_size_have_good_polygons_everywhere(s2_level: int) -> None:
    ids = np.unique(s2.parents(s2.point_ids(*lat_lng(places(500, 3))), s2_level))
    polygons = cell_polygons(ids)
    check_form(polygons)
    lat, lng = s2.centres(ids)
    assert shapely.contains_xy(polygons, lng, lat).all()


def test_only_cube_faces_on_the_180th_meridian_come_in_two() -> None:
    kinds = [shapely.get_type_id(cell_polygons(s2.cells_of_level(s2_level))) for s2_level in (0, 1)]
    assert np.flatnonzero(kinds[0] == shapely.GeometryType.MULTIPOLYGON).tolist() == [3]
    assert (kinds[1] == shapely.GeometryType.POLYGON).all()


@pytest.mark.parametrize("s2_level", [0, 1, 2, 4, 7, 12])
def test_drawn_lines_stay_near_the_true_edges(s2_level: int) -> None:
    ids = np.unique(s2.parents(s2.point_ids(*lat_lng(places(300, 5))), s2_level))
    for cell, polygon in zip(ids, cell_polygons(ids), strict=True):
        corners = s2.outlines(np.array([cell]), 1)[0]
        normals = np.cross(corners, np.roll(corners, -1, axis=0))
        edge_km = EARTH_RADIUS_KM * np.linalg.norm(normals, axis=1).max()
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        for part in shapely.get_parts(polygon):
            ring = shapely.get_coordinates(part)
            drawn = np.concatenate([ring[:-1] * (1 - t) + ring[1:] * t for t in (0.1, 0.3, 0.5, 0.8)])
            # The cut at the 180th meridian and the line that stands for the pole are no edges.
            drawn = drawn[(np.abs(drawn[:, 1]) < 90) & ((np.abs(drawn[:, 0]) < 180) | (s2_level > 0))]
            stray_km = EARTH_RADIUS_KM * np.abs(unit_vectors(drawn[:, 1], drawn[:, 0]) @ normals.T).min(axis=1)
            assert stray_km.max() <= min(DEVIATION_KM, DEVIATION_SHARE * edge_km)
