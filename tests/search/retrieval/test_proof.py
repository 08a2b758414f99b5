"""Every mode against brute force in float64: the same leaves, the same order, ties by leaf; and the bounds hold."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.bundles.bundle import Bundle
from indexer.bundles.faiss_index import Precision, flat_index, list_count
from indexer.bundles.leaf_index import list_index
from indexer.vectors.geocells import Geocells
from indexer.vectors.scoring import ScoringModel, leaf_vectors, log_product, log_softmax, scores_of
from search.answers.engine import Engine
from search.retrieval import proof
from search.retrieval.adaptive import AdaptiveSearch
from search.retrieval.exact import ExactSearch
from search.retrieval.found import Search, Wanted
from search.retrieval.lists import BeamSearch, HierarchyLists
from search.retrieval.proof import LeafScores, float32_error
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH


def brute_force(model: ScoringModel, queries: np.ndarray) -> np.ndarray:
    product = log_product(model, queries)
    leaves = np.broadcast_to(np.arange(model.n_leaves), product.shape)
    return np.lexsort((leaves, -product), axis=1)


def scan(model: ScoringModel, *, kind: torch.dtype = torch.float32, low_precision: bool = False) -> Search:
    return ExactSearch(model, torch.from_numpy(leaf_vectors(model)).to(kind), low_precision=low_precision)


def lists_of(model: ScoringModel, precision: Precision, *, level: int = 0) -> HierarchyLists:
    index = list_index(model, leaf_vectors(model), level, precision)
    return HierarchyLists(model, index, level=level, probes=list_count(index))


# Every way to look at all leaves: each is exact.
COMPLETE: dict[str, Callable[[ScoringModel], Search]] = {
    "float32": scan,
    "bfloat16": lambda model: scan(model, low_precision=True),
    "float16 rows": lambda model: scan(model, kind=torch.float16),
    "all lists": lambda model: BeamSearch(model, lists_of(model, "fp32")),
    "all lists, fp16": lambda model: BeamSearch(model, lists_of(model, "fp16")),
    "all lists, int8": lambda model: BeamSearch(model, lists_of(model, "int8")),
    "adaptive": lambda model: AdaptiveSearch(
        model, lists_of(model, "fp32"), leaf_vectors(model), probes=1, max_probes=10**9
    ),
}
each_way = pytest.mark.parametrize("way", COMPLETE)


def search(way: str, model: ScoringModel, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Leaves and scores, which are the same whether probabilities are asked for or not."""
    searching = COMPLETE[way](model)
    with_them, without = (searching(queries, k, Wanted(temperature=t)) for t in (1.5, None))
    np.testing.assert_array_equal(with_them.leaf, without.leaf)
    np.testing.assert_array_equal(with_them.score, without.score)
    assert np.isnan(without.probability).all()
    return with_them.leaf, with_them.score


@each_way
def test_every_leaf_comes_in_the_order_of_the_product(way: str, engine: Engine) -> None:
    model = engine.bundle.model
    queries = unit_rows(100, WIDTH, seed=1)
    leaves, scores = search(way, model, queries, model.n_leaves)
    np.testing.assert_array_equal(leaves, brute_force(model, queries))
    assert (np.diff(scores) <= 0).all()


@each_way
@pytest.mark.parametrize("k", [1, 3, 10])
def test_the_best_leaves_are_the_best_of_brute_force(way: str, engine: Engine, k: int) -> None:
    model = engine.bundle.model
    queries = unit_rows(300, WIDTH, seed=2)
    leaves, _ = search(way, model, queries, k)
    np.testing.assert_array_equal(leaves, brute_force(model, queries)[:, :k])


@each_way
@pytest.mark.parametrize("temperature", [0.5, 1.0, 30.0])
def test_probabilities_are_those_of_brute_force(way: str, engine: Engine, temperature: float) -> None:
    model = engine.bundle.model
    queries = unit_rows(100, WIDTH, seed=2)
    found = COMPLETE[way](model)(queries, 4, Wanted(temperature=temperature))
    if way == "adaptive":  # counts the leaves it visited, which are fewer
        return
    want = np.take_along_axis(np.exp(log_softmax(log_product(model, queries) / temperature)), found.leaf, axis=1)
    exact = way in ("float32", "bfloat16", "all lists")
    np.testing.assert_allclose(found.probability, want, rtol=1e-4 if exact else 0.1)


@each_way
@pytest.mark.parametrize("exponent", [-1.0, 0.3, 20.0])
def test_a_prior_changes_the_order_and_the_answers_follow(way: str, engine: Engine, exponent: float) -> None:
    plain = engine.bundle.model
    model = replace(plain, geocells=replace(plain.geocells, prior_exponent=exponent))
    queries = unit_rows(100, WIDTH, seed=8)
    leaves, scores = search(way, model, queries, 5)
    np.testing.assert_array_equal(leaves, brute_force(model, queries)[:, :5])
    assert (leaves[:, 0] != brute_force(plain, queries)[:, 0]).any()
    assert (np.diff(scores) <= 0).all()


@each_way
def test_a_mean_of_crops_is_a_query_like_any_other(way: str, engine: Engine) -> None:
    queries = unit_rows(50 * 10, WIDTH, seed=3).reshape(50, 10, WIDTH).mean(axis=1)
    leaves, _ = search(way, engine.bundle.model, queries, 5)
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


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(COMPLETE)),
    st.integers(1, 80),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1e-7, 1e-6, 1e-3]),
    st.data(),
)
def test_ties_and_near_ties_keep_the_order_of_float64(
    way: str, n_leaves: int, seed: int, spread: float, data: st.DataObject
) -> None:
    model = tied_model(n_leaves, seed, spread)
    k = data.draw(st.integers(1, n_leaves))
    queries = unit_rows(5, 6, seed + 2)
    leaves, scores = search(way, model, queries, k)
    product = log_product(model, queries)
    best = np.sort(product, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(np.take_along_axis(product, leaves, axis=1), best, atol=1e-9)
    equal = scores[:, 1:] == scores[:, :-1]
    assert (leaves[:, 1:] > leaves[:, :-1])[equal].all()


@each_way
def test_equal_leaves_are_answered_in_leaf_order(way: str) -> None:
    model = tied_model(64, seed=0, spread=0.0)
    queries = unit_rows(20, 6, seed=9)
    for k in (1, 5, 64):
        leaves, scores = search(way, model, queries, k)
        whole, _ = search(way, model, queries, 64)
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
    lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
    longest = np.linalg.norm(stored.astype(np.float64), axis=1).max()
    assert (np.abs(found - truth) <= (float32_error(width) * longest * lengths)[:, None]).all()


def test_pairs_have_the_scores_that_numpy_gives(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = unit_rows(6, WIDTH, seed=0)
    leaves = np.random.default_rng(1).integers(0, bundle.model.n_leaves, (6, 9))
    want = scores_of(bundle.model, queries, leaves)
    scores = LeafScores(bundle.model, torch.device("cpu"))
    row = torch.arange(6).repeat_interleave(9)
    pairs = torch.from_numpy(queries), row, torch.from_numpy(leaves.ravel())
    found = scores(*pairs)
    np.testing.assert_allclose(found.numpy().reshape(6, 9), want, rtol=1e-13)
    monkeypatch.setitem(proof._NUMBERS, "cpu", 4 * WIDTH)
    torch.testing.assert_close(scores(*pairs), found, rtol=0, atol=0)
