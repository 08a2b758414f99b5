"""Recall on a sample of a job's queries: the same sample whatever the shards, and the share that brute force gives."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from indexer.bundles.bundle import Bundle
from indexer.earth.geo import haversine_km, lat_lng
from indexer.errors import InputError
from indexer.vectors.scoring import log_product
from search.answers import recall as recall_module
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.recall import RecallCheck
from tests.conftest import unit_rows
from tests.search.answers.test_photo_evidence import queries_of
from tests.search.conftest import WIDTH
from tests.search.gallery_oracle import FIT, brute_force, engine_with


def narrow(engine: Engine) -> Engine:
    return Engine(engine.bundle, options=SearchOptions(mode="beam", probes=1))


def ones(n: int) -> np.ndarray:
    return np.ones(n, np.int64)


def test_recall_is_the_share_that_brute_force_gives(engine: Engine) -> None:
    beam = narrow(engine)
    queries = unit_rows(120, WIDTH, seed=0)
    check = RecallCheck(beam, 1000)
    check.add(np.arange(120), queries, ones(120))
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
    check.add(np.arange(40), unit_rows(40, WIDTH, seed=1), ones(40))
    recall = check.measure()
    assert recall is not None
    assert (recall.queries, recall.at_1, recall.at_10) == (10, 1, 1)
    assert recall.photos is None  # the bundle has none
    assert str(recall).endswith("on 10 of the queries")


def test_the_sample_does_not_depend_on_the_shards_and_is_spread(engine: Engine) -> None:
    queries = unit_rows(1000, WIDTH, seed=2)
    whole, parts = (RecallCheck(narrow(engine), 50) for _ in range(2))
    whole.add(np.arange(1000), queries, ones(1000))
    for start in (400, 0, 700):
        rows = np.arange(start, {400: 700, 0: 400, 700: 1000}[start])
        parts.add(rows, queries[rows], ones(len(rows)))
    assert sorted(map(bytes, whole._queries)) == sorted(map(bytes, parts._queries))
    numbers = [int(np.flatnonzero((queries == kept).all(axis=1))[0]) for kept in whole._queries]
    assert 300 < np.mean(numbers) < 700
    assert len(set(np.array(numbers) // 100)) >= 8


def test_no_query_has_no_recall(engine: Engine) -> None:
    check = RecallCheck(engine, 10)
    check.add(np.empty(0, np.int64), np.empty((0, WIDTH), np.float32), ones(0))
    assert check.measure() is None


def test_what_cannot_be_checked_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="`score` cosine-affine has only one"):
        RecallCheck(Engine(engine.bundle, options=SearchOptions(score="cosine-affine")), 5)


def test_photos_of_the_querys_owner_are_left_out_of_it(photo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both searches leave them out, so lists are judged by the answers that are given."""
    given: list[np.ndarray] = []
    queries, engine = queries_of(photo_bundle), engine_with(photo_bundle, FIT, mode="exact", gallery="lists")
    find = Engine.find

    def without_owners(self: Engine, *arguments: np.ndarray, owners: np.ndarray | None = None, **rest: Any) -> Any:
        assert owners is not None
        given.append(owners)
        return find(self, *arguments, **rest)

    monkeypatch.setattr(Engine, "find", without_owners)
    check = RecallCheck(engine, 1000)
    check.add(np.arange(5), queries[:5], ones(5), owners=np.arange(5)[:, None])
    check.add(np.arange(5, 9), queries[5:9], ones(4), owners=np.arange(8).reshape(4, 2))
    assert check.measure() is not None
    assert len(given) == 2
    for owners in given:
        assert sorted(owners.tolist()) == [[0, -1], [0, 1], [1, -1], [2, -1], [2, 3], [3, -1], [4, -1], [4, 5], [6, 7]]


@pytest.mark.parametrize("n_lists", [1, 6, 10**6])
def test_of_photos_it_is_what_brute_force_over_all_of_them_gives(
    photo_bundle: Bundle, n_lists: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Albums among the queries: how many photos they are made of changes weights."""
    monkeypatch.setattr(recall_module, "_TOGETHER", 7)
    queries, fit, gallery = queries_of(photo_bundle), replace(FIT, lists=n_lists), photo_bundle.gallery
    assert gallery is not None
    n_photos = 1 + np.arange(len(queries)) % 3
    engine = engine_with(photo_bundle, fit, mode="exact", gallery="lists")
    check = RecallCheck(engine, 1000)
    for rows in np.array_split(np.arange(len(queries)), 3)[::-1]:
        check.add(rows, queries[rows], n_photos[rows])
    recall = check.measure()
    assert recall is not None
    found = recall.photos
    assert found is not None

    truth = brute_force(photo_bundle, fit, queries, n_photos=n_photos)
    best = np.argsort(-log_product(photo_bundle.model, queries), axis=1, kind="stable")[:, :n_lists]
    looked_at = (gallery.leaf[None, :, None] == best[:, None, :]).any(axis=2)
    assert (found.queries, found.within_km) == (len(queries), pytest.approx(fit.width_km / 10))
    assert found.weight == pytest.approx(np.where(looked_at, truth.weight, 0).sum(axis=1).mean(), abs=1e-5)
    few = engine.find(queries, n_photos=n_photos).evidence
    assert few is not None
    there = looked_at.any(axis=1)
    np.testing.assert_array_equal(few.there, there)
    km = haversine_km(*lat_lng(truth.points[there]), *lat_lng(few.points[there]))
    assert found.stayed == pytest.approx((km <= found.within_km).sum() / len(queries))
    if n_lists == 6:
        assert 0 < found.weight < 1
        assert 0 < found.stayed < 1
    if n_lists == 10**6:
        assert (found.weight, found.stayed) == (pytest.approx(1), 1)
    assert f"{found.weight:.2%} of the weight" in str(recall)
    assert f"{found.stayed:.2%} of the points are within 6 km" in str(recall)


def test_of_all_photos_nothing_is_missed_and_of_none_nothing_said(photo_bundle: Bundle) -> None:
    queries = queries_of(photo_bundle)
    for gallery in ("all", "off"):
        check = RecallCheck(Engine(photo_bundle, options=SearchOptions(gallery=gallery)), 5)  # type: ignore[arg-type]
        check.add(np.arange(len(queries)), queries, ones(len(queries)))
        recall = check.measure()
        assert recall is not None
        assert (recall.photos is None) == (gallery == "off")
        if recall.photos is not None:
            assert (recall.photos.queries, recall.photos.weight, recall.photos.stayed) == (5, pytest.approx(1), 1)
