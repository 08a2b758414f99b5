"""Answers by photos of known places: neighbours against brute force, the vote among them, and what cells add."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.world import photo_answers
from benchmarks.world.photo_answers import (
    ALONE,
    NEAREST,
    TOGETHER,
    Vote,
    choose_vote,
    elect,
    nearest_photos,
    photo_errors_km,
)
from indexer.bundles.gallery import Gallery
from indexer.cells.hierarchy import Hierarchy, build_hierarchy, sorted_ids
from indexer.cells.partition import PartitionRule
from indexer.earth.geo import haversine_km, unit_vectors
from indexer.vectors.geocells import Geocells
from indexer.vectors.means import CellMeans
from search.calibration import photo_fit, reranker_fit
from tests.conftest import clustered_points, random_geocells
from training.photos.run_photos import PhotoSet

SIZES = {"train": 700, "validation": 420, "test": 150}


@dataclass(frozen=True, eq=False)
class SmallWorld:
    """Photos whose vectors tell where they were taken, under noise."""

    hierarchy: Hierarchy
    geocells: Geocells
    photos: Mapping[str, PhotoSet]
    vectors: Mapping[str, np.ndarray]
    gallery: Gallery

    def errors_km(self, *ways: str, geocells: Geocells | None) -> dict[str, np.ndarray]:
        """Of the test photos."""
        return photo_errors_km(ways, self.photos, self.vectors, hierarchy=self.hierarchy, geocells=geocells)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo_answers, "K", (1, 5, 20))
        patch.setattr(photo_fit, "_ROUNDS", 1)
        patch.setattr(reranker_fit, "_STEPS", 10)
        yield small_world(tmp_path_factory.mktemp("small"))


def small_world(folder: Path) -> SmallWorld:
    rng = np.random.default_rng(0)
    lat, lng = clustered_points(sum(SIZES.values()), seed=3)
    waves, shifts = rng.normal(size=(3, 24)) * np.repeat([1.5, 6.0, 30.0], 8), rng.uniform(0, 2 * np.pi, 24)
    vectors = np.cos(unit_vectors(lat, lng) @ waves + shifts) + 0.3 * rng.normal(size=(len(lat), 24))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    splits = dict(zip(SIZES, np.split(rng.permutation(len(lat)), np.cumsum(list(SIZES.values()))[:-1]), strict=True))
    train = splits["train"]
    ids = sorted_ids([(lat[train], lng[train])])
    hierarchy = build_hierarchy(ids, rule=PartitionRule(tau_max=(200, 40), tau_min=1))
    no_pixels = torch.zeros((0, 3, 1, 1), dtype=torch.uint8)
    photos = {
        split: LengthOfPlaces(
            no_pixels, None, torch.from_numpy(hierarchy.locate(lat[rows], lng[rows])), lat[rows], lng[rows]
        )
        for split, rows in splits.items()
    }
    of_split = {split: vectors[rows] for split, rows in splits.items()}
    means = CellMeans(hierarchy.parents_by_level(), 24)
    means.add(of_split["train"], photos["train"].targets.numpy())
    geocells = means.geocells(hierarchy=hierarchy.digest, encoder=None)
    placed = photo_answers._placed(photos["train"], of_split["train"])
    gallery = photo_answers._bundle(folder, hierarchy, geocells, placed).gallery
    assert gallery is not None
    return SmallWorld(hierarchy, geocells, photos, of_split, gallery)


class LengthOfPlaces(PhotoSet):
    """Photos without pixels."""

    def __len__(self) -> int:
        return len(self.lat_deg)


def test_neighbours_are_those_of_brute_force_in_order(world: SmallWorld) -> None:
    known = world.gallery.vectors(0, len(world.gallery))
    expected = np.argsort(-(world.vectors["test"] @ known.T), axis=1)[:, :5]
    np.testing.assert_array_equal(nearest_photos(world.gallery, world.vectors["test"], k=5), expected)


def test_one_neighbour_decides_alone(world: SmallWorld) -> None:
    neighbours = nearest_photos(world.gallery, world.vectors["test"], k=9)
    np.testing.assert_array_equal(elect(world.gallery, neighbours, Vote(1, 100.0)), neighbours[:, 0])


def test_a_crowd_outvotes_the_nearest(world: SmallWorld) -> None:
    lat, lng = np.array([10.0, 50.0, 50.1, 50.2]), np.array([179.9, 179.9, -179.9, 179.9])  # across the antimeridian
    gallery = replace(world.gallery, lat_deg=lat, lng_deg=lng)
    row = np.array([[0, 1, 2, 3]])
    assert elect(gallery, row, Vote(4, 50.0)).tolist() == [2]  # the one in the middle
    assert elect(gallery, row, Vote(2, 50.0)).tolist() == [0]  # of equals the nearest
    assert elect(gallery, row, Vote(4, 1e-3)).tolist() == [0]


def test_the_vote_is_chosen_on_other_photos(world: SmallWorld) -> None:
    """Where the nearest photo is often wrong and a crowd right, several vote."""
    gallery, rng = world.gallery, np.random.default_rng(0)
    sample = photo_answers._queries("validation", world.photos["validation"], world.vectors["validation"])
    noisy = sample.queries + 0.2 * rng.normal(size=sample.queries.shape).astype(np.float32)
    assert choose_vote(gallery, replace(sample, queries=noisy)).k > 1
    chosen, neighbours = choose_vote(gallery, sample), nearest_photos(gallery, sample.queries, k=20)
    for k in photo_answers.K:  # none is better than what was chosen
        errors = [
            np.log1p(haversine_km(sample.lat_deg, sample.lng_deg, gallery.lat_deg[best], gallery.lng_deg[best])).mean()
            for best in (elect(gallery, neighbours, vote) for vote in (chosen, Vote(k, chosen.bell_km)))
        ]
        assert errors[0] <= errors[1]


def test_photos_and_cells_place_better_than_points_of_cells(world: SmallWorld) -> None:
    errors = world.errors_km(NEAREST, ALONE, TOGETHER, geocells=world.geocells)
    test, leaves = world.photos["test"], world.hierarchy.leaves
    leaf = (world.vectors["test"] @ world.geocells.vectors[-1].T).argmax(axis=1)
    by_cells = haversine_km(test.lat_deg, test.lng_deg, leaves.lat_deg[leaf], leaves.lng_deg[leaf])
    assert list(errors) == [NEAREST, ALONE, TOGETHER]
    for way, km in errors.items():
        assert km.shape == (SIZES["test"],), way
        assert np.log1p(km).mean() < np.log1p(by_cells).mean(), way


def test_a_gallery_alone_does_not_look_at_cells(world: SmallWorld) -> None:
    other = random_geocells(world.hierarchy, 24, 9, encoder=None)
    before, after = (world.errors_km(ALONE, TOGETHER, geocells=each) for each in (world.geocells, other))
    np.testing.assert_allclose(after[ALONE], before[ALONE], rtol=1e-6, atol=1e-6)
    assert np.abs(after[TOGETHER] - before[TOGETHER]).max() > 1


def test_without_geocells_neighbours_are_the_same(world: SmallWorld) -> None:
    with_them, without = (world.errors_km(NEAREST, geocells=each)[NEAREST] for each in (world.geocells, None))
    np.testing.assert_array_equal(without, with_them)
    assert np.median(without) < np.median(haversine_km(*clustered_points(300, 1), *clustered_points(300, 2)))
