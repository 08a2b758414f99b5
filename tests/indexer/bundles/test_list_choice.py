"""How many lists are looked at where nothing was fitted, against the weights of all photos by brute force."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles import list_choice
from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.gallery import Gallery
from indexer.bundles.list_choice import LISTS, WEIGHT, enough_lists
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km
from indexer.vectors.calibration import PhotoFit, usual_photo_fit
from indexer.vectors.scoring import ScoringModel, log_product
from tests.conftest import random_geocells
from tests.indexer.bundles.gallery_worlds import WIDTH, photos, write

FIT = replace(usual_photo_fit(200.0), similarity=0.05)


@pytest.fixture(scope="module")
def gallery(hierarchy: Hierarchy, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    folder = tmp_path_factory.mktemp("list-choice")
    config = GalleryConfig(gallery_precision="fp32", keep_duplicates=True)
    return write(folder / "G", photos(hierarchy, n=200, alike=40), hierarchy, config)[1]


@pytest.fixture(scope="module")
def model(hierarchy: Hierarchy) -> ScoringModel:
    return ScoringModel(random_geocells(hierarchy, WIDTH, seed=0), hierarchy.ancestors, hierarchy.leaves.n_photos)


def held(gallery: Gallery, model: ScoringModel, fit: PhotoFit) -> np.ndarray:
    """The weight that the lists of the first 1, 2, ... leaves hold, on average over all photos: (leaves,)."""
    vectors = gallery.vectors(0, len(gallery))
    score, leaf, total, n = log_product(model, vectors), gallery.leaf, np.zeros(model.n_leaves), 0
    for row in range(len(gallery)):
        apart = haversine_km(gallery.lat_deg[row], gallery.lng_deg[row], gallery.lat_deg, gallery.lng_deg)
        similarity = np.where(apart < 1, -np.inf, vectors.astype(float) @ vectors[row].astype(float))
        near = np.argsort(-similarity, kind="stable")[: fit.near]
        evidence = fit.gamma * score[row, leaf[near]] + similarity[near] / fit.similarity
        weight = np.exp(evidence - evidence.max()) * gallery.stands_for[near]
        rank = np.argsort(np.argsort(-score[row], kind="stable"))
        total += np.cumsum(np.bincount(rank[leaf[near]], weight / weight.sum(), minlength=model.n_leaves))
        n += 1
    return total / n


def test_the_fewest_lists_that_hold_enough_are_chosen(gallery: Gallery, model: ScoringModel) -> None:
    chosen = set()
    for gamma in (0.0, 0.3, 3.0):
        fit = replace(FIT, gamma=gamma)
        share, n = held(gallery, model, fit), enough_lists(gallery, model, fit)
        chosen.add(n)
        assert share[n - 1] >= WEIGHT - 1e-4
        fewer = [each for each in LISTS if each < n]
        assert not fewer or share[fewer[-1] - 1] < WEIGHT + 1e-4
        assert n in LISTS or n == model.n_leaves
    assert len(chosen) > 1  # the more leaves' scores count, the fewer lists


def test_a_choice_depends_on_nothing_but_its_seed(
    gallery: Gallery, model: ScoringModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = replace(FIT, gamma=0.3)
    whole = enough_lists(gallery, model, fit)
    monkeypatch.setattr(list_choice, "_TOGETHER", 7)
    assert enough_lists(gallery, model, fit) == whole
    monkeypatch.setattr(list_choice, "_SAMPLE", 20)
    assert enough_lists(gallery, model, fit, seed=3) == enough_lists(gallery, model, fit, seed=3)


def test_photos_of_one_place_say_nothing_of_each_other(
    hierarchy: Hierarchy, model: ScoringModel, tmp_path: Path
) -> None:
    """Then no photo has any other to ask, and all lists are looked at."""
    world = photos(hierarchy, n=30, alike=0)
    lat, lng = np.full(30, 10.0), np.full(30, 20.0)
    placed = replace(world.placed, lat_deg=lat, lng_deg=lng, cells=hierarchy.locate(lat, lng))
    _, gallery = write(tmp_path / "G", replace(world, placed=placed), hierarchy, GalleryConfig(keep_duplicates=True))
    assert enough_lists(gallery, model, FIT) == model.n_leaves
