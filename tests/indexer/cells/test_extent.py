"""Points and radii against one cell at a time, wherever the chunks end; medoids against the distances of all pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.cells import extent
from indexer.cells.extent import EXACT, PhotoRanges, extents, medoids
from indexer.earth import geo, s2
from indexer.earth.geo import haversine_km
from tests.conftest import clustered_points


@given(st.integers(1, 400), st.integers(0, 12), st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_any_ranges_in_any_blocks(n: int, n_edges: int, block: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = s2.point_ids(*clustered_points(n, seed))  # in any order: labels do not come sorted by place
    edges = np.unique(rng.integers(0, n + 1, 2 * n_edges))
    edges = edges[: len(edges) // 2 * 2].reshape(-1, 2)
    ranges = PhotoRanges(edges[:, 0], edges[:, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extent, "_BLOCK", block)
        ((found_lat, found_lng, radius_km),) = extents(ids, [ranges])
    lat, lng = s2.centres(ids)
    for cell, (begin, end) in enumerate(edges):
        mean = geo.unit_vectors(lat[begin:end], lng[begin:end]).sum(axis=0)
        want = geo.lat_lng(mean[None])
        assert geo.haversine_km(*want, found_lat[cell], found_lng[cell])[0] < 1e-6
        farthest = geo.haversine_km(lat[begin:end], lng[begin:end], found_lat[cell], found_lng[cell]).max()
        assert radius_km[cell] == pytest.approx(farthest, abs=1e-6)


def test_photos_on_one_spot_have_no_radius() -> None:
    ids = np.repeat(s2.point_ids(np.array([48.858]), np.array([2.294])), 1000)
    ((found_lat, _, radius_km),) = extents(ids, [PhotoRanges(np.array([0]), np.array([1000]))])
    assert radius_km[0] < 1e-6
    assert found_lat[0] == pytest.approx(48.858, abs=1e-7)


def test_photos_at_opposite_ends_of_the_earth_have_the_place_of_the_first() -> None:
    ids = s2.point_ids(np.array([10.0, -10.0]), np.array([20.0, -160.0]))
    ((found_lat, found_lng, radius_km),) = extents(ids, [PhotoRanges(np.array([0]), np.array([2]))])
    assert (found_lat[0], found_lng[0]) == pytest.approx((10, 20), abs=1e-6)
    assert radius_km[0] == pytest.approx(geo.FARTHEST_KM, rel=1e-6)


def ranges_of(lengths: list[int]) -> PhotoRanges:
    end = np.cumsum(lengths)
    return PhotoRanges(end - np.array(lengths), end)


def clustered_ids(n: int, seed: int) -> np.ndarray:
    """Photos around some places, each of another spread."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform((-80, -180), (80, 180), (8, 2))[rng.integers(0, 8, n)]
    lat, lng = (centre + rng.standard_cauchy((n, 2)) * 0.01).T
    return np.sort(s2.point_ids(np.clip(lat, -89, 89), (lng + 180) % 360 - 180))


def sums_of_chords(ids: np.ndarray) -> np.ndarray:
    points = s2.directions(ids).T
    return np.asarray(np.linalg.norm(points[:, None] - points, axis=2).sum(axis=1))


@given(st.lists(st.integers(1, EXACT), min_size=1, max_size=12), st.integers(0, 1000))
def test_small_cells_have_the_very_medoid(lengths: list[int], seed: int) -> None:
    ids, ranges = clustered_ids(sum(lengths), seed), ranges_of(lengths)
    for cell, (lat, lng) in enumerate(zip(*medoids(ids, ranges), strict=True)):
        mine = ids[ranges.begin[cell] : ranges.end[cell]]
        found = int(np.argmin(haversine_km(*s2.centres(mine), lat, lng)))
        sums = sums_of_chords(mine)
        assert sums[found] <= sums.min() * (1 + 1e-9)


@pytest.mark.parametrize("n", [17, 33, 64, 65, 500, 3000])
def test_large_cells_have_nearly_the_medoid(n: int) -> None:
    ids = clustered_ids(n, seed=n)
    (lat,), (lng,) = medoids(ids, ranges_of([n]))
    distance = haversine_km(*s2.centres(ids), lat, lng)
    assert distance.min() < 1e-5  # it is one of the photos
    sums = sums_of_chords(ids)
    assert sums[int(distance.argmin())] <= 1.05 * sums.min()


def test_no_outlier_pulls_it_away() -> None:
    lat = np.concatenate([np.linspace(48.80, 48.90, 21), np.full(10, -33.9)])
    lng = np.concatenate([np.full(21, 2.3), np.full(10, 151.2)])
    ids = np.sort(s2.point_ids(lat, lng))
    (found_lat,), (found_lng,) = medoids(ids, ranges_of([31]))
    assert haversine_km(48.85, 2.3, found_lat, found_lng) < 6


def test_photos_at_one_place_and_between_runs() -> None:
    ids = np.concatenate([np.full(100, clustered_ids(1, 0)[0]), clustered_ids(50, 1)])
    ranges = PhotoRanges(np.array([0, 120]), np.array([100, 121]))
    lat, lng = medoids(ids, ranges)
    wanted_lat, wanted_lng = s2.centres(ids[[0, 120]])
    np.testing.assert_allclose((lat, lng), (wanted_lat, wanted_lng), atol=1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [1, 2, 15, 16, 17, 31, 32, 33, 65, 129, 7, 7, 7]
    ids, ranges = clustered_ids(sum(lengths), 5), ranges_of(lengths)
    whole = medoids(ids, ranges)
    monkeypatch.setattr("indexer.cells.extent._BLOCK", 1)
    np.testing.assert_array_equal(medoids(ids, ranges), whole)
