import numpy as np
import pytest

from benchmarks.world import baselines
from benchmarks.world.baselines import pixel_nearest, random_places


def random_tiles(n_tiles: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n_tiles, 8, 8, 3), np.uint8)


def test_agrees_with_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_BLOCK", 3)  # 10 is no multiple of it
    train, test = random_tiles(40, 0), random_tiles(10, 1)

    def pooled(tile: np.ndarray) -> np.ndarray:
        return np.array([[tile[y : y + 2, x : x + 2].mean((0, 1)) for x in range(0, 8, 2)] for y in range(0, 8, 2)])

    expected = [np.argmin([np.linalg.norm(pooled(a) - pooled(b)) for b in train]) for a in test]
    np.testing.assert_array_equal(pixel_nearest(train, test), expected)


def test_a_training_tile_finds_itself_and_detail_finer_than_the_grid_is_not_seen() -> None:
    train = random_tiles(50, 0)
    flipped = train.reshape(50, 4, 2, 4, 2, 3)[:, :, ::-1, :, ::-1].reshape(train.shape)
    np.testing.assert_array_equal(pixel_nearest(train, train), np.arange(50))
    np.testing.assert_array_equal(pixel_nearest(train, flipped), np.arange(50))


def test_no_test_tiles() -> None:
    assert pixel_nearest(random_tiles(3, 0), random_tiles(0, 0)).shape == (0,)


def test_random_places_are_seeded_and_in_range() -> None:
    places = random_places(7, 5_000, 3)
    np.testing.assert_array_equal(places, random_places(7, 5_000, 3))
    assert not np.array_equal(places, random_places(7, 5_000, 4))
    assert set(places) == set(range(7))
