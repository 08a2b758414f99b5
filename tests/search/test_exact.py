"""Exact search against brute force in float64: the same leaves, the same order, ties by leaf."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.faiss_index import flat_index, search_index
from indexer.geocells import Geocells
from indexer.scoring import ScoringModel, leaf_vectors, log_product
from search.engine import Engine
from search.exact import exact_search, rounding_bound
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH


def brute_force(model: ScoringModel, queries: np.ndarray) -> np.ndarray:
    product = log_product(model, queries)
    leaves = np.broadcast_to(np.arange(model.n_leaves), product.shape)
    return np.lexsort((leaves, -product), axis=1)


def search(model: ScoringModel, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows = leaf_vectors(model)
    index = flat_index(rows)

    def candidates(vectors: np.ndarray, n: int, *, probes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        return search_index(index, model.extended(vectors), n, probes=probes)

    return exact_search(queries, candidates=candidates, leaf_vectors=rows, model=model, k=k)


def test_every_leaf_comes_in_the_order_of_the_product(engine: Engine) -> None:
    model = engine.bundle.model
    queries = unit_rows(200, WIDTH, seed=1)
    leaves, scores = search(model, queries, model.n_leaves)
    np.testing.assert_array_equal(leaves, brute_force(model, queries))
    assert (np.diff(scores) <= 0).all()


@pytest.mark.parametrize("k", [1, 3, 10])
def test_the_best_leaves_are_the_best_of_brute_force(engine: Engine, k: int) -> None:
    model = engine.bundle.model
    queries = unit_rows(300, WIDTH, seed=2)
    leaves, _ = search(model, queries, k)
    np.testing.assert_array_equal(leaves, brute_force(model, queries)[:, :k])


@pytest.mark.parametrize("exponent", [-1.0, 0.3, 20.0])
def test_a_prior_changes_the_order_and_the_answers_follow(engine: Engine, exponent: float) -> None:
    plain = engine.bundle.model
    model = replace(plain, geocells=replace(plain.geocells, prior_exponent=exponent))
    queries = unit_rows(100, WIDTH, seed=8)
    leaves, scores = search(model, queries, 5)
    np.testing.assert_array_equal(leaves, brute_force(model, queries)[:, :5])
    assert (leaves[:, 0] != brute_force(plain, queries)[:, 0]).any()
    assert (np.diff(scores) <= 0).all()


def test_a_mean_of_crops_is_a_query_like_any_other(engine: Engine) -> None:
    queries = unit_rows(50 * 10, WIDTH, seed=3).reshape(50, 10, WIDTH).mean(axis=1)
    leaves, _ = search(engine.bundle.model, queries, 5)
    np.testing.assert_array_equal(leaves, brute_force(engine.bundle.model, queries)[:, :5])


def tied_model(n_leaves: int, seed: int, spread: float) -> ScoringModel:
    """Leaves in crowds whose vectors agree but for `spread`: float32 cannot tell them apart, float64 can."""
    rng = np.random.default_rng(seed)
    coarse = unit_rows(3, 6, seed)
    fine = np.repeat(unit_rows(4, 6, seed + 1), -(-n_leaves // 4), axis=0)[:n_leaves].astype(np.float64)
    fine += spread * rng.normal(size=fine.shape)
    fine = (fine / np.linalg.norm(fine, axis=1, keepdims=True)).astype(np.float32)
    geocells = Geocells([coarse, fine], np.array([0.02, 0.01]), np.ones(2), "h", None)
    ancestors = np.stack([np.sort(rng.integers(0, 3, n_leaves)), np.arange(n_leaves)], axis=1)
    return ScoringModel(geocells, ancestors, np.ones(n_leaves, np.int64))


@settings(max_examples=40)
@given(st.integers(1, 80), st.integers(0, 10_000), st.sampled_from([0.0, 1e-7, 1e-6, 1e-3]), st.data())
def test_ties_and_near_ties_keep_the_order_of_float64(
    n_leaves: int, seed: int, spread: float, data: st.DataObject
) -> None:
    model = tied_model(n_leaves, seed, spread)
    k = data.draw(st.integers(1, n_leaves))
    queries = unit_rows(5, 6, seed + 2)
    leaves, scores = search(model, queries, k)
    product = log_product(model, queries)
    best = np.sort(product, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(np.take_along_axis(product, leaves, axis=1), best, atol=1e-9)
    equal = scores[:, 1:] == scores[:, :-1]
    assert (leaves[:, 1:] > leaves[:, :-1])[equal].all()


def test_equal_leaves_are_answered_in_leaf_order() -> None:
    model = tied_model(64, seed=0, spread=0.0)
    queries = unit_rows(20, 6, seed=9)
    for k in (1, 5, 64):
        leaves, scores = search(model, queries, k)
        whole, _ = search(model, queries, 64)
        np.testing.assert_array_equal(leaves, whole[:, :k])
        assert (np.diff(scores) <= 0).all()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 400), st.floats(0.01, 1000))
def test_the_rounding_bound_holds(seed: int, width: int, scale: float) -> None:
    queries = unit_rows(4, width, seed)
    exact = unit_rows(30, width, seed + 1).astype(np.float64) * scale
    stored = exact.astype(np.float32)
    found, rows = flat_index(stored).search(queries, 30)
    truth = np.take_along_axis(queries.astype(np.float64) @ exact.T, rows, axis=1)
    assert (np.abs(found - truth) <= rounding_bound(queries, stored)[:, None]).all()
