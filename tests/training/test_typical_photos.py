"""Typical photos against brute force; near-duplicates count once; shards in any order give one table."""

import numpy as np

from indexer.vectors.geocells import Geocells
from indexer.vectors.prototypes import Placed
from tests.conftest import unit_rows
from training.typical_photos import typical_photos

WIDTH, LEAVES = 12, 6


def photos(n: int = 120) -> tuple[Geocells, Placed]:
    rng = np.random.default_rng(0)
    leaf = rng.integers(-1, LEAVES - 1, n)  # the last leaf has no photo
    cells = np.stack([np.zeros(n, np.int64), leaf], axis=1)
    names = np.array([f"{row:03d}.jpg" for row in range(n)], object)
    placed = Placed(unit_rows(n, WIDTH, 1), cells, rng.random(n), rng.random(n), names, np.full(n, -1))
    vectors = [unit_rows(1, WIDTH, 2), unit_rows(LEAVES, WIDTH, 3)]
    return Geocells(vectors, np.ones(2), np.ones(2), "h", None), placed


def test_the_nearest_photos_of_each_leaf_are_kept_in_order() -> None:
    geocells, placed = photos()
    table = typical_photos([placed], geocells, k=3)
    similarity = placed.vectors @ geocells.vectors[1].T
    expected = []
    for leaf in range(LEAVES):
        rows = np.flatnonzero(placed.cells[:, 1] == leaf)
        best = rows[np.argsort(-similarity[rows, leaf])][:3]
        expected += [(leaf, rank, placed.photo[row]) for rank, row in enumerate(best)]
    assert list(zip(*(table[name].to_pylist() for name in ("leaf", "rank", "photo")), strict=True)) == expected
    row = list(placed.photo).index(table["photo"][0].as_py())
    np.testing.assert_allclose(table["vector"][0].as_py(), placed.vectors[row], atol=1e-3)
    assert (table["lat"][0].as_py(), table["lng"][0].as_py()) == (placed.lat_deg[row], placed.lng_deg[row])


def test_shards_in_any_order_give_one_table() -> None:
    geocells, placed = photos()
    tables = []
    for seed in range(3):
        shards = np.array_split(np.random.default_rng(seed).permutation(len(placed.cells)), 5)
        tables.append(typical_photos([placed.take(rows) for rows in shards], geocells, k=2))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_near_duplicates_and_equal_names_count_once() -> None:
    geocells, placed = photos()
    first = np.flatnonzero(placed.cells[:, 1] == 0)[:3]
    placed.vectors[first[0]] = geocells.vectors[1][0]
    placed.vectors[first[1]] = geocells.vectors[1][0] + 0.01 * unit_rows(1, WIDTH, 9)[0]
    placed.photo[first[2]] = placed.photo[first[0]]
    names = typical_photos([placed], geocells, k=2).to_pandas().query("leaf == 0")["photo"].tolist()
    assert len(names) == 2
    assert len({placed.photo[first[0]], placed.photo[first[1]]} & set(names)) == 1


def test_no_photo_gives_an_empty_table() -> None:
    geocells, placed = photos()
    assert typical_photos([], geocells, k=2).num_rows == 0
    outside = placed.take(np.flatnonzero(placed.cells[:, 1] < 0))
    assert typical_photos([outside], geocells, k=2).num_rows == 0
