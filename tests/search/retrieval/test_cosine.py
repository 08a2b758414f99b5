"""Raw cosines against brute force, on every kind of bundle."""

import numpy as np
import pytest

from indexer.bundles.bundle import Bundle
from indexer.errors import InputError
from search.answers.engine import Engine
from search.answers.options import ScoreName, SearchOptions
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH


@pytest.mark.parametrize("score", ["cosine-clamped", "cosine-affine"])
def test_raw_cosines_are_multiplied_by_brute_force(bundle: Bundle, score: ScoreName) -> None:
    engine = Engine(bundle, options=SearchOptions(score=score))
    queries = unit_rows(30, WIDTH, seed=8)
    hits = engine.search(queries, k=4)
    model = bundle.model
    products = np.ones((30, model.n_leaves))
    for level, vectors in enumerate(model.geocells.vectors):
        cosine = queries.astype(float) @ vectors.T.astype(float)
        factor = cosine.clip(0) if score == "cosine-clamped" else (1 + cosine) / 2
        products *= factor[:, model.ancestors[:, level]]
    if model.bias is not None:
        products *= np.exp(model.bias)
    np.testing.assert_allclose(hits.score, -np.sort(-products, axis=1)[:, :4], rtol=1e-9)
    np.testing.assert_allclose(hits.probability, hits.score / products.sum(axis=1, keepdims=True), rtol=1e-9)
    assert hits.mode.tolist() == [score] * 30
    assert engine.search_facts["score"] == score


def test_clamped_cosines_that_are_all_zero_make_all_leaves_alike(bundle: Bundle) -> None:
    model = bundle.model
    lost = Engine(bundle, options=SearchOptions(score="cosine-clamped")).search(np.zeros((1, WIDTH), np.float32), k=3)
    assert lost.leaf[0].tolist() == [0, 1, 2]
    assert lost.score[0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(lost.probability[0], 1 / model.n_leaves)


def test_cosines_have_no_posterior(bundle: Bundle) -> None:
    engine = Engine(bundle, options=SearchOptions(score="cosine-affine"))
    with pytest.raises(InputError, match="no probabilities"):
        engine.find(unit_rows(1, WIDTH, seed=0))
