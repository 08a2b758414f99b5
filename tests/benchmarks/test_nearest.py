"""Neighbours against brute force, and the vote among them."""

import numpy as np
import pytest

from benchmarks.world import nearest
from benchmarks.world.nearest import Known, Vote, choose_vote, elect, nearest_photos
from tests.conftest import clustered_points, unit_rows


def known(n: int = 60, width: int = 8) -> Known:
    return Known(unit_rows(n, width, 0), *clustered_points(n, seed=3))


def test_neighbours_are_those_of_brute_force_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_BLOCK", 7)
    photos, queries = known(), unit_rows(20, 8, 1)
    expected = np.argsort(-(queries @ photos.vectors.T), axis=1)[:, :5]
    np.testing.assert_array_equal(nearest_photos(photos, queries, k=5), expected)
    assert nearest_photos(photos, queries[:0], k=5).shape == (0, 5)


def test_one_neighbour_decides_alone() -> None:
    photos, queries = known(), unit_rows(20, 8, 1)
    neighbours = nearest_photos(photos, queries, k=9)
    np.testing.assert_array_equal(elect(photos, neighbours, Vote(1, 100.0)), neighbours[:, 0])


def test_a_crowd_outvotes_the_nearest() -> None:
    lat, lng = np.array([10.0, 50.0, 50.1, 50.2]), np.array([179.9, 179.9, -179.9, 179.9])  # across the antimeridian
    photos = Known(unit_rows(4, 3, 0), lat, lng)
    row = np.array([[0, 1, 2, 3]])
    assert elect(photos, row, Vote(4, 50.0)).tolist() == [2]  # the one in the middle
    assert elect(photos, row, Vote(2, 50.0)).tolist() == [0]  # of equals the nearest
    assert elect(photos, row, Vote(4, 1e-3)).tolist() == [0]


def test_the_vote_is_chosen_on_other_photos() -> None:
    """Vectors of a place point one way, but each photo's noise is larger than the distance to the next place."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, 12, 900)
    centres, lat, lng = unit_rows(12, 8, 5), rng.uniform(-60, 60, 12), rng.uniform(-180, 180, 12)
    vectors = centres[place] + 0.45 * rng.normal(size=(900, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    here = lat[place] + rng.normal(0, 0.1, 900), lng[place]
    photos = Known(vectors[:700], here[0][:700], here[1][:700])
    vote = choose_vote(photos, vectors[700:], here[0][700:], here[1][700:])
    assert vote.k > 1
    few = Known(vectors[:3], here[0][:3], here[1][:3])
    assert choose_vote(few, vectors[700:], here[0][700:], here[1][700:]).k == 1  # no more than there are
