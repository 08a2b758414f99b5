"""What an answer is worth without learning: the nearest training photo by its pixels, and a photo at random."""

import numpy as np

_POOL = 4  # a tile is reduced to 4 x 4 mean colours
_BLOCK = 512  # test tiles compared at once: bounds memory at _BLOCK x N_train distances


def pixel_nearest(train_tiles: np.ndarray, test_tiles: np.ndarray) -> np.ndarray:
    """Index of the training tile nearest to each test tile by 4 x 4 mean colours (Euclidean; the first of equals).

    train_tiles: (N, P, P, 3) uint8, test_tiles: (M, P, P, 3) uint8, P a multiple of 4. Returns (M,) int64 in [0, N).
    """
    train, test = _pooled(train_tiles), _pooled(test_tiles)
    # ||a - b||^2 without ||a||^2, which is the same for all candidates of one test tile.
    train_sq = (train**2).sum(axis=1)
    nearest = [
        (train_sq - 2 * (test[begin : begin + _BLOCK] @ train.T)).argmin(axis=1)
        for begin in range(0, len(test), _BLOCK)
    ]
    return np.concatenate([np.empty(0, np.int64), *nearest])


def random_places(n_train: int, n_test: int, seed: int) -> np.ndarray:
    """A training index for each test tile, drawn uniformly: (n_test,) int64 in [0, n_train)."""
    return np.random.default_rng(seed).integers(n_train, size=n_test)


def _pooled(tiles: np.ndarray) -> np.ndarray:
    """Mean colours of a 4 x 4 grid, (N, 48) float64."""
    n_tiles, height, width, channels = tiles.shape
    cells = tiles.reshape(n_tiles, _POOL, height // _POOL, _POOL, width // _POOL, channels)
    return cells.mean(axis=(2, 4), dtype=np.float64).reshape(n_tiles, _POOL * _POOL * channels)
