"""What a reranker sees, against float64 by hand; in a city as on the whole Earth; and where little is known."""

from dataclasses import replace

import numpy as np
import pytest

from indexer.bundles.bundle import Bundle
from indexer.vectors.reranker import N_PROPERTIES
from indexer.vectors.scoring import scores_of
from search.answers.photo_properties import PhotoProperties
from search.retrieval.gallery_lists import GalleryLists, NearPhotos
from tests.search.answers.test_photo_evidence import queries_of
from tests.search.gallery_oracle import FIT, properties_by_hand


def near_of(bundle: Bundle, queries: np.ndarray, near: int) -> tuple[NearPhotos, np.ndarray]:
    """The photos nearest to queries, and the scores of their leaves."""
    assert bundle.gallery is not None
    found = GalleryLists(bundle.gallery).nearest(queries, None, near=near)
    return found, scores_of(bundle.model, queries, np.maximum(found.leaf, 0)).astype(np.float64)


@pytest.mark.parametrize("growth", [0.0, 0.5, 1.0])
def test_properties_are_those_of_float64(photo_bundle: Bundle, growth: float) -> None:
    fit, n_photos = replace(FIT, growth=growth), np.arange(35) % 4 + 1
    queries = (queries_of(photo_bundle) * n_photos[:, None]).astype(np.float32)
    near, score = near_of(photo_bundle, queries, fit.near)
    assert photo_bundle.gallery is not None
    found = PhotoProperties(photo_bundle.gallery, photo_bundle.hierarchy.leaves, fit=fit)(near, score, n_photos)
    assert found.shape == (35, fit.near, N_PROPERTIES)
    assert found.dtype == np.float32
    for number in range(35):
        own = near.row[number], near.similarity[number], score[number]
        expected = properties_by_hand(photo_bundle, fit, *own, float(n_photos[number]))
        np.testing.assert_array_equal(np.isnan(found[number]), np.isnan(expected))
        np.testing.assert_allclose(found[number], expected, rtol=2e-4, atol=2e-3)


def test_queries_with_fewer_photos_and_with_none(photo_bundle: Bundle) -> None:
    queries = queries_of(photo_bundle)
    near, score = near_of(photo_bundle, queries, 12)
    gallery = photo_bundle.gallery
    assert gallery is not None
    properties, one = PhotoProperties(gallery, photo_bundle.hierarchy.leaves, fit=FIT), np.ones(35, np.int64)
    few = np.arange(12) < (np.arange(35) % 13)[:, None]
    fewer = NearPhotos(
        np.where(few, near.row, -1), np.where(few, near.leaf, -1), np.where(few, near.similarity, -np.inf)
    )
    found = properties(fewer, np.where(few, score, 0.0), one)
    assert np.isnan(found[~few]).all()
    for number in np.flatnonzero(few.any(axis=1)):
        own = few[number]
        expected = properties_by_hand(
            photo_bundle, FIT, near.row[number, own], near.similarity[number, own], score[number, own], 1.0
        )
        np.testing.assert_allclose(found[number, own], expected, rtol=2e-4, atol=2e-3)


def test_queries_say_the_same_together_and_apart(photo_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    near, score = near_of(photo_bundle, queries_of(photo_bundle), 20)
    gallery = photo_bundle.gallery
    assert gallery is not None
    properties, one = PhotoProperties(gallery, photo_bundle.hierarchy.leaves, fit=FIT), np.ones(35, np.int64)
    together = properties(near, score, one)
    monkeypatch.setattr("search.answers.photo_properties._TOGETHER", 1000)
    np.testing.assert_allclose(properties(near, score, one), together, atol=1e-5)
    for rows in (slice(3, 4), slice(10, 17)):
        np.testing.assert_allclose(properties(near.take(rows), score[rows], one[rows]), together[rows], atol=1e-5)


def test_a_world_a_hundred_times_smaller_looks_the_same(photo_bundle: Bundle) -> None:
    """All places near the equator, so that distances shrink as degrees do."""
    near, score = near_of(photo_bundle, queries_of(photo_bundle), 20)
    gallery, leaves, seen = photo_bundle.gallery, photo_bundle.hierarchy.leaves, []
    assert gallery is not None
    for scale in (1e-2, 1e-4):
        smaller = replace(gallery, lat_deg=gallery.lat_deg * scale, lng_deg=gallery.lng_deg * scale)
        small = replace(leaves, s2_ids=None, radius_km=leaves.radius_km * scale * 20)
        seen.append(PhotoProperties(smaller, small, fit=FIT)(near, score, np.ones(35, np.int64)))
    assert np.ptp(seen[0][..., 4:], axis=1).max() > 1
    np.testing.assert_allclose(seen[1], seen[0], atol=5e-3)
