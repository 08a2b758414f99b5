"""The meaning of a score: brute force over plain definitions, and the identity that makes it one search."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.geocells import Geocells
from indexer.vectors.scoring import (
    ScoringModel,
    cosine_product,
    leaf_vectors,
    level_log_probabilities,
    log_product,
    log_softmax,
    scores_of,
)
from tests.conftest import random_classes, random_geocells, unit_rows

WIDTH = 16


@pytest.fixture(scope="module")
def model(hierarchy: Hierarchy) -> ScoringModel:
    return ScoringModel(random_geocells(hierarchy, WIDTH, seed=0), hierarchy.ancestors, hierarchy.leaves.n_photos)


def product_by_definition(model: ScoringModel, query: np.ndarray, leaf: int) -> float:
    """The product of softmax probabilities over the levels, one number at a time."""
    product = 1.0
    for level, vectors in enumerate(model.geocells.vectors):
        similarities = [float(query.astype(float) @ row.astype(float)) for row in vectors]
        exponentials = [np.exp(s / model.geocells.temperatures[level]) for s in similarities]
        product *= exponentials[model.ancestors[leaf, level]] / sum(exponentials)
    return product


def test_log_product_is_the_product_of_softmax_probabilities(model: ScoringModel) -> None:
    query = unit_rows(1, WIDTH, seed=1)
    ours = log_product(model, query)[0]
    for leaf in range(0, model.n_leaves, 7):
        assert ours[leaf] == pytest.approx(np.log(product_by_definition(model, query[0], leaf)), rel=1e-10)


def test_each_level_is_a_probability_distribution(model: ScoringModel) -> None:
    queries = unit_rows(5, WIDTH, seed=2)
    for level in range(3):
        total = np.exp(level_log_probabilities(model, queries, level=level)).sum(axis=1)
        np.testing.assert_allclose(total, 1)


def test_leaf_vectors_score_as_the_product_up_to_a_constant(model: ScoringModel) -> None:
    queries = unit_rows(20, WIDTH, seed=3)
    difference = queries @ leaf_vectors(model).T - log_product(model, queries)
    assert np.ptp(difference, axis=1).max() < 1e-4


def test_scores_of_rank_all_leaves_as_the_product_does(model: ScoringModel) -> None:
    queries = unit_rows(50, WIDTH, seed=4)
    every = np.tile(np.arange(model.n_leaves), (len(queries), 1))
    ours = np.argsort(-scores_of(model, queries, every), axis=1, kind="stable")
    np.testing.assert_array_equal(ours, np.argsort(-log_product(model, queries), axis=1, kind="stable"))


@pytest.mark.parametrize("width", [5, 96, 255, 768])
def test_equal_leaves_score_equally_wherever_they_stand(width: int) -> None:
    """Forty leaves of one vector, as those of split cells are, and one query many times."""
    level = np.repeat(unit_rows(1, width, seed=7), 40, axis=0)
    geocells = Geocells([level, level], np.array([0.07, 0.03]), np.ones(2), "h", None)
    model = ScoringModel(geocells, np.arange(40)[:, None].repeat(2, axis=1), np.ones(40, np.int64))
    queries = np.repeat(unit_rows(1, width, seed=8), 30, axis=0)
    for k in (1, 3, 40):
        assert len(np.unique(scores_of(model, queries, np.tile(np.arange(k), (30, 1))))) == 1


def test_two_negative_cosines_cannot_win() -> None:
    """Leaf 0 lies opposite to the photo at both levels, leaf 1 at a right angle: raw cosines multiply to +1 and 0."""
    level = np.array([[-1.0, 0.0], [0.0, 1.0]], np.float32)
    geocells = Geocells([level, level], np.full(2, 0.07), np.ones(2), "h", None)
    model = ScoringModel(geocells, np.array([[0, 0], [1, 1]]), np.ones(2, np.int64))
    query = np.array([[1.0, 0.0]], np.float32)
    assert np.prod([level @ query[0]] * 2, axis=0).argmax() == 0
    assert log_product(model, query)[0].argmax() == 1


def test_mean_of_crops_is_the_mean_of_logits(model: ScoringModel) -> None:
    """Ten crops averaged per level before the softmax rank as one query with the mean vector, not renormalised."""
    crops = unit_rows(10, WIDTH, seed=5)
    expected = np.zeros(model.n_leaves)
    for level, vectors in enumerate(model.geocells.vectors):
        logits = (crops.astype(float) @ vectors.T.astype(float)).mean(axis=0) / model.geocells.temperatures[level]
        expected += log_softmax(logits)[model.ancestors[:, level]]
    mean = crops.mean(axis=0, keepdims=True)
    np.testing.assert_allclose(log_product(model, mean)[0], expected, atol=1e-5)


def test_level_weights_are_exponents(model: ScoringModel) -> None:
    queries = unit_rows(4, WIDTH, seed=6)
    finest = replace(model, geocells=replace(model.geocells, level_weights=np.array([0.0, 0.0, 1.0])))
    expected = level_log_probabilities(model, queries, level=2)
    np.testing.assert_allclose(log_product(finest, queries), expected)


@given(exponent=st.floats(-2, 2).filter(lambda value: value == 0 or abs(value) > 1e-6), seed=st.integers(0, 20))
@settings(max_examples=25)
def test_a_prior_is_a_power_of_the_share_of_photos(model: ScoringModel, exponent: float, seed: int) -> None:
    queries = unit_rows(5, WIDTH, seed)
    favoured = replace(model, geocells=replace(model.geocells, prior_exponent=exponent))
    share = model.n_photos / model.n_photos.sum()
    expected = log_product(model, queries) + exponent * np.log(share)
    np.testing.assert_allclose(log_product(favoured, queries), expected, atol=1e-9)
    # As one more dimension it ranks as the product does.
    by_vectors = favoured.extended(queries).astype(np.float64) @ leaf_vectors(favoured).astype(np.float64).T
    constant = by_vectors - expected
    np.testing.assert_allclose(constant, constant[:, :1].repeat(model.n_leaves, axis=1), atol=1e-4)
    every = np.tile(np.arange(model.n_leaves), (len(queries), 1))
    np.testing.assert_allclose(scores_of(favoured, queries, every), by_vectors, atol=1e-4)
    assert leaf_vectors(favoured).shape[1] == favoured.leaf_width == WIDTH + bool(exponent)


@settings(max_examples=25)
@given(st.permutations([0, 1, 2]))
def test_order_of_levels_does_not_change_scores(model: ScoringModel, order: list[int]) -> None:
    geocells = model.geocells
    shuffled = ScoringModel(
        replace(
            geocells,
            vectors=[geocells.vectors[level] for level in order],
            temperatures=geocells.temperatures[order],
            level_weights=geocells.level_weights[order],
        ),
        model.ancestors[:, order],
        model.n_photos,
    )
    queries = unit_rows(3, WIDTH, seed=7)
    np.testing.assert_allclose(log_product(shuffled, queries), log_product(model, queries), atol=1e-9)


def test_log_softmax_survives_large_logits() -> None:
    logs = log_softmax(np.array([[1e6, 1e6 - 1, -1e6]]))
    np.testing.assert_allclose(np.exp(logs).sum(), 1)
    assert logs[0, 0] == pytest.approx(-np.log1p(np.exp(-1)))


@pytest.mark.parametrize("exponent", [0.0, 0.7])
def test_classes_multiply_with_their_biases(hierarchy: Hierarchy, exponent: float) -> None:
    """A classifier's logits, one number at a time, against all ways in which they are searched."""
    classes = replace(
        random_classes(hierarchy, WIDTH, seed=3), level_weights=np.array([0.5, 1.0, 2.0]), prior_exponent=exponent
    )
    model = ScoringModel(classes, hierarchy.ancestors, hierarchy.leaves.n_photos)
    queries = unit_rows(6, WIDTH, seed=9)
    expected = np.zeros((6, model.n_leaves)) + exponent * np.log(model.n_photos / model.n_photos.sum())
    assert classes.biases is not None
    for level, (vectors, biases) in enumerate(zip(classes.vectors, classes.biases, strict=True)):
        logits = queries.astype(float) @ vectors.T.astype(float) / classes.temperatures[level] + biases
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected += classes.level_weights[level] * np.log(shares)[:, model.ancestors[:, level]]
    np.testing.assert_allclose(log_product(model, queries), expected, atol=1e-8)
    by_vectors = model.extended(queries).astype(np.float64) @ leaf_vectors(model).astype(np.float64).T
    np.testing.assert_allclose(np.ptp(by_vectors - expected, axis=1), 0, atol=1e-3)
    every = np.tile(np.arange(model.n_leaves), (6, 1))
    np.testing.assert_allclose(scores_of(model, queries, every), by_vectors, atol=1e-3)
    assert np.linalg.norm(leaf_vectors(model), axis=1).max() <= model.longest
    some = np.array([4, 2])
    np.testing.assert_allclose(
        scores_of(model.only(some), queries, every[:, :2]), scores_of(model, queries, every)[:, some]
    )
    with pytest.raises(InputError, match="classes of a classifier"):
        cosine_product(model, queries, kind="affine")
