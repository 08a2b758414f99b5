"""Recall on a sample of a job's queries: the same sample whatever the shards, and the share that brute force gives."""

import numpy as np
import pytest

from indexer.errors import InputError
from indexer.vectors.scoring import log_product
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.recall import RecallCheck
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH


def narrow(engine: Engine) -> Engine:
    return Engine(engine.bundle, options=SearchOptions(mode="beam", probes=1))


def test_recall_is_the_share_that_brute_force_gives(engine: Engine) -> None:
    beam = narrow(engine)
    queries = unit_rows(120, WIDTH, seed=0)
    check = RecallCheck(beam, 1000)
    check.add(np.arange(120), queries)
    recall = check.measure()
    assert recall is not None
    order = np.argsort(-log_product(engine.bundle.model, queries), axis=1, kind="stable")[:, :10]
    first, ten = (beam.search(queries, k=k).leaf for k in (1, 10))
    assert recall.queries == 120
    assert recall.at_1 == (first[:, 0] == order[:, 0]).mean() < 1
    assert recall.at_10 == pytest.approx(
        np.mean([len(set(one) & set(two)) / 10 for one, two in zip(ten, order, strict=True)])
    )


def test_exact_search_misses_nothing(engine: Engine) -> None:
    check = RecallCheck(engine, 10)
    check.add(np.arange(40), unit_rows(40, WIDTH, seed=1))
    recall = check.measure()
    assert recall is not None
    assert (recall.queries, recall.at_1, recall.at_10) == (10, 1, 1)


def test_the_sample_does_not_depend_on_the_shards_and_is_spread(engine: Engine) -> None:
    queries = unit_rows(1000, WIDTH, seed=2)
    whole, parts = (RecallCheck(narrow(engine), 50) for _ in range(2))
    whole.add(np.arange(1000), queries)
    for start in (400, 0, 700):
        rows = np.arange(start, {400: 700, 0: 400, 700: 1000}[start])
        parts.add(rows, queries[rows])
    assert sorted(map(bytes, whole._queries)) == sorted(map(bytes, parts._queries))
    numbers = [int(np.flatnonzero((queries == kept).all(axis=1))[0]) for kept in whole._queries]
    assert 300 < np.mean(numbers) < 700
    assert len(set(np.array(numbers) // 100)) >= 8


def test_no_query_has_no_recall(engine: Engine) -> None:
    check = RecallCheck(engine, 10)
    check.add(np.empty(0, np.int64), np.empty((0, WIDTH), np.float32))
    assert check.measure() is None


def test_what_cannot_be_checked_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="`score` cosine-affine has only one"):
        RecallCheck(Engine(engine.bundle, options=SearchOptions(score="cosine-affine")), 5)
