"""The cell table: a hierarchy as a DuckDB file that anyone can query (`docs/data-model.md` describes each field).

Tables: `levels`, one row per level; `cells`, one row per cell of each level; `leaves`, one row per finest cell with its
ancestor in every level. Beside it a hierarchy folder keeps the places of its photos, so that more can be added.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from indexer.cells.hierarchy import Hierarchy, Level
from indexer.disk.artifact import write_folder
from indexer.disk.manifest import Manifest, checked_file, read_manifest
from indexer.earth import s2
from indexer.errors import ArtifactError

KIND = "hierarchy"
SCHEMA_VERSION = 1
CELLS_FILE = "cells.duckdb"
_NUMBERS = ("n_photos", "lat_deg", "lng_deg", "radius_km", "leaf_begin", "leaf_end")  # of each cell
_MEDOID = ("medoid_lat_deg", "medoid_lng_deg")
PHOTOS_FILE = "photos.parquet"  # s2_id (leaf) of every photo, and its labels where cells are labels


def save_hierarchy(
    hierarchy: Hierarchy,
    photos: pa.Table,
    out: Path,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    lineage: pa.Table | None = None,
) -> Path:
    """Write a hierarchy folder, whole or not at all, and return it.

    Args:
        hierarchy: the cells.
        photos: `s2_id` (point ids) of the photos they were made from, and their labels where cells are labels.
        out: the folder.
        config: how it was made: what `update` needs to make it again with more photos.
        inputs: digests of what it was made from.
        lineage: where its cells come from (`indexer.cells.lineage`).

    Raises:
        InputError: `out` exists or cannot be written.
        WorkError: the disk is full.
    """
    with write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, config=config, inputs=inputs) as draft:
        write_cells(draft.path / CELLS_FILE, hierarchy, lineage=lineage)
        pyarrow.parquet.write_table(
            photos,
            draft.path / PHOTOS_FILE,
            compression="zstd",
            use_dictionary=[name for name in photos.column_names if name != "s2_id"],
            column_encoding={"s2_id": "DELTA_BINARY_PACKED"},  # sorted ids take about four bytes each
        )
        draft.facts |= {
            "digest": hierarchy.digest,
            "cells": [len(level) for level in hierarchy.levels],
            "photos": photos.num_rows,
        }
    return out


def load_hierarchy(folder: str | Path) -> Hierarchy:
    """Read a hierarchy folder; an ArtifactError where it is none, damaged, or newer than this version."""
    folder = Path(folder)
    hierarchy_manifest(folder)
    return read_cells(folder / CELLS_FILE)


def hierarchy_manifest(folder: Path) -> Manifest:
    """The checked manifest of a hierarchy folder; its facts hold the digest of the cells."""
    return read_manifest(folder, kind=KIND, schema_version=SCHEMA_VERSION)


def load_photo_places(folder: Path) -> pa.Table:
    """What `photos.parquet` of a hierarchy folder holds, if it is what was written: a damaged file can read well.

    Raises what `load_hierarchy` does.
    """
    path = checked_file(folder, PHOTOS_FILE, hierarchy_manifest(folder))
    try:
        return pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}). Restore it from a copy.") from None


def write_cells(path: Path, hierarchy: Hierarchy, *, lineage: pa.Table | None = None) -> None:
    """Write the three tables, and the lineage if there is one, into a new DuckDB file."""
    levels, leaves = hierarchy.levels, hierarchy.leaves
    tables = {
        "levels": pa.table(
            {
                "level": pa.array(range(len(levels)), pa.int32()),
                "tau_min": pa.array([level.tau_min for level in levels], pa.int64()),
                "tau_max": pa.array([level.tau_max for level in levels], pa.int64()),
                "label": pa.array([level.label for level in levels], pa.string()),
                "n_cells": [len(level) for level in levels],
                "coverage": [level.coverage for level in levels],
            }
        ),
        "cells": pa.concat_tables(cells_table(number, level) for number, level in enumerate(levels)),
        "leaves": pa.table(
            {
                "leaf": np.arange(len(leaves)),
                "key": leaves.keys,
                "s2_id": _column(leaves.s2_ids, pa.uint64(), len(leaves)),
                **{f"ancestor_{number}": column for number, column in enumerate(hierarchy.ancestors.T)},
                "lat_deg": leaves.lat_deg,
                "lng_deg": leaves.lng_deg,
                **dict(zip(_MEDOID, hierarchy.medoids.T, strict=True)),
                "n_photos": leaves.n_photos,
            }
        ),
    }
    if lineage is not None:
        tables["lineage"] = lineage
    with duckdb.connect(":memory:") as connection:
        # Small blocks: a table of a few thousand cells is most of a megabyte shorter with them. The storage version is
        # one that every DuckDB since 1.2 reads: left alone, the file would be for the DuckDB that wrote it and newer.
        options = "BLOCK_SIZE 16384, STORAGE_VERSION 'v1.2.0'"
        connection.execute(f"ATTACH $path AS made ({options})", {"path": str(path)})
        for name, table in tables.items():
            connection.register("incoming", table)
            connection.execute(f"CREATE TABLE made.{name} AS SELECT * FROM incoming")
            connection.unregister("incoming")
        # Closing would do this too, and keep to itself that the disk was full.
        connection.execute("CHECKPOINT made")
        connection.execute("DETACH made")


def read_cells(path: Path) -> Hierarchy:
    """Read the three tables back; an ArtifactError where they are not there, or do not fit together.

    The file is opened read-only and without access to anything outside it.
    """
    try:
        with duckdb.connect(path, read_only=True, config={"enable_external_access": "false"}) as connection:
            levels = connection.sql("SELECT * FROM levels ORDER BY level").to_arrow_table().to_pylist()
            cells = connection.sql("SELECT * FROM cells ORDER BY level, cell").to_arrow_table()
            leaves = connection.sql("SELECT * FROM leaves ORDER BY leaf").to_arrow_table()
        hierarchy = Hierarchy(
            [_level(row, cells.filter(pc.field("level") == row["level"])) for row in levels],
            np.stack([leaves[f"ancestor_{row['level']}"].to_numpy().astype(np.int64) for row in levels], axis=1),
            np.stack([leaves[name].to_numpy() for name in _MEDOID], axis=1),
        )
    except (duckdb.Error, KeyError, ValueError, pa.ArrowException) as error:
        newer = "database file with version number" in str(error)
        advice = "A newer DuckDB wrote it: pip install --upgrade duckdb." if newer else "Restore it from a copy."
        raise ArtifactError(f"{path}: cannot be read as a cell table ({error}). {advice}") from None
    _check(path, hierarchy)
    return hierarchy


def cells_table(number: int, level: Level) -> pa.Table:
    """The rows of table `cells` for one level."""
    ids = level.s2_ids
    return pa.table(
        {
            "level": pa.array(np.full(len(level), number, np.int32)),
            "cell": np.arange(len(level)),
            "key": level.keys,
            "s2_id": _column(ids, pa.uint64(), len(level)),
            "token": _column(None if ids is None else s2.tokens(ids), pa.string(), len(level)),
            "s2_level": _column(None if ids is None else s2.levels(ids), pa.int32(), len(level)),
            **{name: getattr(level, name) for name in (*_NUMBERS, "city", "country")},
        }
    )


def _column(values: np.ndarray | list[str] | None, kind: pa.DataType, length: int) -> pa.Array:
    """A column, or one of nulls where cells are labels and have no such thing."""
    return pa.nulls(length, kind) if values is None else pa.array(values, kind)


def _level(row: Mapping[str, Any], cells: pa.Table) -> Level:
    if len(cells) != row["n_cells"]:
        raise ValueError(f"level {row['level']} has {len(cells)} cells, its table of levels says {row['n_cells']}")
    return Level(
        **{name: row[name] for name in ("tau_min", "tau_max", "label", "coverage")},
        keys=np.array(cells["key"].to_pylist(), np.str_),
        s2_ids=cells["s2_id"].to_numpy() if row["label"] is None else None,
        city=np.array(cells["city"].to_pylist(), np.str_),
        country=np.array(cells["country"].to_pylist(), np.str_),
        **{name: cells[name].to_numpy() for name in _NUMBERS},
    )


def _check(path: Path, hierarchy: Hierarchy) -> None:
    sizes = np.array([len(level) for level in hierarchy.levels])
    in_order = all(
        level.s2_ids is None or (s2.valid(level.s2_ids).all() and (level.s2_ids[1:] > level.s2_ids[:-1]).all())
        for level in hierarchy.levels
    )
    ancestors = hierarchy.ancestors
    inside = ancestors.shape == (sizes[-1], len(sizes)) and ((ancestors >= 0) & (ancestors < sizes)).all()
    if not (sizes.all() and in_order and inside):
        raise ArtifactError(
            f"{path}: its cells are out of order or its ancestors point nowhere. Rebuild the hierarchy."
        )
