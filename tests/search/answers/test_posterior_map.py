"""Posteriors as frames for maps: shares that add up to 1, polygons that stay on the map."""

import numpy as np
import pytest
import shapely

from search.answers.engine import Engine
from search.answers.posterior_map import posterior_frame
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH


@pytest.mark.parametrize("level", [0, 1, 2])
def test_shares_of_a_level_are_sums_of_their_leaves_and_add_up_to_1(engine: Engine, level: int) -> None:
    hierarchy = engine.bundle.hierarchy
    posterior = engine.find(unit_rows(3, WIDTH, seed=0), left_out=0.0).posterior
    assert posterior is not None
    frame = posterior_frame(hierarchy, ["a", "b", "a"], posterior, level=level)
    np.testing.assert_allclose(frame.groupby("photo")["share"].sum()[["a", "b"]], [2, 1], atol=1e-6)
    dense = np.zeros((3, len(hierarchy.leaves)))
    dense[posterior.query, posterior.leaf] = posterior.probability
    second = frame[frame["photo"] == "b"]
    assert second["share"].is_monotonic_decreasing
    for key, share in zip(second["key"], second["share"], strict=True):
        cell = int(np.flatnonzero(hierarchy.levels[level].keys == key)[0])
        below = slice(hierarchy.levels[level].leaf_begin[cell], hierarchy.levels[level].leaf_end[cell])
        assert share == pytest.approx(dense[1, below].sum())
    minx, miny, maxx, maxy = frame.total_bounds
    assert -180 <= minx <= maxx <= 180
    assert -90 <= miny <= maxy <= 90
    assert shapely.is_valid(frame.geometry.to_numpy()).all()
