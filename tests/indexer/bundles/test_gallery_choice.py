"""How photos count where nothing was fitted, against what all photos say by brute force."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.bundles import gallery_choice
from indexer.bundles.build_config import GalleryConfig
from indexer.bundles.gallery import Gallery
from indexer.bundles.gallery_choice import LISTS, WEIGHT, choose, enough_lists, likeliest_similarity
from indexer.cells.hierarchy import Hierarchy
from indexer.earth.geo import haversine_km, unit_vectors
from indexer.vectors.calibration import PhotoFit, usual_photo_fit
from indexer.vectors.scoring import ScoringModel, log_product
from tests.conftest import random_geocells, unit_rows
from tests.indexer.bundles.gallery_worlds import WIDTH, photos, write

FIT = replace(usual_photo_fit(200.0), similarity=0.05)
NOISE = 0.5  # of a vector's length: with it a choice by photos with their own part holds 98.8 %


@pytest.fixture(scope="module")
def gallery(hierarchy: Hierarchy, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    folder = tmp_path_factory.mktemp("list-choice")
    config = GalleryConfig(gallery_precision="fp32", keep_duplicates=True)
    return write(folder / "G", photos(hierarchy, n=200, alike=40), hierarchy, config)[1]


@pytest.fixture(scope="module")
def model(hierarchy: Hierarchy) -> ScoringModel:
    return ScoringModel(random_geocells(hierarchy, WIDTH, seed=0), hierarchy.ancestors, hierarchy.leaves.n_photos)


def near_all(gallery: Gallery, *, near: int = FIT.near) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All photos as queries to the others: rows, vectors, and the rows and similarities of those near to each."""
    vectors, everybody = gallery.vectors(0, len(gallery)), np.arange(len(gallery))
    found = gallery_choice._most_similar(gallery, everybody, vectors, near=near, same_km=1.0)
    return everybody, vectors, *found


def lists_of(gallery: Gallery, model: ScoringModel, fit: PhotoFit) -> int:
    return enough_lists(gallery, model, *near_all(gallery, near=fit.near), fit)


def held(gallery: Gallery, model: ScoringModel, fit: PhotoFit) -> np.ndarray:
    """The weight that the lists of the first 1, 2, ... leaves surely hold, on average over all photos: (leaves,)."""
    vectors = gallery.vectors(0, len(gallery))
    score, leaf, shares = log_product(model, vectors), gallery.leaf, []
    for row in range(len(gallery)):
        for level, scale in zip(model.ancestors.T, model.scales, strict=True):  # cells without it
            mates = np.flatnonzero(level[leaf] == level[leaf[row]])
            rest = vectors[mates[mates != row]].astype(float).sum(axis=0)
            whole = rest + vectors[row]
            without = vectors[row] @ rest / max(np.linalg.norm(rest), 1e-9)
            with_it = vectors[row] @ whole / np.linalg.norm(whole)
            score[row, level == level[leaf[row]]] -= scale * (with_it - without)
        apart = haversine_km(gallery.lat_deg[row], gallery.lng_deg[row], gallery.lat_deg, gallery.lng_deg)
        similarity = np.where(apart < 1, -np.inf, vectors.astype(float) @ vectors[row].astype(float))
        near = np.argsort(-similarity, kind="stable")[: fit.near]
        evidence = fit.gamma * score[row, leaf[near]] + similarity[near] / fit.similarity
        weight = np.exp(evidence - evidence.max()) * gallery.stands_for[near]
        rank = np.argsort(np.argsort(-score[row], kind="stable"))
        shares.append(np.cumsum(np.bincount(rank[leaf[near]], weight / weight.sum(), minlength=model.n_leaves)))
    return np.mean(shares, axis=0) - 1.645 * np.std(shares, axis=0) / np.sqrt(len(shares))


def test_the_fewest_lists_that_hold_enough_are_chosen(gallery: Gallery, model: ScoringModel) -> None:
    chosen = set()
    for gamma in (0.0, 0.3, 3.0):
        fit = replace(FIT, gamma=gamma)
        share, n = held(gallery, model, fit), lists_of(gallery, model, fit)
        chosen.add(n)
        assert share[n - 1] >= WEIGHT - 1e-4
        fewer = [each for each in LISTS if each < n]
        assert not fewer or share[fewer[-1] - 1] < WEIGHT + 1e-4
        assert n in LISTS or n == model.n_leaves
    assert len(chosen) > 1  # the more leaves' scores count, the fewer lists


def test_new_photos_find_the_weight_that_was_promised(hierarchy: Hierarchy, tmp_path: Path) -> None:
    """Leaves' vectors are noisy means of few photos, which are nearer to them than photos that come later."""
    rng, leaves, n = np.random.default_rng(11), len(hierarchy.leaves), 3 * len(hierarchy.leaves)
    centres = unit_rows(leaves, WIDTH, 12)

    def taken(leaf: np.ndarray) -> np.ndarray:
        vectors = centres[leaf] + NOISE * rng.normal(size=(len(leaf), WIDTH)) / np.sqrt(WIDTH)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    world = photos(hierarchy, n=n, alike=0)
    placed = replace(world.placed, vectors=taken(world.leaf))
    config = GalleryConfig(gallery_precision="fp32", keep_duplicates=True)
    _, gallery = write(tmp_path / "G", replace(world, placed=placed), hierarchy, config)
    means = []
    for level, cells in zip(hierarchy.levels, hierarchy.ancestors[gallery.leaf].T, strict=True):
        total = 1e-3 * unit_rows(len(level), WIDTH, 13).astype(float)  # of cells without photos
        np.add.at(total, cells, gallery.vectors(0, n))
        means.append((total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32))
    geocells = replace(world.geocells, vectors=means)
    model = ScoringModel(geocells, hierarchy.ancestors, hierarchy.leaves.n_photos)
    fit = replace(FIT, gamma=0.3)
    lists = lists_of(gallery, model, fit)
    assert lists < leaves
    queries = taken(rng.choice(world.leaf, 2000))
    score = log_product(model, queries)
    similarity = queries.astype(float) @ gallery.vectors(0, n).T
    rank = np.argsort(np.argsort(-score, axis=1), axis=1)[:, gallery.leaf]
    evidence = fit.gamma * score[:, gallery.leaf] + similarity / fit.similarity
    evidence[similarity < np.sort(similarity, axis=1)[:, -fit.near, None]] = -np.inf
    weight = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    share = np.where(rank < lists, weight, 0.0).sum(axis=1) / weight.sum(axis=1)
    assert share.mean() >= WEIGHT


def test_a_choice_depends_on_nothing_but_its_seed(
    gallery: Gallery, model: ScoringModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = choose(gallery, model, leaf_width_km=200.0)
    monkeypatch.setattr(gallery_choice, "_TOGETHER", 7)
    assert choose(gallery, model, leaf_width_km=200.0) == whole
    monkeypatch.setattr(gallery_choice, "_SAMPLE", 20)
    assert choose(gallery, model, leaf_width_km=200.0, seed=3) == choose(gallery, model, leaf_width_km=200.0, seed=3)


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_the_likeliest_similarity_is_that_of_a_loop(hierarchy: Hierarchy, tmp_path: Path, noise: float) -> None:
    """Photos whose vectors are their places, under noise: the noisier, the less the most similar one says."""
    rng, n, width_km = np.random.default_rng(5), 160, 400.0
    world = photos(hierarchy, n=n, alike=0)
    places = unit_vectors(world.placed.lat_deg, world.placed.lng_deg)
    vectors = np.pad(places, ((0, 0), (0, WIDTH - 3))) + noise * rng.normal(size=(n, WIDTH)) / np.sqrt(WIDTH)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    placed = replace(world.placed, vectors=vectors)
    config = GalleryConfig(gallery_precision="fp32", keep_duplicates=True)
    _, gallery = write(tmp_path / "G", replace(world, placed=placed), hierarchy, config)
    sample, vectors, rows, similarity = near_all(gallery, near=100)
    usual = usual_photo_fit(width_km)
    chosen = likeliest_similarity(gallery, sample, rows, similarity, usual)
    floor = 0.01 / (np.pi * (width_km / 2) ** 2 * len(hierarchy.leaves))

    def loss(tau: float) -> float:
        by_width = np.zeros(len(gallery_choice._WIDTHS))
        for row in range(len(gallery)):
            km = haversine_km(
                gallery.lat_deg[row], gallery.lng_deg[row], gallery.lat_deg[rows[row]], gallery.lng_deg[rows[row]]
            )
            there = km >= 1.0
            weight = np.where(there, np.exp((similarity[row] - similarity[row].max()) / tau), 0.0)
            for number, factor in enumerate(gallery_choice._WIDTHS):
                concentration = (6371.0 / (factor * width_km)) ** 2
                bell = np.exp(concentration * (np.cos(km / 6371.0) - 1)) * concentration / (2 * np.pi * 6371.0**2)
                by_width[number] -= np.log(0.99 * (weight / weight.sum()) @ bell + floor)
        return float(by_width.min())

    losses = [loss(tau) for tau in gallery_choice._SIMILARITIES.tolist()]
    assert chosen == gallery_choice._SIMILARITIES[int(np.argmin(losses))]


def test_photos_of_one_place_say_nothing_of_each_other(
    hierarchy: Hierarchy, model: ScoringModel, tmp_path: Path
) -> None:
    """Then no photo has any other to ask, and all lists are looked at."""
    world = photos(hierarchy, n=30, alike=0)
    lat, lng = np.full(30, 10.0), np.full(30, 20.0)
    placed = replace(world.placed, lat_deg=lat, lng_deg=lng, cells=hierarchy.locate(lat, lng))
    _, gallery = write(tmp_path / "G", replace(world, placed=placed), hierarchy, GalleryConfig(keep_duplicates=True))
    choice = choose(gallery, model, leaf_width_km=200.0)
    assert (choice.similarity, choice.lists) == (usual_photo_fit(200.0).similarity, model.n_leaves)


def test_neither_itself_nor_its_owner_says_where_a_photo_was_taken(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, everybody = gallery.vectors(0, len(gallery)), np.arange(len(gallery))
    rows, similarity = gallery_choice._most_similar(gallery, everybody, vectors, near=len(gallery), same_km=0.0)
    assert (similarity[rows == everybody[:, None]] == -np.inf).all()
    owner = everybody % 3 - 1  # a third is nobody's
    monkeypatch.setattr(Gallery, "owner_numbers", lambda self: (owner, None))
    owned = replace(gallery, facts=replace(gallery.facts, owners=True))
    rows, similarity = gallery_choice._most_similar(owned, everybody, vectors, near=len(gallery), same_km=0.0)
    looked_at = np.zeros((len(gallery), len(gallery)), bool)
    query, place = np.nonzero(similarity > -np.inf)
    looked_at[query, rows[query, place]] = True
    may = (owner != owner[:, None]) | (owner < 0)
    apart = (gallery.lat_deg != gallery.lat_deg[:, None]) | (gallery.lng_deg != gallery.lng_deg[:, None])
    np.testing.assert_array_equal(looked_at[apart], may[apart])
    assert not looked_at[~may].any()
