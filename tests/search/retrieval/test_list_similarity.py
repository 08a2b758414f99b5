"""How like the other photos of its list a photo is, against all pairs in float64."""

import numpy as np
import pytest

from indexer.bundles.bundle import Bundle
from search.retrieval.list_similarity import ListSimilarity


@pytest.fixture
def expected(photo_bundle: Bundle) -> np.ndarray:
    gallery = photo_bundle.gallery
    assert gallery is not None
    vectors = gallery.vectors(0, len(gallery)).astype(np.float64)
    same = gallery.leaf[:, None] == gallery.leaf
    np.fill_diagonal(same, False)
    total = np.where(same, vectors @ vectors.T, 0).sum(axis=1)
    return np.divide(total, same.sum(axis=1), out=np.full(len(gallery), np.nan), where=same.any(axis=1))


@pytest.mark.parametrize("seed", range(3))
def test_means_are_those_of_all_pairs_in_whatever_order_they_are_wanted(
    photo_bundle: Bundle, expected: np.ndarray, seed: int
) -> None:
    gallery = photo_bundle.gallery
    assert gallery is not None
    similarity, rng = ListSimilarity(gallery), np.random.default_rng(seed)
    for _ in range(4):
        rows = rng.integers(0, len(gallery), 60)
        np.testing.assert_allclose(similarity(rows, gallery.leaf[rows].astype(np.int64)), expected[rows], atol=1e-5)


def test_the_only_photo_of_a_list_is_like_no_other(photo_bundle: Bundle, expected: np.ndarray) -> None:
    gallery = photo_bundle.gallery
    assert gallery is not None
    lone = np.flatnonzero(np.isin(gallery.leaf, np.flatnonzero(np.diff(gallery.begins) == 1)))
    assert lone.size
    np.testing.assert_array_equal(np.isnan(expected), np.isin(np.arange(len(gallery)), lone))
    assert np.isnan(ListSimilarity(gallery)(lone, gallery.leaf[lone].astype(np.int64))).all()


def test_each_list_is_read_once(photo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = photo_bundle.gallery
    assert gallery is not None
    read, vectors = [], type(gallery).vectors

    def counted(own: object, begin: int, end: int) -> np.ndarray:
        read.append((begin, end))
        return np.asarray(vectors(gallery, begin, end))

    monkeypatch.setattr(type(gallery), "vectors", counted)
    similarity, rows = ListSimilarity(gallery), np.arange(len(gallery))
    for _ in range(2):
        similarity(rows, gallery.leaf.astype(np.int64))
    assert len(read) == len(set(read)) == int((np.diff(gallery.begins) > 1).sum())
