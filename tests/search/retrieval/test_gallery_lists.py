"""The photos most like queries, of some lists or all, against brute force; few, equal and forbidden ones."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder.models import device as devices
from indexer.bundles.bundle import Bundle
from indexer.bundles.gallery import Gallery
from search.retrieval import gallery_lists
from search.retrieval.gallery_lists import GalleryLists, NearPhotos
from search.retrieval.photo_products import ByteProducts, FloatProducts
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH


@pytest.fixture(autouse=True, params=["avx512_vnni", "avx2"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that multiplies bytes, and one that does not."""
    monkeypatch.setattr(devices.torch.cpu, "get_capabilities", lambda: {request.param: True})


@pytest.fixture(scope="module")
def gallery(photo_bundle: Bundle) -> Gallery:
    assert photo_bundle.gallery is not None
    return photo_bundle.gallery


def expected(gallery: Gallery, queries: np.ndarray, may: np.ndarray, near: int) -> list[np.ndarray]:
    """Rows of the most similar photos by brute force in float64; may: (Q, N) bool."""
    similarity = queries.astype(np.float64) @ gallery.vectors(0, len(gallery)).T.astype(np.float64)
    ranked = (np.argsort(-row, kind="stable") for row in similarity)
    return [rows[own[rows]][:near] for rows, own in zip(ranked, may, strict=True)]


def check(gallery: Gallery, found: NearPhotos, queries: np.ndarray, may: np.ndarray, near: int) -> None:
    """That the photos found are the best of those that may be; of two that float32 cannot tell apart, either."""
    vectors = gallery.vectors(0, len(gallery)).astype(np.float64)
    for query, rows in enumerate(expected(gallery, queries, may, near)):
        n, similarity = len(rows), vectors @ queries[query].astype(np.float64)
        own = found.row[query, :n]
        assert len(set(own.tolist())) == n
        assert may[query, own].all()
        np.testing.assert_allclose(similarity[own], similarity[rows], atol=1e-6)
        np.testing.assert_allclose(found.similarity[query, :n], similarity[own], atol=1e-6)
        assert (np.diff(found.similarity[query, :n]) <= 0).all()
        np.testing.assert_array_equal(found.leaf[query, :n], gallery.leaf[own])
        assert (found.row[query, n:] == -1).all()
        assert (found.leaf[query, n:] == -1).all()
        assert (found.similarity[query, n:] == -np.inf).all()


def in_lists(gallery: Gallery, lists: np.ndarray) -> np.ndarray:
    return np.stack([np.isin(gallery.leaf, own) for own in lists])


@pytest.mark.parametrize("near", [1, 7, 10_000])
def test_of_all_photos_the_most_similar_are_found(gallery: Gallery, near: int) -> None:
    queries = unit_rows(30, WIDTH, seed=1)
    near = min(near, len(gallery) + 3)
    check(
        gallery,
        GalleryLists(gallery).nearest(queries, None, near=near),
        queries,
        np.ones((30, len(gallery)), bool),
        near,
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([1, 5, 60]))
def test_of_some_lists_the_most_similar_are_found(gallery: Gallery, seed: int, n_lists: int, near: int) -> None:
    """Lists in any order, some of them empty, some queries with fewer than others."""
    rng = np.random.default_rng(seed)
    queries = unit_rows(12, WIDTH, seed)
    lists = np.stack([rng.permutation(gallery.n_leaves)[:n_lists] for _ in range(12)])
    lists[rng.random(lists.shape) < 0.2] = -1
    check(gallery, GalleryLists(gallery).nearest(queries, lists, near=near), queries, in_lists(gallery, lists), near)


def test_lists_that_are_all_there_are_give_what_all_photos_give(gallery: Gallery) -> None:
    queries = unit_rows(20, WIDTH, seed=2)
    lists = GalleryLists(gallery)
    order = np.stack([np.random.default_rng(row).permutation(gallery.n_leaves) for row in range(20)])
    some, everything = lists.nearest(queries, order, near=25), lists.nearest(queries, None, near=25)
    np.testing.assert_allclose(some.similarity, everything.similarity, atol=1e-6)
    check(gallery, some, queries, np.ones((20, len(gallery)), bool), 25)


def test_empty_lists_and_no_lists_hold_nothing(gallery: Gallery) -> None:
    empty = np.flatnonzero(np.diff(gallery.begins) == 0)
    assert empty.size > 3
    queries = unit_rows(3, WIDTH, seed=3)
    for lists in (np.tile(empty[:3], (3, 1)), np.full((3, 5), -1), np.empty((3, 0), np.int64)):
        found = GalleryLists(gallery).nearest(queries, lists, near=4)
        assert (found.row == -1).all()
        assert (found.leaf == -1).all()
        assert (found.similarity == -np.inf).all()
    nobody = GalleryLists(gallery).nearest(queries[:0], np.empty((0, 5), np.int64), near=4)
    assert nobody.row.shape == nobody.similarity.shape == (0, 4)


def test_photos_that_may_not_be_looked_at_are_as_if_they_were_not_there(gallery: Gallery) -> None:
    queries, rng = unit_rows(20, WIDTH, seed=4), np.random.default_rng(0)
    may = rng.random(len(gallery)) < 0.3
    lists = GalleryLists(gallery, photos=may)
    np.testing.assert_array_equal(lists.sizes, np.bincount(gallery.leaf[may], minlength=gallery.n_leaves))
    check(gallery, lists.nearest(queries, None, near=50), queries, np.tile(may, (20, 1)), 50)
    some = np.stack([rng.permutation(gallery.n_leaves)[:9] for _ in range(20)])
    check(gallery, lists.nearest(queries, some, near=50), queries, in_lists(gallery, some) & may, 50)
    none = GalleryLists(gallery, photos=np.zeros(len(gallery), bool)).nearest(queries, None, near=5)
    assert (none.row == -1).all()


def test_nobody_is_shown_photos_of_their_own(gallery: Gallery) -> None:
    queries, rng = unit_rows(20, WIDTH, seed=5), np.random.default_rng(0)
    of_photo, of_query = rng.integers(-1, 4, len(gallery)), rng.integers(-1, 4, 20)
    others = (of_photo != of_query[:, None]) | (of_photo < 0)  # what is nobody's is not anybody's own
    owners = (of_photo, of_query)
    check(gallery, GalleryLists(gallery).nearest(queries, None, near=30, owners=owners), queries, others, 30)
    some = np.stack([rng.permutation(gallery.n_leaves)[:20] for _ in range(20)])
    found = GalleryLists(gallery).nearest(queries, some, near=30, owners=owners)
    check(gallery, found, queries, in_lists(gallery, some) & others, 30)


def test_of_equals_the_first_rows_come_first(gallery: Gallery) -> None:
    """A query that is like no photo is as like all of them."""
    zero = np.zeros((2, WIDTH), np.float32)
    found = GalleryLists(gallery).nearest(zero, None, near=9)
    assert found.row.tolist() == [list(range(9))] * 2
    lists = np.stack([np.arange(gallery.n_leaves)[::-1], np.arange(gallery.n_leaves)])
    assert GalleryLists(gallery).nearest(zero, lists, near=9).row.tolist() == [list(range(9))] * 2


def test_how_much_is_looked_at_together_changes_nothing(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = unit_rows(15, WIDTH, seed=6)
    lists = np.stack([np.random.default_rng(row).permutation(gallery.n_leaves)[:40] for row in range(15)])
    whole = [GalleryLists(gallery).nearest(queries, each, near=20).row for each in (lists, None)]
    for name, value in (("_WAITING", 0), ("_FIRST", 1), ("_DECODED", 3)):
        monkeypatch.setattr(gallery_lists, name, value)
    for way in (FloatProducts, ByteProducts):
        monkeypatch.setattr(way, "rows_at_once", 3)  # fewer than some lists have
    for each, rows in zip((lists, None), whole, strict=True):
        np.testing.assert_array_equal(GalleryLists(gallery).nearest(queries, each, near=20).row, rows)
        alone = [
            GalleryLists(gallery)
            .nearest(queries[row : row + 1], None if each is None else each[row : row + 1], near=20)
            .row[0]
            for row in range(15)
        ]
        np.testing.assert_array_equal(alone, rows)


def test_some_queries_can_be_taken(gallery: Gallery) -> None:
    found = GalleryLists(gallery).nearest(unit_rows(5, WIDTH, seed=7), None, near=3)
    taken = found.take(np.array([4, 0]))
    np.testing.assert_array_equal(taken.row, found.row[[4, 0]])
    np.testing.assert_array_equal(taken.leaf, found.leaf[[4, 0]])
    np.testing.assert_array_equal(taken.similarity, found.similarity[[4, 0]])


@pytest.mark.parametrize("n_threads", [1, 3])
def test_photos_are_the_same_to_the_last_bit_whatever_is_asked_with_them(gallery: Gallery, n_threads: int) -> None:
    queries, before = unit_rows(200, WIDTH, seed=8), torch.get_num_threads()
    lists = np.stack([np.random.default_rng(row).permutation(gallery.n_leaves)[:30] for row in range(200)])
    torch.set_num_threads(n_threads)
    try:
        whole = GalleryLists(gallery).nearest(queries, lists, near=20)
    finally:
        torch.set_num_threads(before)
    assert torch.get_num_threads() == before
    for row in range(0, 200, 7):
        alone = GalleryLists(gallery).nearest(queries[row : row + 1], lists[row : row + 1], near=20)
        np.testing.assert_array_equal(alone.row[0], whole.row[row])
        np.testing.assert_array_equal(alone.similarity[0], whole.similarity[row])
    check(gallery, whole, queries, in_lists(gallery, lists), 20)


def test_an_error_in_a_thread_is_not_lost(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(FloatProducts, "above", fails)
    monkeypatch.setattr(ByteProducts, "above", fails)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(OSError, match="the disk is gone"):
        GalleryLists(gallery).nearest(unit_rows(4, WIDTH, seed=0), None, near=3)


def test_threads_that_begin_later_still_work_on_all_cores(photo_bundle: Bundle) -> None:
    assert photo_bundle.gallery is not None
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        GalleryLists(photo_bundle.gallery).nearest(unit_rows(9, WIDTH, seed=1), None, near=3)
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
