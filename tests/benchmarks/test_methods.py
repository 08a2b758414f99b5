from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.world.methods import (
    OrderCheck,
    brute_force_order,
    check_order,
    finest_level_leaves,
    index_follows_product,
    leaf_losses,
    oracle_leaves,
)
from indexer.bundles.bundle import build_bundle, open_bundle
from indexer.bundles.faiss_index import flat_index
from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.earth.geo import haversine_km
from indexer.vectors.geocells import Geocells
from indexer.vectors.scoring import ScoringModel, leaf_vectors, log_product
from search.answers.engine import Engine
from tests.conftest import random_geocells, unit_rows

WIDTH = 12


@pytest.fixture
def model() -> ScoringModel:
    """Two coarse cells with two leaves each; a photo at (1, 0) likes the first coarse cell and leaf 2."""
    coarse = np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)
    fine = np.array([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6], [0.0, 1.0]], np.float32)
    geocells = Geocells([coarse, fine], np.array([0.1, 0.1]), np.ones(2), "h", None)
    return ScoringModel(geocells, np.array([[0, 0], [0, 1], [1, 2], [1, 3]]), np.ones(4, np.int64))


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
    hierarchy = build_hierarchy(sorted_ids([(lat, lng)]), rule=PartitionRule(tau_max=(100, 30), tau_min=5))
    inside = hierarchy.locate(lat, lng)[:, -1]
    found = oracle_leaves(hierarchy, lat, lng)
    assert (found[inside >= 0] == inside[inside >= 0]).all()
    ocean_lat, ocean_lng = np.array([-28.0]), np.array([179.0])
    assert hierarchy.locate(ocean_lat, ocean_lng)[0, -1] == -1
    km = haversine_km(ocean_lat, ocean_lng, hierarchy.leaves.lat_deg, hierarchy.leaves.lng_deg)
    assert oracle_leaves(hierarchy, ocean_lat, ocean_lng)[0] == km.argmin()


@pytest.fixture(scope="module")
def engine(hierarchy: Hierarchy, hierarchy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    geocells = random_geocells(hierarchy, WIDTH, seed=0)
    versions = tmp_path_factory.mktemp("versions")
    return Engine(open_bundle(build_bundle(hierarchy_folder, geocells, versions, config={}, inputs={})))


def with_leaf_vectors(engine: Engine, change: Callable[[np.ndarray], np.ndarray]) -> Engine:
    vectors = change(leaf_vectors(engine.bundle.model)).astype(np.float32)
    return Engine(replace(engine.bundle, leaf_index=flat_index(vectors)))


def test_the_engine_keeps_the_order_for_every_query(engine: Engine) -> None:
    queries = unit_rows(1000, WIDTH, seed=1)
    assert check_order(engine, queries) == OrderCheck(1000, engine.bundle.model.n_leaves, 0)


def test_a_wrong_leaf_index_is_noticed_though_the_engine_makes_up_for_it(engine: Engine) -> None:
    queries = unit_rows(200, WIDTH, seed=2)
    noise = with_leaf_vectors(engine, lambda rows: np.random.default_rng(0).normal(scale=100, size=rows.shape))
    expected = brute_force_order(engine.bundle.model, queries)
    np.testing.assert_array_equal(noise.search(queries, k=noise.bundle.model.n_leaves).leaf, expected)
    assert check_order(noise, queries).differing == 200
    shifted = with_leaf_vectors(engine, lambda rows: np.roll(rows, 1, axis=0))
    assert check_order(shifted, queries).differing == 200


def test_one_wrong_leaf_vector_is_noticed(engine: Engine) -> None:
    def with_one_wrong(rows: np.ndarray) -> np.ndarray:
        rows[3] *= 1.01
        return rows

    assert not index_follows_product(with_leaf_vectors(engine, with_one_wrong), unit_rows(200, WIDTH, seed=3)).all()


def test_losses_are_of_the_true_leaf_and_of_none_where_there_is_none(engine: Engine) -> None:
    queries = unit_rows(700, WIDTH, seed=4)
    n_leaves = engine.n_leaves
    true = np.random.default_rng(5).integers(-1, n_leaves, len(queries))
    scores = log_product(engine.bundle.model, queries)
    posterior = np.exp(scores - scores.max(axis=1, keepdims=True))
    posterior /= posterior.sum(axis=1, keepdims=True)
    given = np.where(true < 0, np.nan, posterior[np.arange(len(true)), true])
    expected = -np.log(0.999 * given + 0.001 / n_leaves)
    np.testing.assert_allclose(leaf_losses(engine, queries, true), expected, rtol=1e-4)
