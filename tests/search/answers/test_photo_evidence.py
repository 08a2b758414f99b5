"""What photos and cells say together against brute force in float64, and where there is little to go by."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from indexer.bundles.bundle import Bundle
from indexer.bundles.gallery import Gallery
from indexer.cells.hierarchy import Level
from indexer.earth.geo import haversine_km, lat_lng, unit_vectors
from indexer.vectors.calibration import PhotoFit, Protocol
from indexer.vectors.reranker import N_PROPERTIES
from search.answers.engine import Engine
from search.answers.options import SearchOptions
from search.answers.photo_evidence import PhotoEvidence, photo_evidence
from search.answers.radii import LeafDiscs
from search.retrieval.gallery_lists import NearPhotos
from search.retrieval.posterior import Posterior, posterior_of
from tests.conftest import unit_rows
from tests.search.conftest import WIDTH
from tests.search.gallery_oracle import FIT, Truth, brute_force, calibrated, engine_with, random_reranker, unit

FITS = {
    "usual": FIT,
    "photos alone": replace(FIT, cells=0.0, gamma=0.0),
    "cells alone": replace(FIT, cells=1.0),
    "all photos": replace(FIT, near=300, similarity=0.4, width_km=400, point_width_km=30),
    "one photo": replace(FIT, near=1),
    "narrow": replace(FIT, width_km=0.05, point_width_km=0.05, gamma=2.0),
}


def queries_of(bundle: Bundle, n: int = 30) -> np.ndarray:
    """Like leaves with photos, like ones without, and like nothing."""
    finest = bundle.model.geocells.vectors[-1]
    leaf = np.random.default_rng(0).integers(0, len(finest), n)
    return np.concatenate([unit(finest[leaf] + 0.5 * unit_rows(n, WIDTH, seed=8)), unit_rows(5, WIDTH, seed=9)])


def dense(posterior: Posterior, n_leaves: int) -> np.ndarray:
    found = np.zeros((len(posterior), n_leaves))
    found[posterior.query, posterior.leaf] = posterior.probability
    return found


def check(evidence: PhotoEvidence, truth: Truth, fit: PhotoFit) -> None:
    n_leaves = truth.cells.shape[1]
    weight = np.zeros_like(truth.weight)
    known = evidence.near.row >= 0
    query = np.nonzero(known)[0]
    weight[query, evidence.near.row[known]] = evidence.weight[known]
    np.testing.assert_allclose(weight, truth.weight, atol=2e-5)
    np.testing.assert_allclose(dense(evidence.posterior, n_leaves), truth.posterior, atol=3e-5)
    rng = np.random.default_rng(1)
    places = unit_vectors(rng.uniform(-90, 90, 4), rng.uniform(-180, 180, 4))
    for number in range(len(truth.cells)):
        own = slice(*evidence.density.begins[number : number + 2])
        assert evidence.density.weight[own].sum() == pytest.approx(1, abs=1e-5)
        at = np.concatenate([places, truth._places[truth.near[number][:3]], truth._middles[:3]])
        expected = truth.density(number, at)
        found = evidence.density.at(at, np.full(len(at), number))
        rtol = 1e-3 + 1e-5 / truth.share[number]  # the share of leaves with photos is 1 less that of others, in float32
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-4 * expected.max())
        at_photos = truth.density(number, truth._places[evidence.near.row[number, known[number]]], pointing=True)
        np.testing.assert_allclose(evidence.photo_density[number, known[number]], at_photos, rtol=rtol)
    assert (evidence.photo_density[~known] == -np.inf).all()
    np.testing.assert_allclose(evidence.points, truth.points, atol=2e-4 * max(fit.point_width_km, 1) / 6371)
    np.testing.assert_allclose(np.linalg.norm(evidence.points[evidence.there], axis=1), 1)


@pytest.mark.parametrize("name", FITS)
def test_weights_posterior_density_and_points_are_those_of_brute_force(photo_bundle: Bundle, name: str) -> None:
    fit, queries = FITS[name], queries_of(photo_bundle)
    engine = engine_with(photo_bundle, fit, temperature=1.7, mode="exact", gallery="all")
    found = engine.find(queries, k=3, left_out=0.0)
    truth = brute_force(photo_bundle, fit, queries, temperature=1.7)
    assert found.evidence is not None
    check(found.evidence, truth, fit)
    np.testing.assert_allclose(truth.posterior.sum(axis=1), 1)
    np.testing.assert_allclose(dense(found.evidence.posterior, truth.cells.shape[1]).sum(axis=1), 1, atol=1e-5)
    best = np.argsort(-truth.posterior, axis=1, kind="stable")[:, :3]
    np.testing.assert_allclose(found.hits.probability, np.take_along_axis(truth.posterior, best, axis=1), atol=3e-5)
    if name == "cells alone":
        np.testing.assert_allclose(truth.posterior, truth.cells)


def test_what_is_left_out_of_long_posteriors_is_all_that_is_missing(photo_bundle: Bundle) -> None:
    queries = queries_of(photo_bundle)
    engine = engine_with(photo_bundle, FIT, temperature=3.0, mode="exact", gallery="all")
    found = engine.find(queries)
    assert found.evidence is not None
    truth = brute_force(photo_bundle, FIT, queries, temperature=3.0)
    np.testing.assert_allclose(dense(found.evidence.posterior, truth.cells.shape[1]), truth.posterior, atol=1.1e-3)
    held = np.add.reduceat(found.evidence.density.weight, found.evidence.density.begins[:-1])
    assert (held <= 1 + 1e-6).all()
    assert (held >= 1 - 1.1e-3).all()


@pytest.mark.parametrize("growth", [0.0, 0.5, 1.0])
def test_albums_have_evidence_that_grows_with_their_photos(photo_bundle: Bundle, growth: float) -> None:
    fit, n_photos = replace(FIT, growth=growth), np.arange(35) % 6 + 1
    queries = (queries_of(photo_bundle) * n_photos[:, None]).astype(np.float32)
    bundle = calibrated(photo_bundle, fit, temperature=1.3, growth=0.75, protocol="album")
    engine = Engine(bundle, options=SearchOptions(mode="exact", gallery="all"), protocol="album")
    found = engine.find(queries, n_photos=n_photos, left_out=0.0)
    assert found.evidence is not None
    truth = brute_force(photo_bundle, fit, queries, temperature=1.3, growth=0.75, n_photos=n_photos)
    check(found.evidence, truth, fit)
    if growth == 1:  # n equal photos say what one says
        one = brute_force(photo_bundle, fit, queries_of(photo_bundle))
        np.testing.assert_allclose(truth.weight, one.weight, atol=1e-6)


@pytest.mark.parametrize("n_photos", [None, np.arange(35) % 4 + 1])
def test_reranked_photos_are_those_of_brute_force(photo_bundle: Bundle, n_photos: np.ndarray | None) -> None:
    reranker, queries = random_reranker(N_PROPERTIES, 8, seed=3), queries_of(photo_bundle)
    protocol: Protocol = "one"
    if n_photos is not None:
        protocol, queries = "album", (queries * n_photos[:, None]).astype(np.float32)
    bundle = calibrated(photo_bundle, FIT, temperature=1.3, growth=0.5, protocol=protocol, reranker=reranker)
    for how in ("all", "lists"):
        options = SearchOptions(mode="exact", gallery=how)  # type: ignore[arg-type]
        found = Engine(bundle, options=options, protocol=protocol).find(queries, n_photos=n_photos, left_out=0.0)
        assert found.evidence is not None
        numbers = {"temperature": 1.3, "growth": 0.5, "n_photos": n_photos}
        truth = brute_force(photo_bundle, FIT, queries, reranker=reranker, **numbers)  # type: ignore[arg-type]
        check(found.evidence, truth, FIT)
        plain = brute_force(photo_bundle, FIT, queries, **numbers)  # type: ignore[arg-type]
        assert np.abs(truth.weight - plain.weight).max() > 0.2


def test_a_reranker_that_adds_the_same_to_all_photos_changes_nothing(photo_bundle: Bundle) -> None:
    queries, reranker = queries_of(photo_bundle), random_reranker(N_PROPERTIES, 8, seed=4)
    same = replace(reranker, first=0 * reranker.first)
    one, other = (
        engine_with(photo_bundle, FIT, mode="exact", reranker=each).find(queries, left_out=0.0).evidence
        for each in (same, None)
    )
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-9)
    np.testing.assert_allclose(one.points, other.points, atol=1e-9)


def fake(places: list[tuple[float, float]], stands_for: list[float] | None = None) -> Gallery:
    lat, lng = np.array(places, np.float64).reshape(-1, 2).T
    many = np.ones(len(lat), np.float32) if stands_for is None else np.array(stands_for, np.float32)
    return cast(Gallery, SimpleNamespace(lat_deg=lat, lng_deg=lng, stands_for=many))


def evidence_of(
    leaves: Level, gallery: Gallery, rows: list[int], similarity: list[float], fit: PhotoFit, cells: Posterior
) -> PhotoEvidence:
    """Of one query; photos count for leaf 0."""
    row = np.array([rows], np.int64)
    near = NearPhotos(row, np.where(row < 0, -1, 0), np.array([similarity], np.float64))
    with_photos = np.zeros(len(leaves), bool)
    with_photos[0] = True
    return photo_evidence(
        cells,
        near,
        np.zeros(row.shape),
        gallery=gallery,
        discs=LeafDiscs.of(leaves),
        with_photos=with_photos,
        fit=fit,
        n_photos=np.ones(1, np.int64),
    )


@pytest.fixture
def cells(photo_bundle: Bundle) -> Posterior:
    scores = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (1, photo_bundle.model.n_leaves)))
    return posterior_of(scores.float(), 1.0, left_out=0.0)


def test_without_photos_cells_say_all(photo_bundle: Bundle, cells: Posterior) -> None:
    leaves = photo_bundle.hierarchy.leaves
    found = evidence_of(leaves, fake([(0, 0)]), [-1, -1], [-np.inf, -np.inf], FIT, cells)
    np.testing.assert_array_equal(found.posterior.leaf, cells.leaf)
    np.testing.assert_allclose(found.posterior.probability, cells.probability, rtol=1e-12)
    assert not found.there.any()
    assert not found.weight.any()
    assert np.isnan(found.points).all()
    np.testing.assert_array_equal(found.density.points, unit_vectors(leaves.lat_deg, leaves.lng_deg)[cells.leaf])
    np.testing.assert_allclose(found.density.weight, cells.probability, rtol=1e-12)
    np.testing.assert_array_equal(found.density.width_km, LeafDiscs.of(leaves).bell_width_km[cells.leaf])


def test_where_leaves_with_photos_hold_nothing_nothing_is_negative(photo_bundle: Bundle) -> None:
    leaves = photo_bundle.hierarchy.leaves
    many = np.full(len(leaves) - 1, 1 / (len(leaves) - 1) + 1e-9)  # a bit more than 1 together, as sums of float32 are
    cells = Posterior(np.array([0, len(many)]), np.arange(1, len(leaves)), many, np.zeros(1), np.array([len(leaves)]))
    found = evidence_of(leaves, fake([(0, 0), (1, 1)]), [0, 1], [0.5, 0.4], FIT, cells)
    assert (found.posterior.probability >= 0).all()
    assert (found.density.weight >= 0).all()
    assert np.isfinite(found.points).all()


def test_bells_of_leaves_are_half_as_wide_as_these_and_never_narrower_than_a_gps(photo_bundle: Bundle) -> None:
    leaves = photo_bundle.hierarchy.leaves
    radius_km = np.where(np.arange(len(leaves)) == 0, 0.0, leaves.radius_km)
    widths = LeafDiscs.of(replace(leaves, radius_km=radius_km)).bell_width_km
    assert widths[0] == 0.025
    np.testing.assert_array_equal(widths[1:], np.maximum(leaves.radius_km[1:] / 2, 0.025))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([(10, 179.9), (10, -179.9)], (10, 180)),
        ([(89.5, lng) for lng in (0, 90, 180, -90)], (90, 0)),
        ([(-89.5, 0), (-89.5, 180)], (-90, 0)),
        ([(0, 0.2), (0, -0.2), (0.2, 0), (-0.2, 0)], (0, 0)),
    ],
)
def test_the_mean_of_photos_is_the_place_between_them(
    photo_bundle: Bundle, cells: Posterior, places: list[tuple[float, float]], expected: tuple[float, float]
) -> None:
    fit = replace(FIT, point_width_km=5000, cells=0.0)
    n = len(places)
    found = evidence_of(photo_bundle.hierarchy.leaves, fake(places), list(range(n)), [0.5] * n, fit, cells)
    lat, lng = lat_lng(found.points)
    assert haversine_km(lat[0], lng[0], *expected) < 1  # far bells pull as much as near ones
    np.testing.assert_allclose(found.weight, 1 / n)


def test_far_photos_do_not_pull_the_answer_away(photo_bundle: Bundle, cells: Posterior) -> None:
    gallery = fake([(40, 179.99), (40, -179.99), (-40, 0)])
    fit = replace(FIT, point_width_km=20, cells=0.0)
    found = evidence_of(photo_bundle.hierarchy.leaves, gallery, [0, 1, 2], [0.5, 0.5, 0.52], fit, cells)
    assert found.weight[0].argmax() == 2
    lat, lng = lat_lng(found.points)
    assert haversine_km(lat[0], lng[0], 40, 180) < 0.01  # two beside each other are denser than one that is heavier


def test_a_place_that_is_dense_by_cells_alone_stays_where_it_is(photo_bundle: Bundle, cells: Posterior) -> None:
    """The photo there weighs nothing, and no other one is near enough to pull."""
    leaves = photo_bundle.hierarchy.leaves
    tiny = replace(leaves, radius_km=np.zeros(len(leaves)))
    leaf = int(cells.leaf[cells.probability.argmax()])
    there = float(leaves.lat_deg[leaf]), float(leaves.lng_deg[leaf])
    gallery = fake([(-there[0], there[1] - np.sign(there[1]) * 90), there])
    fit = replace(FIT, similarity=1e-4, point_width_km=1, width_km=1)
    found = evidence_of(tiny, gallery, [0, 1], [0.5, 0.1], fit, cells)
    assert found.weight.tolist() == [[1, 0]]
    lat, lng = lat_lng(found.points)
    assert haversine_km(lat[0], lng[0], *there) < 1e-6


def test_a_leaf_that_weighs_nothing_decides_nothing_however_narrow_it_is(photo_bundle: Bundle) -> None:
    """All photos of leaf 1 were taken at one spot: its bell of 25 m is the densest place there is, but for pointing."""
    leaves = photo_bundle.hierarchy.leaves
    tiny = replace(leaves, radius_km=np.where(np.arange(len(leaves)) == 1, 0.0, leaves.radius_km))
    cells = Posterior(np.array([0, 2]), np.array([0, 1]), np.array([0.999, 0.001]), np.zeros(1), np.array([2]))
    there = float(leaves.lat_deg[1]), float(leaves.lng_deg[1])
    heavy = (-there[0], there[1] - np.sign(there[1]) * 90)
    fit = replace(FIT, similarity=1e-3, width_km=20, point_width_km=20)
    found = evidence_of(tiny, fake([heavy, there]), [0, 1], [0.5, 0.4], fit, cells)
    places = unit_vectors(*np.array([heavy, there]).T)
    dense = found.density.at(places, np.zeros(2, np.int64))
    assert dense[1] > dense[0]  # of the density that radii are taken from, that is so
    np.testing.assert_array_equal(found.density.width_km[-1], 0.025)
    assert found.photo_density[0, 0] > 500 * found.photo_density[0, 1]
    lat, lng = lat_lng(found.points)
    assert haversine_km(lat[0], lng[0], *heavy) < 1e-6


def test_a_photo_counts_as_often_as_it_stands_for(photo_bundle: Bundle, cells: Posterior) -> None:
    places = [(0.0, 0.0), (5.0, 5.0)]
    many = evidence_of(photo_bundle.hierarchy.leaves, fake(places, [3, 1]), [0, 1], [0.4, 0.4], FIT, cells)
    np.testing.assert_allclose(many.weight, [[0.75, 0.25]])


def test_equal_photos_share_evenly_and_one_of_them_is_pointed_at(photo_bundle: Bundle, cells: Posterior) -> None:
    places = [(3.0, 3.0), (3.0, 3.0), (60.0, 60.0), (60.0, 60.0)]
    fit = replace(FIT, cells=0.0, width_km=1, point_width_km=1)
    found = evidence_of(photo_bundle.hierarchy.leaves, fake(places), [0, 1, 2, 3], [0.3] * 4, fit, cells)
    np.testing.assert_allclose(found.weight, 0.25)
    lat, lng = lat_lng(found.points)
    assert min(haversine_km(lat[0], lng[0], degrees, degrees) for degrees in (3, 60)) < 1e-6


def test_extreme_similarities_give_finite_weights() -> None:
    fit = replace(FIT, similarity=1e-4, gamma=5.0)
    similarity = np.array([[900.0, 899.9, -np.inf], [-900.0, -np.inf, -np.inf], [-np.inf] * 3])
    with np.errstate(all="raise", under="ignore"):
        weight = fit.weights(similarity, np.full((3, 3), 1e4), np.ones((3, 3)), np.array([1, 40, 1]))
    np.testing.assert_allclose(weight, [[1, 0, 0], [1, 0, 0], [0, 0, 0]], atol=1e-12)
