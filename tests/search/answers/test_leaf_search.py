"""Every kind of leaf index in every mode: right scores, honest names, few misses, clear refusals."""

import numpy as np
import pytest

from indexer.bundles.bundle import Bundle
from indexer.bundles.faiss_index import list_count
from indexer.errors import InputError
from indexer.vectors.scoring import log_product, log_softmax, scores_of
from search.answers.engine import Engine
from search.answers.options import ModeName
from tests.conftest import unit_rows
from tests.search.conftest import MODES, WIDTH, best_of, opened


@pytest.mark.parametrize("mode", MODES)
def test_answers_are_nearly_always_the_best_and_scores_are_right(bundle: Bundle, mode: ModeName) -> None:
    queries = unit_rows(300, WIDTH, seed=1)
    engine = opened(bundle, mode)
    hits = engine.search(queries, k=3)
    product = log_product(bundle.model, queries)
    assert (hits.leaf[:, 0] == product.argmax(axis=1)).mean() > 0.95
    np.testing.assert_allclose(hits.score, scores_of(bundle.model, queries, hits.leaf), rtol=1e-13)
    assert (np.diff(hits.score) <= 0).all()
    assert (np.diff(hits.probability) <= 0).all()
    expected = np.take_along_axis(np.exp(log_softmax(product)), hits.leaf, axis=1)
    if mode == "exact":
        assert engine.counts == "all leaves"
        np.testing.assert_array_equal(hits.leaf, best_of(bundle.model, queries, 3))
        np.testing.assert_allclose(hits.probability, expected, rtol=1e-4)
    else:
        assert engine.counts == "visited leaves"
        exact = (bundle.index_facts.kind, bundle.index_facts.precision) != ("ivf", "int8")
        assert (hits.probability >= (1 - 1e-2 if exact else 0.9) * expected).all()  # shares of fewer leaves are larger
        assert (hits.probability.sum(axis=1) <= 1 + 1e-9).all()


def test_auto_searches_as_the_bundle_was_built_to_be(bundle: Bundle) -> None:
    mode = "beam" if list_count(bundle.leaf_index) else "exact"
    hits = Engine(bundle).search(unit_rows(3, WIDTH, seed=0))
    assert hits.mode.tolist() == [mode] * 3
    assert Engine(bundle).search_facts["mode"] == mode


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_depend_on_the_batch(bundle: Bundle, mode: ModeName) -> None:
    queries = unit_rows(25, WIDTH, seed=6)
    engine = opened(bundle, mode)
    whole = engine.search(queries, k=3)
    for row in (0, 7, 24):
        single = engine.search(queries[row : row + 1], k=3)
        np.testing.assert_array_equal(single.leaf[0], whole.leaf[row])
        np.testing.assert_array_equal(single.score[0], whole.score[row])
        np.testing.assert_allclose(single.probability[0], whole.probability[row], rtol=1e-5)


@pytest.mark.parametrize("mode", ["auto", *MODES])
@pytest.mark.parametrize(
    ("vectors", "k", "message"),
    [
        (unit_rows(2, WIDTH + 1, 0), 1, "another encoder"),
        (unit_rows(2, WIDTH, 0)[0], 1, "shape"),
        (np.full((2, WIDTH), np.nan, np.float32), 1, "not finite, the first in row 0"),
        (unit_rows(2, WIDTH, 0), 0, "`k` must be"),
        (unit_rows(2, WIDTH, 0), 2.5, "`k` must be a whole number .* not 2.5"),
        (unit_rows(2, WIDTH, 0), 10**6, "`k` must be"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_every_mode(
    engine: Engine, mode: ModeName, vectors: np.ndarray, k: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        opened(engine.bundle, mode).search(vectors, k=k)


@pytest.mark.parametrize("mode", ["auto", *MODES])
@pytest.mark.parametrize("probability", [True, False])
def test_no_query_gives_no_answer_in_every_mode(engine: Engine, mode: ModeName, probability: bool) -> None:
    hits = opened(engine.bundle, mode).search(np.empty((0, WIDTH), np.float32), k=2, probability=probability)
    assert hits.leaf.shape == hits.score.shape == hits.probability.shape == (0, 2)
    assert hits.mode.shape == (0,)
