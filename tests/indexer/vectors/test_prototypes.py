"""Geocells from photo vectors: which photos count, means against sums by hand, shards in any order, what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.cells.hierarchy import Hierarchy
from indexer.errors import InputError
from indexer.vectors.features import FeatureBatch, open_features
from indexer.vectors.prototypes import Placement, prototypes
from tests.conftest import unit_rows, write_features

WIDTH = 6
NOWHERE = 7  # every so many photos of a batch have no vector


def batch(points: tuple[np.ndarray, np.ndarray], rows: np.ndarray, *, placed: bool = True) -> FeatureBatch:
    """Photos of some points, whose vectors follow from their numbers."""
    ok = rows % NOWHERE != 0
    lat, lng = (values[rows] if placed else np.full(len(rows), np.nan) for values in points)
    vectors = unit_rows(len(points[0]), WIDTH, seed=1)[rows] * ok[:, None]
    status = ["ok" if each else "damaged" for each in ok]
    return FeatureBatch([f"{row:05d}.jpg" for row in rows], vectors, status, [""] * len(rows), lat, lng)


def test_photos_place_themselves_or_lie_where_a_table_says(
    hierarchy: Hierarchy, points: tuple[np.ndarray, np.ndarray], photo_table: Path
) -> None:
    rows = np.arange(100, 200)
    own = Placement(hierarchy).place(batch(points, rows))
    cells = hierarchy.locate(points[0][rows], points[1][rows])
    wanted = (rows % NOWHERE != 0) & (cells[:, 0] >= 0)
    np.testing.assert_array_equal(own.cells, cells[wanted])
    assert own.photo.tolist() == [f"{row:05d}.jpg" for row in rows[wanted]]
    assert (own.row == -1).all()
    listed = Placement(hierarchy, photo_table).place(batch(points, rows, placed=False))
    np.testing.assert_array_equal(listed.cells, own.cells)
    np.testing.assert_array_equal(listed.row, rows[wanted])
    assert not len(Placement(hierarchy).place(batch(points, rows, placed=False)).row)


def test_a_split_and_a_choice_by_name_leave_the_others_out(
    hierarchy: Hierarchy, points: tuple[np.ndarray, np.ndarray], photo_table: Path
) -> None:
    rows = np.arange(300)
    placement = Placement(
        hierarchy, photo_table, split="test", chosen=lambda names: np.array([name < "00150" for name in names])
    )
    found = {int(name[:5]) for name in placement.place(batch(points, rows)).photo}
    everyone = {int(name[:5]) for name in Placement(hierarchy).place(batch(points, rows)).photo}
    assert found == {row for row in everyone if row % 3 == 0 and row < 150}


def test_a_cell_has_the_mean_direction_of_its_photos_in_any_order_of_shards(
    hierarchy: Hierarchy, points: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    halves = np.array_split(np.arange(3000), 2)
    shards = [batch(points, rows) for rows in halves]
    sources = [
        open_features(write_features(tmp_path / name, *order, encoder="e" * 64))
        for name, order in (("A", shards), ("B", shards[::-1]))
    ]
    one, other = (prototypes(source, Placement(hierarchy), transform="none") for source in sources)
    cells, vectors = hierarchy.locate(*points), np.concatenate([shard.embedding for shard in shards])
    for level, found in enumerate(one.geocells.vectors):
        sums = np.zeros(found.shape)
        np.add.at(sums, cells[cells[:, level] >= 0, level], vectors[cells[:, level] >= 0])
        filled = np.linalg.norm(sums, axis=1) > 0
        np.testing.assert_allclose(
            found[filled], sums[filled] / np.linalg.norm(sums[filled], axis=1)[:, None], atol=1e-5
        )
        np.testing.assert_allclose(found, other.geocells.vectors[level], atol=1e-6)
    assert one.photos == other.photos == ((np.arange(3000) % NOWHERE != 0) & (cells[:, 0] >= 0)).sum()
    assert (one.rows, one.facts, one.geocells.encoder) == (3000, {"kind": "none"}, "e" * 64)
    chosen, again = (prototypes(source, Placement(hierarchy), seed=3).facts for source in sources)
    assert chosen["shrinkage"] == again["shrinkage"]


def test_vectors_that_cannot_be_told_apart_or_lie_nowhere_are_refused(
    hierarchy: Hierarchy, points: tuple[np.ndarray, np.ndarray], photo_table: Path, tmp_path: Path
) -> None:
    rows = np.arange(50)
    twice = open_features(write_features(tmp_path / "T", batch(points, rows), batch(points, rows), encoder=None))
    with pytest.raises(InputError, match="a photo has several vectors"):
        prototypes(twice, Placement(hierarchy, photo_table), transform="none")
    lost = open_features(write_features(tmp_path / "L", batch(points, rows, placed=False), encoder=None))
    with pytest.raises(InputError, match="none of its photos has both a vector and a cell"):
        prototypes(lost, Placement(hierarchy), transform="none")
    with pytest.raises(InputError, match="`split` goes with `photos`"):
        Placement(hierarchy, split="train")
    table = pyarrow.parquet.read_table(photo_table)
    pyarrow.parquet.write_table(pa.concat_tables([table, table.slice(0, 1)]), tmp_path / "again.parquet")
    with pytest.raises(InputError, match="names of photos repeat"):
        Placement(hierarchy, tmp_path / "again.parquet")
