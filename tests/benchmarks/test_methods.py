from dataclasses import replace

import numpy as np
import pytest

from benchmarks.world.methods import brute_force_order, finest_level_leaves, oracle_leaves
from indexer.geo import haversine_km
from indexer.geocells import Geocells
from indexer.hierarchy import build_hierarchy
from indexer.rule import PartitionRule
from indexer.scoring import ScoringModel


@pytest.fixture
def model() -> ScoringModel:
    """Two coarse cells with two leaves each; a photo at (1, 0) likes the first coarse cell and leaf 2."""
    coarse = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    fine = np.array([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6], [0.0, 1.0]], np.float32)
    geocells = Geocells([coarse, fine], np.array([0.1, 0.1]), np.ones(2), "h", None)
    return ScoringModel(geocells, np.array([[0, 0], [0, 1], [1, 2], [1, 3]]))


def test_the_order_is_that_of_the_product(model: ScoringModel) -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    assert brute_force_order(model, query).tolist() == [[0, 1, 2, 3]]
    assert finest_level_leaves(model, query).tolist() == [2]


def test_equal_leaves_come_in_their_own_order(model: ScoringModel) -> None:
    flat = replace(model, geocells=replace(model.geocells, level_weights=np.array([0.0, 1.0])))
    assert brute_force_order(flat, np.array([[1.0, 0.0]], np.float32)).tolist() == [[2, 0, 1, 3]]


def test_the_oracle_knows_the_cell_and_else_takes_the_nearest_point() -> None:
    rng = np.random.default_rng(0)
    lat = np.concatenate([rng.normal(48, 2, 200), rng.normal(-30, 2, 200)])
    lng = np.concatenate([rng.normal(10, 2, 200), rng.normal(150, 2, 200)])
    hierarchy = build_hierarchy(lat, lng, rule=PartitionRule((100, 30), 5))
    inside = hierarchy.locate(lat, lng)[:, -1]
    found = oracle_leaves(hierarchy, lat, lng)
    assert (found[inside >= 0] == inside[inside >= 0]).all()
    ocean_lat, ocean_lng = np.array([-28.0]), np.array([179.0])
    assert hierarchy.locate(ocean_lat, ocean_lng)[0, -1] == -1
    km = haversine_km(ocean_lat, ocean_lng, hierarchy.leaves.lat_deg, hierarchy.leaves.lng_deg)
    assert oracle_leaves(hierarchy, ocean_lat, ocean_lng)[0] == km.argmin()
