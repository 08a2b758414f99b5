"""Radii against places drawn from the same model of leaves, and against what can be seen by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.earth.geo import FARTHEST_KM, haversine_km, unit_vectors
from search.answers.radii import LeafDiscs, heaviest_leaves, radii_km, share_within
from search.retrieval.posterior import Posterior, posterior_of

KM = 111.19492664455873  # a degree of a great circle, on this sphere


def discs(places: list[tuple[float, float, float]]) -> LeafDiscs:
    """Leaves at lat, lng with a radius in km."""
    lat, lng, radius = np.array(places, np.float64).T
    return LeafDiscs(unit_vectors(lat, lng), radius)


def posterior(*rows: list[float]) -> Posterior:
    return posterior_of(torch.log(torch.tensor(rows)), 1.0)


def test_a_single_leaf_is_spread_evenly_over_its_radius() -> None:
    one = posterior([1.0])
    around, zero = discs([(10, 20, 8.0)]), np.zeros(1)
    assert radii_km(one, around, zero + 10, zero + 20, (0.25, 0.5, 0.9, 1.0))[0] == pytest.approx([2, 4, 7.2, 8])
    # Seen from 100 km away, it lies between 92 and 108 km.
    north = zero + 10 + 100 / KM
    assert radii_km(one, around, north, zero + 20, (0.25, 0.5))[0] == pytest.approx([96, 100], rel=1e-6)
    assert share_within(one, around, north, zero + 20, np.array([104.0])) == pytest.approx([0.75], rel=1e-5)


def test_two_leaves_and_what_is_between_them() -> None:
    both = posterior([0.6, 0.4], [0.4, 0.6])
    apart = discs([(0, 0, 1.0), (0, 10, 1.0)])
    radii = radii_km(both, apart, np.zeros(2), np.zeros(2), (0.3, 0.5, 0.9))
    assert radii[0] == pytest.approx([0.5, 0.5 / 0.6, 10 * KM + 0.5], rel=1e-6)
    assert radii[1] == pytest.approx([0.75, 10 * KM - 1 + 2 * 0.1 / 0.6, 10 * KM - 1 + 2 * 0.5 / 0.6], rel=1e-6)


def test_what_no_listed_leaf_holds_is_anywhere() -> None:
    assert radii_km(posterior([1.0]), discs([(0, 0, 1.0)]), np.zeros(1), np.zeros(1), (1.5,)) == FARTHEST_KM
    across = radii_km(posterior([1.0]), discs([(0, 0, 1.0)]), np.zeros(1), np.full(1, 180.0), (0.5, 1.0))
    assert (across <= FARTHEST_KM).all()
    assert across[0, 0] == pytest.approx(FARTHEST_KM, abs=1)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 40), st.floats(0.3, 8))
def test_a_radius_holds_its_share(seed: int, n_queries: int, n_leaves: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    lat, lng = rng.uniform(-80, 80, n_leaves), rng.uniform(-180, 180, n_leaves)
    around = LeafDiscs(unit_vectors(lat, lng), rng.uniform(0.05, 900, n_leaves))
    scores = torch.from_numpy(rng.normal(0, spread, (n_queries, n_leaves)).astype(np.float32))
    found = posterior_of(scores, 1.0)
    at = rng.integers(0, n_leaves, n_queries)
    shares = (0.1, 0.5, 0.9, 0.99)
    radii = radii_km(found, around, lat[at], lng[at], shares)
    assert (np.diff(radii, axis=1) >= 0).all()
    for share, radius in zip(shares, radii.T, strict=True):
        held = share_within(found, around, lat[at], lng[at], radius)
        np.testing.assert_allclose(held, share, atol=1e-6)


def test_shares_are_those_of_places_that_are_drawn() -> None:
    """The closed form beside places drawn from its model: far from small leaves, where directions do not matter."""
    rng = np.random.default_rng(0)
    lat, lng, radius = rng.uniform(-30, 30, 12), rng.uniform(-30, 30, 12), np.full(12, 20.0)
    probability = rng.dirichlet(np.ones(12))
    found = posterior(probability.tolist())
    leaf = rng.choice(12, 40_000, p=probability)
    away = haversine_km(lat[leaf], lng[leaf], np.zeros(40_000), np.zeros(40_000)) + rng.uniform(-1, 1, 40_000) * 20
    radii = radii_km(found, discs(list(zip(lat, lng, radius, strict=True))), np.zeros(1), np.zeros(1), (0.2, 0.5, 0.9))
    for share, km in zip((0.2, 0.5, 0.9), radii[0], strict=True):
        assert (away <= km).mean() == pytest.approx(share, abs=0.01)


def test_the_heaviest_point_is_in_the_crowd_not_on_the_likeliest_leaf() -> None:
    places = [(0, 0, 1.0), (20, 20, 1.0), (20.1, 20, 1.0), (20, 20.1, 1.0)]
    crowd = posterior([0.31, 0.23, 0.23, 0.23], [0.97, 0.01, 0.01, 0.01])
    assert heaviest_leaves(crowd, discs(places), within_km=25, candidates=4).tolist() == [1, 0]
    assert heaviest_leaves(crowd, discs(places), within_km=2, candidates=4).tolist() == [0, 0]
    assert heaviest_leaves(crowd, discs(places), within_km=25, candidates=1).tolist() == [0, 0]


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 30), st.sampled_from([0.1, 2, 25, 900, 30_000]))
def test_the_heaviest_point_is_that_of_all_distances(seed: int, n_leaves: int, within_km: float) -> None:
    rng = np.random.default_rng(seed)
    # Crowds of leaves around a few places, some of them at the same point.
    middle = rng.integers(0, 3, n_leaves)
    lat, lng = (rng.uniform(-80, 80, 3)[middle] + rng.choice([0, 0.01, 0.3], n_leaves) for _ in range(2))
    around = LeafDiscs(unit_vectors(lat, lng), rng.uniform(0.05, 90, n_leaves))
    found = posterior_of(torch.from_numpy(rng.normal(0, 2, (4, n_leaves)).astype(np.float32)), 1.0, left_out=0.0)
    chosen = heaviest_leaves(found, around, within_km=within_km, candidates=n_leaves)
    held = np.stack(
        [
            share_within(found, around, np.full(4, lat[leaf]), np.full(4, lng[leaf]), np.full(4, within_km))
            for leaf in range(n_leaves)
        ],
        axis=1,
    )
    np.testing.assert_allclose(held[np.arange(4), chosen], held.max(axis=1), atol=1e-9)
