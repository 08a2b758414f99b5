"""A reranker that is fitted: better on what it did not see where there is something to learn, the same each time."""

from dataclasses import replace

import numpy as np
import pytest

from indexer.bundles.gallery import Gallery
from indexer.vectors.scoring import leaf_vectors, scores_of
from search.calibration import reranker_fit
from search.calibration.held_out import HeldOutQueries
from search.calibration.photo_fit import MOST_NEAR, PhotoSample
from search.calibration.reranker_fit import FOLDS, fit_reranker
from search.evaluation.options import Resampling
from search.retrieval.exact import ExactSearch
from search.retrieval.gallery_lists import GalleryLists
from search.retrieval.proof import tensor_of
from tests.search.calibration.conftest import PhotoWorld
from tests.search.gallery_oracle import FIT

FEW = replace(FIT, near=20, width_km=200)


def sample_of(world: PhotoWorld, queries: HeldOutQueries) -> PhotoSample:
    bundle = world.bundle
    gallery = bundle.gallery
    assert isinstance(gallery, Gallery)
    near = GalleryLists(gallery).nearest(queries.queries, None, near=MOST_NEAR)
    return PhotoSample(
        queries,
        near=near,
        leaf_score=scores_of(bundle.model, queries.queries, np.maximum(near.leaf, 0)),
        gallery=gallery,
        leaves=bundle.hierarchy.leaves,
        with_photos=np.diff(gallery.begins) > 0,
        search=ExactSearch(bundle.model, tensor_of(leaf_vectors(bundle.model)), low_precision=False),
    )


def test_it_is_better_on_what_it_did_not_see(photo_world: PhotoWorld) -> None:
    """The numbers trust similarity far too little, which a reranker can mend."""
    fit = replace(FEW, similarity=0.5, gamma=0.0)
    queries, fresh = photo_world.sample(250, seed=70), photo_world.sample(250, seed=71)
    sample, others = sample_of(photo_world, queries), sample_of(photo_world, fresh)
    cells = sample.cells_part(1.0, 0.0)
    fold = queries.folds(FOLDS)
    found = fit_reranker(sample, fit, cells, fold=fold, resampling=Resampling(200))
    assert 0 < found.interval.low < found.gain < found.interval.high
    without, with_it = (
        others.loss(fit, others.cells_part(1.0, 0.0), added) for added in (None, found.reranker(others.properties(fit)))
    )
    assert without - with_it == pytest.approx(found.gain, abs=0.3 * found.gain + 0.02)
    # What is told of queries is told by what did not see them.
    assert len(found.of_fold) == FOLDS
    properties = sample.properties(fit)
    for number, reranker in enumerate(found.of_fold):
        own = found.fold == number
        np.testing.assert_allclose(found.unseen[own], reranker(properties[own]), atol=1e-9)
    gained = sample.losses(fit, cells) - sample.losses(fit, cells, found.unseen)
    assert found.gain == pytest.approx(gained.mean())


def test_what_a_fold_says_of_a_query_does_not_depend_on_where_that_was_taken(photo_world: PhotoWorld) -> None:
    queries = photo_world.sample(60, seed=72)
    fold = queries.folds(FOLDS)
    elsewhere = (fold == 2) & (queries.leaf >= 0)
    # In another leaf, not in none: how much leaves weigh beside places is a number of all queries.
    moved = replace(
        queries,
        lat_deg=np.where(elsewhere, -queries.lat_deg, queries.lat_deg),
        leaf=np.where(elsewhere, np.maximum(queries.leaf - 1, 0), queries.leaf),
    )
    found = []
    for each in (queries, moved):
        sample = sample_of(photo_world, each)
        cells = sample.cells_part(1.0, 0.0)
        found.append(fit_reranker(sample, FEW, cells, fold=fold, resampling=Resampling(100)))
    assert np.abs(found[0].unseen[elsewhere]).max() > 0
    np.testing.assert_array_equal(found[1].unseen[elsewhere], found[0].unseen[elsewhere])
    assert found[1].reranker != found[0].reranker


def test_the_same_queries_give_the_same_reranker(photo_world: PhotoWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reranker_fit, "_STEPS", 20)
    queries = photo_world.sample(50, seed=73)
    sample = sample_of(photo_world, queries)
    cells = sample.cells_part(1.0, 0.0)
    one, two = (
        fit_reranker(sample, FEW, cells, fold=queries.folds(FOLDS), resampling=Resampling(100)) for _ in range(2)
    )
    assert one.reranker == two.reranker
    assert one.interval == two.interval
    monkeypatch.setattr(reranker_fit, "_STEPS", 0)
    nothing = fit_reranker(sample, FEW, cells, fold=queries.folds(FOLDS), resampling=Resampling(100))
    assert not nothing.unseen.any()
    assert nothing.gain == 0


def test_where_there_is_nothing_to_learn_no_gain_is_found(
    photo_world: PhotoWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        queries = photo_world.sample(80, seed=74 + seed)
        sample, noise = sample_of(photo_world, queries), np.random.default_rng(seed).normal(size=(80, FEW.near, 9))
        monkeypatch.setattr(sample, "properties", lambda fit, noise=noise: noise.astype(np.float32))
        cells = sample.cells_part(1.0, 0.0)
        found = fit_reranker(sample, FEW, cells, fold=queries.folds(FOLDS), resampling=Resampling(200))
        assert found.interval.low <= 0


def test_queries_without_photos_teach_nothing_and_change_nothing(photo_world: PhotoWorld) -> None:
    queries = photo_world.sample(40, seed=77)
    sample = sample_of(photo_world, queries)
    near, none = sample._near, np.arange(40) % 4 == 0
    sample._near = replace(
        near,
        row=np.where(none[:, None], -1, near.row),
        similarity=np.where(none[:, None], -np.inf, near.similarity),
    )
    cells = sample.cells_part(1.0, 0.0)
    found = fit_reranker(sample, FEW, cells, fold=queries.folds(FOLDS), resampling=Resampling(100))
    losses = sample.losses(FEW, cells), sample.losses(FEW, cells, found.unseen)
    assert np.isfinite(losses[1]).all()
    np.testing.assert_array_equal(losses[0][none], losses[1][none])
    assert (losses[0][~none] != losses[1][~none]).any()
