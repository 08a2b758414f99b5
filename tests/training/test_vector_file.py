"""Vectors on disk: what goes in comes out, in an order that only the names decide."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from indexer.vectors.whitening import Transform
from tests.conftest import unit_rows
from training.holding_out import name_keys
from training.vector_file import VectorFile

WIDTH = 24


def placed(n: int, seed: int = 0) -> Placed:
    rng = np.random.default_rng(seed)
    names = np.array([f"é/{row}.jpg" for row in range(n)], object)
    vectors = unit_rows(n, WIDTH, seed)
    return Placed(vectors, rng.integers(-1, 50, (n, 3)), rng.random(n), rng.random(n), names, np.full(n, -1))


@contextmanager
def filled(
    photos: Placed, shards: list[np.ndarray], folder: Path, transform: Transform | None = None
) -> Iterator[VectorFile]:
    geocells = Geocells([unit_rows(5, WIDTH, 1)] * 3, np.ones(3), np.ones(3), "h", None, transform)
    with VectorFile(map(photos.take, shards), geocells, beside=folder / "C") as file:
        yield file


def test_rows_come_back_with_their_cells_whatever_the_shards(tmp_path: Path) -> None:
    photos = placed(200)
    order = np.argsort(name_keys(photos.photo.tolist()))
    rng = np.random.default_rng(1)
    for shards in ([np.arange(200)], np.array_split(rng.permutation(200), 7)):
        with filled(photos, list(shards), tmp_path) as file:
            assert len(file) == 200
            np.testing.assert_array_equal(file.cells, photos.cells[order])
            numbers = rng.integers(0, 200, 50)
            np.testing.assert_allclose(file.rows(numbers), photos.vectors[order][numbers], atol=5e-4)


def test_vectors_are_kept_as_they_are_compared(tmp_path: Path) -> None:
    photos = placed(50)
    matrix = np.diag(np.linspace(0.5, 2, WIDTH)).astype(np.float32)
    transform = Transform(np.full(WIDTH, 0.1, np.float32), matrix, 0.5)
    order = np.argsort(name_keys(photos.photo.tolist()))
    with filled(photos, [np.arange(50)], tmp_path, transform) as file:
        np.testing.assert_allclose(file.rows(np.arange(50)), transform.apply(photos.vectors)[order], atol=5e-4)


def test_nothing_is_left_on_disk(tmp_path: Path) -> None:
    with filled(placed(10), [np.arange(10)], tmp_path) as file:
        assert list(tmp_path.iterdir()) == []
        assert file.rows(np.arange(3)).shape == (3, WIDTH)
