"""Points and radii against one cell at a time, wherever the chunks end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.cells import extent
from indexer.cells.extent import Runs, extents
from indexer.earth import geo, s2
from tests.conftest import clustered_points


@given(st.integers(1, 400), st.integers(0, 12), st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_any_runs_in_any_chunks(n: int, n_edges: int, chunk: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = s2.point_ids(*clustered_points(n, seed))  # in any order: labels do not come sorted by place
    edges = np.unique(rng.integers(0, n + 1, 2 * n_edges))
    edges = edges[: len(edges) // 2 * 2].reshape(-1, 2)
    runs = Runs(edges[:, 0], edges[:, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extent, "_CHUNK", chunk)
        ((found_lat, found_lng, radius_km),) = extents(ids, [runs])
    lat, lng = s2.centres(ids)
    for cell, (begin, end) in enumerate(edges):
        mean = geo.unit_vectors(lat[begin:end], lng[begin:end]).sum(axis=0)
        want = geo.lat_lng(mean[None])
        assert geo.haversine_km(*want, found_lat[cell], found_lng[cell])[0] < 1e-6
        farthest = geo.haversine_km(lat[begin:end], lng[begin:end], found_lat[cell], found_lng[cell]).max()
        assert radius_km[cell] == pytest.approx(farthest, abs=1e-6)


def test_photos_on_one_spot_have_no_radius() -> None:
    ids = np.repeat(s2.point_ids(np.array([48.858]), np.array([2.294])), 1000)
    ((found_lat, found_lng, radius_km),) = extents(ids, [Runs(np.array([0]), np.array([1000]))])
    assert radius_km[0] < 1e-6
    assert found_lat[0] == pytest.approx(48.858, abs=1e-7)


def test_photos_at_opposite_ends_of_the_earth_have_the_place_of_the_first() -> None:
    ids = s2.point_ids(np.array([10.0, -10.0]), np.array([20.0, -160.0]))
    ((found_lat, found_lng, radius_km),) = extents(ids, [Runs(np.array([0]), np.array([2]))])
    assert (found_lat[0], found_lng[0]) == pytest.approx((10, 20), abs=1e-6)
    assert radius_km[0] == pytest.approx(geo.FARTHEST_KM, rel=1e-6)
