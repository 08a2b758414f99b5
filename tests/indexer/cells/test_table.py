"""The cell table on disk: what goes in comes out, anyone can query it, damage is said cleanly."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from indexer.cells.hierarchy import Hierarchy
from indexer.cells.table import (
    CELLS_FILE,
    PHOTOS_FILE,
    load_hierarchy,
    load_photo_places,
    read_cells,
    save_hierarchy,
    write_cells,
)
from indexer.disk.manifest import read_manifest
from indexer.earth import s2
from indexer.errors import ArtifactError, InputError


def test_save_and_load_are_inverse(hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    again = load_hierarchy(str(hierarchy_folder))  # paths may be text
    assert again.digest == hierarchy.digest
    np.testing.assert_array_equal(again.ancestors, hierarchy.ancestors)
    assert again.medoids is not None
    np.testing.assert_array_equal(again.medoids, hierarchy.medoids)
    for read, written in zip(again.levels, hierarchy.levels, strict=True):
        assert (read.tau_min, read.tau_max, read.coverage) == (written.tau_min, written.tau_max, written.coverage)
        for name in ("s2_ids", "n_photos", "lat_deg", "lng_deg", "radius_km", "leaf_begin", "leaf_end", "city"):
            value = getattr(read, name)
            np.testing.assert_array_equal(value, getattr(written, name), err_msg=name)
            assert value.dtype.kind == getattr(written, name).dtype.kind


def test_the_manifest_carries_the_digest_of_the_cells(hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    manifest = read_manifest(hierarchy_folder, kind="hierarchy", schema_version=1)
    assert manifest.facts["digest"] == hierarchy.digest
    assert list(manifest.files) == [CELLS_FILE, PHOTOS_FILE]


def test_sql_sees_the_documented_tables(hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    with duckdb.connect(hierarchy_folder / CELLS_FILE, read_only=True) as connection:
        types = dict(connection.sql("SELECT column_name, column_type FROM (DESCRIBE cells)").fetchall())
        assert types["s2_id"] == "UBIGINT"
        ancestors = connection.sql(
            "SELECT c.level, c.token FROM leaves l JOIN cells c ON c.cell = CASE c.level WHEN 0 THEN l.ancestor_0 "
            "WHEN 1 THEN l.ancestor_1 ELSE l.ancestor_2 END WHERE l.leaf = 3 ORDER BY c.level"
        ).fetchall()
    expected = [
        (number, s2.tokens(level.s2_ids[[hierarchy.ancestors[3, number]]])[0])
        for number, level in enumerate(hierarchy.levels)
    ]
    assert ancestors == expected


def test_the_queries_of_the_documentation_run_as_they_stand(hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "data-model.md").read_text()
    queries = text.split("```sql\n")[1].split("```")[0].strip().split("\n\n")
    assert len(queries) == 3
    with duckdb.connect(hierarchy_folder / CELLS_FILE, read_only=True) as connection:
        above, boxed, crowded = (connection.sql(query).fetchall() for query in queries)
    assert [token for _, token, _ in above] == [
        level.keys[hierarchy.ancestors[17, number]] for number, level in enumerate(hierarchy.levels)
    ]
    leaves = hierarchy.leaves
    inside = (np.abs(leaves.lat_deg - 46.85) <= 1.05) & (np.abs(leaves.lng_deg - 8.2) <= 2.3)
    assert {token for token, *_ in boxed} == set(leaves.keys[inside])
    assert [photos for _, photos, *_ in crowded] == sorted(hierarchy.levels[0].n_photos.tolist(), reverse=True)[:10]


def test_every_column_is_documented(hierarchy_folder: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "data-model.md").read_text()
    with duckdb.connect(hierarchy_folder / CELLS_FILE, read_only=True) as connection:
        columns = connection.sql("SELECT column_name FROM duckdb_columns() WHERE NOT internal").fetchall()
    assert [name for (name,) in columns if f"`{name}`" not in text and not name.startswith("ancestor_")] == []


def test_an_existing_folder_is_kept(hierarchy: Hierarchy, hierarchy_folder: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        save_hierarchy(hierarchy, load_photo_places(hierarchy_folder), hierarchy_folder, config={}, inputs={})


@pytest.mark.parametrize("content", [b"", b"not a database at all", b"\0" * 5000])
def test_a_damaged_file_is_a_clean_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / CELLS_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="cell table"):
        read_cells(tmp_path / CELLS_FILE)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE leaves SET ancestor_0 = 100000 WHERE leaf = 0",
        "UPDATE cells SET s2_id = 1 WHERE level = 2 AND cell = 5",
        "DELETE FROM cells WHERE level = 1 AND cell = 0",
        "ALTER TABLE leaves DROP COLUMN ancestor_1",
        "DROP TABLE levels",
    ],
)
def test_tables_that_do_not_fit_together_are_refused(tmp_path: Path, hierarchy: Hierarchy, change: str) -> None:
    path = tmp_path / CELLS_FILE
    write_cells(path, hierarchy)
    with duckdb.connect(path) as connection:
        connection.execute(change)
    with pytest.raises(ArtifactError):
        read_cells(path)


def test_a_file_of_a_newer_duckdb_says_what_to_update(hierarchy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise duckdb.IOException(
            "IO Error: Trying to read a database file with version number 900, but we can only read versions between "
            "64 and 99."
        )

    monkeypatch.setattr(duckdb, "connect", refuse)
    with pytest.raises(ArtifactError, match=r"version number 900.*pip install --upgrade duckdb"):
        load_hierarchy(hierarchy_folder)


def test_the_file_is_for_every_duckdb_since_1_2(hierarchy_folder: Path) -> None:
    header = (hierarchy_folder / CELLS_FILE).read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    assert int.from_bytes(header[12:20], "little") == 65  # the storage version of DuckDB 1.2
