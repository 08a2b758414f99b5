"""Posteriors of every kind of bundle in every mode against brute force in float64, and what is read from them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from indexer.bundles.bundle import Bundle
from indexer.bundles.leaf_index import IndexChoice, stand_ins
from indexer.vectors.scoring import log_product, log_softmax
from search.answers.engine import Engine
from search.answers.options import ModeName, SearchOptions
from search.retrieval.posterior import LEFT_OUT, Posterior, joined_posteriors, posterior_of
from tests.conftest import unit_rows
from tests.search.conftest import MODES, WIDTH, MakeBundle

CASES = [
    (IndexChoice(kind, precision), prior)
    for kind, precision in (("flat", "fp32"), ("ivf", "fp32"), ("ivf", "fp16"))
    for prior in (0.0, 1.5)
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].kind}-{case[0].precision}-{case[1]:g}")
def bundle(request: pytest.FixtureRequest, made: MakeBundle) -> Bundle:
    return made(*request.param)


def rounding(bundle: Bundle) -> float:
    """How far probabilities can be off, as a share, for the bits that leaf vectors are kept in."""
    return 0.05 if bundle.index_facts.precision == "fp16" else 1e-4


def dense(posterior: Posterior, n_leaves: int) -> np.ndarray:
    result = np.zeros((len(posterior), n_leaves))
    result[posterior.query, posterior.leaf] = posterior.probability
    return result


@pytest.mark.parametrize("mode", MODES)
def test_probabilities_are_those_of_brute_force(bundle: Bundle, mode: ModeName) -> None:
    probes = {} if mode == "exact" else {"probes": 10**9}  # all leaves are visited, so all of them count
    engine = Engine(bundle, options=SearchOptions(mode=mode, **probes))
    queries = stand_ins(bundle.model, n=60, seed=1)
    logs = log_product(bundle.model, queries)
    expected = np.exp(log_softmax(logs))
    posterior = engine.find(queries).posterior
    assert posterior is not None
    found = dense(posterior, bundle.model.n_leaves)
    listed = found > 0
    np.testing.assert_allclose(found[listed], expected[listed], rtol=rounding(bundle))
    assert (expected * ~listed).sum(axis=1).max() <= LEFT_OUT * (1 + rounding(bundle))
    np.testing.assert_allclose(posterior.left_out, (expected * ~listed).sum(axis=1), atol=rounding(bundle))
    assert posterior.counted.tolist() == [bundle.model.n_leaves] * 60
    entropy = -(expected * np.log(expected)).sum(axis=1)
    np.testing.assert_allclose(posterior.entropy(), entropy, atol=LEFT_OUT * np.log(1 / LEFT_OUT) + rounding(bundle))


def test_a_beam_counts_what_it_visits(bundle: Bundle) -> None:
    engine = Engine(bundle, options=SearchOptions(mode="beam", probes=1))
    posterior = engine.find(unit_rows(40, WIDTH, seed=2)).posterior
    assert posterior is not None
    assert posterior.counted.max() < bundle.model.n_leaves
    np.testing.assert_allclose(dense(posterior, bundle.model.n_leaves).sum(axis=1) + posterior.left_out, 1, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_answers_hold_the_probabilities_that_a_search_gives(bundle: Bundle, mode: ModeName) -> None:
    queries = unit_rows(30, WIDTH, seed=3)
    hits = Engine(bundle, options=SearchOptions(mode=mode)).search_prepared(queries, k=3)
    told = Engine(bundle, options=SearchOptions(mode=mode, point="mass")).answer(queries, k=3).hits
    np.testing.assert_array_equal(told.leaf, hits.leaf)
    np.testing.assert_allclose(told.probability, hits.probability, rtol=rounding(bundle))


def test_no_query_has_no_posterior(bundle: Bundle) -> None:
    posterior = Engine(bundle).find(np.empty((0, WIDTH), np.float32)).posterior
    assert posterior is not None
    assert len(posterior) == len(posterior.entropy()) == 0
    assert len(joined_posteriors([])) == 0


def test_entropy_by_hand() -> None:
    scores = torch.log(torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0, 0]]))
    np.testing.assert_allclose(posterior_of(scores, 1.0).entropy(), [0, np.log(4), np.log(2)], atol=1e-9)


@given(st.lists(st.integers(0, 19), max_size=30), st.floats(0.2, 5))
def test_taking_queries_takes_what_is_theirs(rows: list[int], temperature: float) -> None:
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32) * 4)
    whole = posterior_of(scores.clone(), temperature)
    taken = whole.take(np.array(rows, np.int64))
    np.testing.assert_array_equal(dense(taken, 50), dense(whole, 50)[rows])
    np.testing.assert_array_equal(taken.log_total, whole.log_total[rows])
    np.testing.assert_array_equal(taken.counted, whole.counted[rows])


@given(st.integers(0, 10_000), st.floats(0, 6), st.floats(1e-4, 0.2))
def test_a_flat_posterior_lists_little_more_than_it_must(seed: int, spread: float, left_out: float) -> None:
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.normal(0, spread, (3, 2000)).astype(np.float32))
    share = np.exp(scores.double().numpy())
    share = -np.sort(-share / share.sum(axis=1, keepdims=True), axis=1)
    needed = (np.cumsum(share, axis=1) < 1 - left_out).sum(axis=1) + 1
    found = posterior_of(scores, 1.0, left_out=left_out)
    held = np.bincount(found.query, found.probability, minlength=3)
    assert (held >= 1 - left_out).all()
    lengths = np.diff(found.begins)
    assert (lengths >= needed).all()
    # Leaves of nearly the same share stay or go together, in the worst case all.
    last = np.take_along_axis(share, needed[:, None] - 1, axis=1)
    alike = (share >= 0.99 * last).sum(axis=1)
    short = lengths.mean() <= 256  # together: then they stay as they are
    assert short or (lengths <= np.maximum(1.2 * alike, 256) + 40).all()
