"""The loss that photos are fitted by against the formulas by brute force; fits that beat what they began with."""

from dataclasses import replace

import numpy as np
import pytest

from indexer.earth.geo import EARTH_RADIUS_KM, unit_vectors
from indexer.vectors.calibration import PhotoFit, usual_photo_fit
from indexer.vectors.scoring import leaf_vectors, scores_of
from search.calibration import photo_fit
from search.calibration.held_out import HeldOutQueries
from search.calibration.photo_fit import MOST_NEAR, PhotoSample, fit_photos
from search.retrieval.exact import ExactSearch
from search.retrieval.gallery_lists import GalleryLists
from search.retrieval.proof import tensor_of
from tests.search.calibration.conftest import PhotoWorld
from tests.search.gallery_oracle import FIT, brute_force

FLOOR = 1e-3


def sample_of(world: PhotoWorld, queries: HeldOutQueries, *, photos: np.ndarray | None = None) -> PhotoSample:
    """Of all photos of the gallery, or of some."""
    bundle = world.bundle
    assert bundle.gallery is not None
    lists = GalleryLists(bundle.gallery, photos=photos)
    near = lists.nearest(queries.queries, None, near=MOST_NEAR)
    return PhotoSample(
        queries,
        near=near,
        leaf_score=scores_of(bundle.model, queries.queries, np.maximum(near.leaf, 0)),
        gallery=bundle.gallery,
        leaves=bundle.hierarchy.leaves,
        with_photos=lists.sizes > 0,
        search=ExactSearch(bundle.model, tensor_of(leaf_vectors(bundle.model)), low_precision=False),
    )


def loss_by_hand(
    world: PhotoWorld,
    queries: HeldOutQueries,
    fit: PhotoFit,
    temperature: float,
    growth: float,
    photos: np.ndarray | None,
) -> float:
    truth = brute_force(
        *(world.bundle, fit, queries.queries),
        temperature=temperature,
        growth=growth,
        n_photos=queries.n_photos,
        may=photos,
    )
    places = unit_vectors(queries.lat_deg, queries.lng_deg)
    density = np.array([truth.density(row, places[row : row + 1])[0] for row in range(len(queries))])
    inside = np.flatnonzero(queries.leaf >= 0)
    right = truth.posterior[inside, queries.leaf[inside]]
    of_leaf = -np.log((1 - FLOOR) * right + FLOOR / truth.posterior.shape[1]).mean()
    return float(of_leaf - np.log((1 - FLOOR) * density + FLOOR / (4 * np.pi * EARTH_RADIUS_KM**2)).mean())


@pytest.mark.parametrize(
    "fit",
    [FIT, replace(FIT, cells=0.0, near=5), replace(FIT, cells=1.0, gamma=0.0, width_km=5, near=150)],
)
@pytest.mark.parametrize("few", [False, True])
def test_the_loss_is_that_of_brute_force(photo_world: PhotoWorld, fit: PhotoFit, few: bool) -> None:
    """Of queries inside and outside of leaves, near and far from photos; with and without photos in most lists."""
    queries = photo_world.sample(40, seed=20)
    queries = replace(queries, leaf=np.where(np.arange(40) % 5, queries.leaf, -1))
    assert photo_world.bundle.gallery is not None
    photos = np.arange(len(photo_world.bundle.gallery)) % 300 == 0 if few else None
    sample = sample_of(photo_world, queries, photos=photos)
    for temperature in (0.7, 2.5):
        found = sample.loss(fit, sample.cells_part(temperature, 0.0))
        assert found == pytest.approx(loss_by_hand(photo_world, queries, fit, temperature, 0.0, photos), abs=2e-4)


def test_the_loss_of_albums_is_that_of_brute_force(photo_world: PhotoWorld) -> None:
    queries = photo_world.sample(40, seed=21)
    n_photos = np.arange(40) % 4 + 1
    album = replace(queries, queries=(queries.queries * n_photos[:, None]).astype(np.float32), n_photos=n_photos)
    sample = sample_of(photo_world, album)
    assert sample.albums
    for growth in (0.0, 1.0):
        fit = replace(FIT, growth=growth)
        found = sample.loss(fit, sample.cells_part(1.4, growth))
        assert found == pytest.approx(loss_by_hand(photo_world, album, fit, 1.4, growth, None), abs=2e-4)


def test_queries_that_no_leaf_holds_are_judged_by_their_places_alone(photo_world: PhotoWorld) -> None:
    queries = photo_world.sample(30, seed=22)
    nowhere = replace(queries, leaf=np.full(30, -1))
    sample = sample_of(photo_world, nowhere)
    truth = brute_force(photo_world.bundle, FIT, queries.queries)
    places = unit_vectors(queries.lat_deg, queries.lng_deg)
    density = np.array([truth.density(row, places[row : row + 1])[0] for row in range(30)])
    expected = -np.log((1 - FLOOR) * density + FLOOR / (4 * np.pi * EARTH_RADIUS_KM**2)).mean()
    assert sample.loss(FIT, sample.cells_part(1.0, 0.0)) == pytest.approx(expected, abs=2e-4)


def test_a_fit_beats_its_start_on_what_it_saw_and_on_what_it_did_not(
    photo_world: PhotoWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_fit, "_ROUNDS", 2)
    leaf_width = float(np.median(photo_world.bundle.hierarchy.leaves.width_km))
    seen, unseen = (sample_of(photo_world, photo_world.sample(n, seed=seed)) for n, seed in ((200, 23), (300, 24)))
    for start in (usual_photo_fit(leaf_width), replace(FIT, similarity=1.0, width_km=3000, cells=1.0)):
        fit, temperature = fit_photos(seen, start, temperature=1.0, growth=0.0, leaf_width_km=leaf_width)
        again = fit_photos(seen, start, temperature=1.0, growth=0.0, leaf_width_km=leaf_width)
        assert (fit, temperature) == again
        for sample in (seen, unseen):
            before, after = (
                sample.loss(each, sample.cells_part(at, 0.0)) for each, at in ((start, 1.0), (fit, temperature))
            )
            assert after < before
        # What is not looked at here stays as it was.
        assert (fit.growth, fit.point_width_km, fit.lists) == (start.growth, start.point_width_km, start.lists)
        assert 0.5 <= temperature <= 2
        assert isinstance(fit.near, int)


def test_numbers_that_are_fixed_stay_and_others_are_fitted(
    photo_world: PhotoWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_fit, "_ROUNDS", 1)
    leaf_width = float(np.median(photo_world.bundle.hierarchy.leaves.width_km))
    seen, start = sample_of(photo_world, photo_world.sample(200, seed=23)), usual_photo_fit(leaf_width)
    free, kept = (
        fit_photos(seen, start, temperature=1.0, growth=0.0, leaf_width_km=leaf_width, fixed=fixed)[0]
        for fixed in ((), ("gamma", "cells"))
    )
    assert (kept.gamma, kept.cells) == (start.gamma, start.cells) != (free.gamma, free.cells)
    assert (kept.similarity, kept.width_km) != (start.similarity, start.width_km)


def test_growth_is_fitted_to_albums(photo_world: PhotoWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Albums of one photo, seen again and again, say what one says."""
    monkeypatch.setattr(photo_fit, "_ROUNDS", 2)
    queries = photo_world.sample(150, seed=25)
    n_photos = np.arange(150) % 9 + 1
    album = replace(queries, queries=(queries.queries * n_photos[:, None]).astype(np.float32), n_photos=n_photos)
    leaf_width = float(np.median(photo_world.bundle.hierarchy.leaves.width_km))
    start = usual_photo_fit(leaf_width)
    one, _ = fit_photos(sample_of(photo_world, queries), start, temperature=1.0, growth=1.0, leaf_width_km=leaf_width)
    assert one.growth == start.growth
    monkeypatch.setattr(photo_fit, "_GRIDS", {"growth": photo_fit._GRIDS["growth"]})
    fit, _ = fit_photos(sample_of(photo_world, album), one, temperature=1.0, growth=1.0, leaf_width_km=leaf_width)
    assert fit.growth >= 0.75


def test_where_no_photo_may_be_looked_at_cells_are_all(photo_world: PhotoWorld) -> None:
    queries = photo_world.sample(30, seed=26)
    assert photo_world.bundle.gallery is not None
    nothing = np.zeros(len(photo_world.bundle.gallery), bool)
    sample = sample_of(photo_world, queries, photos=nothing)
    losses = {sample.loss(replace(FIT, cells=cells), sample.cells_part(1.0, 0.0)) for cells in (0.0, 0.5, 1.0)}
    assert len(losses) == 1
    assert losses.pop() == pytest.approx(loss_by_hand(photo_world, queries, FIT, 1.0, 0.0, nothing), abs=2e-4)
