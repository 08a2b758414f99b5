"""s2sphere, one point at a time, is the oracle of the vectorised arithmetic."""

import numpy as np
import pytest
import s2sphere
from hypothesis import given
from hypothesis import strategies as st

from indexer.earth import s2
from indexer.earth.geo import EARTH_RADIUS_KM
from tests.conftest import EDGE_POINTS

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


def oracle_point(lat: float, lng: float) -> s2sphere.CellId:
    return s2sphere.CellId.from_lat_lng(s2sphere.LatLng.from_degrees(lat, lng))


def sample_points(n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([np.degrees(np.arcsin(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], axis=1)


@pytest.fixture(scope="module")
def point_ids() -> np.ndarray:
    points = np.concatenate([sample_points(2000), EDGE_POINTS])
    return s2.point_ids(points[:, 0], points[:, 1])


@pytest.mark.parametrize("points", [sample_points(5000), EDGE_POINTS], ids=["sphere", "edges"])
def test_point_ids_are_bit_exact(points: np.ndarray) -> None:
    expected = [oracle_point(lat, lng).id() for lat, lng in points]
    np.testing.assert_array_equal(s2.point_ids(points[:, 0], points[:, 1]), np.array(expected, np.uint64))


@given(latitudes, longitudes)
def test_point_ids_are_bit_exact_for_any_point(lat: float, lng: float) -> None:
    assert int(s2.point_ids(np.array([lat]), np.array([lng]))[0]) == oracle_point(lat, lng).id()


@pytest.mark.parametrize("s2_level", [0, 1, 2, 7, 13, 29, 30])
def test_parents_levels_and_ranges(point_ids: np.ndarray, s2_level: int) -> None:
    cells = s2.parents(point_ids, s2_level)
    expected = [s2sphere.CellId(int(point_id)).parent(s2_level) for point_id in point_ids.tolist()]
    assert cells.tolist() == [cell.id() for cell in expected]
    assert set(s2.levels(cells).tolist()) == {s2_level}
    assert s2.range_min(cells).tolist() == [cell.range_min().id() for cell in expected]
    assert s2.range_max(cells).tolist() == [cell.range_max().id() for cell in expected]


@pytest.mark.parametrize("s2_level", [0, 1, 2, 7, 13, 29])
def test_children_in_order_and_back(point_ids: np.ndarray, s2_level: int) -> None:
    cells = np.unique(s2.parents(point_ids, s2_level))[:300]
    children = s2.children(cells)
    expected = [[child.id() for child in s2sphere.CellId(int(cell)).children()] for cell in cells.tolist()]
    np.testing.assert_array_equal(children, np.array(expected, np.uint64))
    np.testing.assert_array_equal(s2.parents(children.ravel(), s2_level), np.repeat(cells, 4))


@pytest.mark.parametrize("s2_level", [0, 1, 5, 12, 21, 30])
def test_centres(point_ids: np.ndarray, s2_level: int) -> None:
    cells = np.unique(s2.parents(point_ids, s2_level))[:500]
    expected = [s2sphere.CellId(int(cell)).to_lat_lng() for cell in cells.tolist()]
    lat, lng = s2.centres(cells)
    np.testing.assert_allclose(lat, [point.lat().degrees for point in expected], atol=1e-12)
    turn = (lng - [point.lng().degrees for point in expected] + 180) % 360 - 180
    np.testing.assert_allclose(turn, 0, atol=1e-12)


@pytest.mark.parametrize("s2_level", [0, 1, 5, 12, 21, 30])
def test_outlines_go_through_the_corners_and_along_the_edges(point_ids: np.ndarray, s2_level: int) -> None:
    cells = np.unique(s2.parents(point_ids, s2_level))[:200]
    corners = [[list(s2sphere.Cell(s2sphere.CellId(cell)).get_vertex(k)) for k in range(4)] for cell in cells.tolist()]
    outlines = s2.outlines(cells, 8)
    np.testing.assert_allclose(outlines[:, ::8], corners, atol=1e-15)
    np.testing.assert_array_equal(outlines[:, ::8], s2.outlines(cells, 1))
    normals = np.cross(corners, np.roll(corners, -1, axis=1))
    away = np.einsum("nkpa,nka->nkp", outlines.reshape(-1, 4, 8, 3), normals)
    np.testing.assert_allclose(away, 0, atol=1e-15)


def test_tokens_are_those_of_s2(point_ids: np.ndarray) -> None:
    cells = np.concatenate([s2.parents(point_ids[:100], level) for level in (0, 4, 17, 30)])
    assert s2.tokens(cells) == [s2sphere.CellId(int(cell)).to_token() for cell in cells.tolist()]


def test_cells_of_level_cover_the_sphere_once() -> None:
    for s2_level in (0, 1, 3):
        cells = s2.cells_of_level(s2_level)
        assert len(cells) == 6 * 4**s2_level
        assert (cells[1:] > cells[:-1]).all()
        assert (s2.range_min(cells)[1:] == s2.range_max(cells)[:-1] + np.uint64(2)).all()


@given(st.lists(st.tuples(latitudes, longitudes), min_size=1, max_size=30), st.integers(0, 20), st.data())
def test_locate_finds_the_containing_cell_or_none(
    places: list[tuple[float, float]], s2_level: int, data: st.DataObject
) -> None:
    ids = s2.point_ids(*np.array(places).T)
    cells = np.unique(s2.parents(ids, s2_level))
    kept = cells[np.array(data.draw(st.lists(st.booleans(), min_size=len(cells), max_size=len(cells))), bool)]
    found = s2.locate(kept, ids)
    for point_id, index in zip(ids, found, strict=True):
        parent = s2.parents(np.array([point_id]), s2_level)[0]
        assert (index >= 0) == (parent in kept)
        assert index < 0 or kept[index] == parent


def test_valid_tells_cells_from_other_numbers(point_ids: np.ndarray) -> None:
    assert s2.valid(s2.parents(point_ids, 9)).all()
    assert not s2.valid(np.array([0, 2, 0xFFFFFFFFFFFFFFFF, 6 << 61 | 1], np.uint64)).any()


def test_areas_equal_s2spheres_and_sum_to_the_earth() -> None:
    for level in (0, 3):
        assert s2.areas_km2(s2.cells_of_level(level)).sum() == pytest.approx(4 * np.pi * EARTH_RADIUS_KM**2)
    ids = np.concatenate([s2.parents(s2.point_ids(*EDGE_POINTS.T), level) for level in (1, 6, 12)])
    for cell, area in zip(ids.tolist(), s2.areas_km2(ids), strict=True):
        corners = [s2sphere.Cell(s2sphere.CellId(cell)).get_vertex(k) for k in range(4)]
        expected = s2sphere.area(*corners[:3]) + s2sphere.area(corners[0], *corners[2:])
        assert area == pytest.approx(expected * EARTH_RADIUS_KM**2, rel=1e-5)


def test_areas_of_the_smallest_cells_do_not_vanish() -> None:
    small = s2.point_ids(np.array([10.0, 89.0]), np.array([20.0, -170.0]))
    parents = s2.parents(small, 20)
    np.testing.assert_allclose(s2.areas_km2(s2.parents(small, 24)) * 4**4, s2.areas_km2(parents), rtol=1e-3)
