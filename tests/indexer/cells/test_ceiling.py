"""The ceiling against trying every cell for every photo."""

import numpy as np
import pytest

from indexer.cells.ceiling import ceilings
from indexer.cells.hierarchy import Hierarchy
from indexer.earth import geo
from tests.conftest import clustered_points


def test_no_choice_of_cells_does_better(hierarchy: Hierarchy) -> None:
    lat, lng = clustered_points(300, seed=99)
    rows = ceilings(hierarchy, lat, lng, thresholds_km=(25, 200))
    for row, level in zip(rows, hierarchy.levels, strict=True):
        distance = geo.haversine_km(lat[:, None], lng[:, None], level.lat_deg, level.lng_deg)
        assert row.best.median_km == pytest.approx(np.median(distance.min(axis=1)), abs=1e-6)
        assert row.best.within["25"] == pytest.approx(100 * (distance.min(axis=1) <= 25).mean())
        inside = hierarchy.locate(lat, lng)[:, row.level]
        assert row.coverage == pytest.approx((inside >= 0).mean())
        # The cell a photo lies in need not have the nearest point, but never a nearer one.
        mine = distance[np.arange(300), inside][inside >= 0]
        assert (mine >= distance.min(axis=1)[inside >= 0] - 1e-9).all()


def test_finer_levels_reach_further(hierarchy: Hierarchy, points: tuple[np.ndarray, np.ndarray]) -> None:
    medians = [row.best.median_km for row in ceilings(hierarchy, *points)]
    assert medians == sorted(medians, reverse=True)
