"""The cell table: a hierarchy as a DuckDB file that anyone can query (`docs/data-model.md` describes each field).

Tables: `levels`, one row per level; `cells`, one row per cell of each level; `leaves`, one row per finest cell with its
ancestor in every level.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from indexer import s2
from indexer.artifact import Manifest, read_manifest, write_folder
from indexer.errors import ArtifactError
from indexer.hierarchy import Hierarchy, Level

KIND = "hierarchy"
SCHEMA_VERSION = 1
CELLS_FILE = "cells.duckdb"


def save_hierarchy(
    hierarchy: Hierarchy, out: Path, *, config: Mapping[str, Any], inputs: Mapping[str, str | None]
) -> Path:
    """Write a hierarchy folder, whole or not at all, and return it."""
    with write_folder(out, kind=KIND, schema_version=SCHEMA_VERSION, config=config, inputs=inputs) as draft:
        write_cells(draft.path / CELLS_FILE, hierarchy)
        draft.facts |= {"digest": hierarchy.digest, "cells": [len(level) for level in hierarchy.levels]}
    return out


def load_hierarchy(folder: Path) -> Hierarchy:
    """Read a hierarchy folder.

    Raises:
        ArtifactError: not a hierarchy, damaged, or newer than this version.
    """
    hierarchy_manifest(folder)
    return read_cells(folder / CELLS_FILE)


def hierarchy_manifest(folder: Path) -> Manifest:
    """The checked manifest of a hierarchy folder; its facts hold the digest of the cells."""
    return read_manifest(folder, kind=KIND, schema_version=SCHEMA_VERSION)


def write_cells(path: Path, hierarchy: Hierarchy) -> None:
    """Write the three tables into a new DuckDB file."""
    with duckdb.connect(path) as connection:
        for name, table in (
            ("levels", _levels_table(hierarchy)),
            ("cells", pa.concat_tables(_cells_table(number, level) for number, level in enumerate(hierarchy.levels))),
            ("leaves", _leaves_table(hierarchy)),
        ):
            connection.register("incoming", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
            connection.unregister("incoming")


def read_cells(path: Path) -> Hierarchy:
    """Read the three tables back; the file is opened read-only and without access to anything outside it.

    Raises:
        ArtifactError: not such a file, or its tables do not fit together.
    """
    try:
        with duckdb.connect(path, read_only=True, config={"enable_external_access": "false"}) as connection:
            levels = connection.sql("SELECT * FROM levels ORDER BY level").to_arrow_table().to_pylist()
            cells = [
                connection.sql(
                    "SELECT * FROM cells WHERE level = ? ORDER BY cell", params=[row["level"]]
                ).to_arrow_table()
                for row in levels
            ]
            leaves = connection.sql("SELECT * FROM leaves ORDER BY leaf").to_arrow_table()
        hierarchy = Hierarchy(
            [_level(row, table) for row, table in zip(levels, cells, strict=True)],
            np.stack([leaves[f"ancestor_{row['level']}"].to_numpy().astype(np.int64) for row in levels], axis=1),
        )
    except (duckdb.Error, KeyError, ValueError, pa.ArrowException) as error:
        raise ArtifactError(f"{path}: cannot be read as a cell table ({error}). Restore it from a copy.") from None
    _check(path, hierarchy)
    return hierarchy


def _levels_table(hierarchy: Hierarchy) -> pa.Table:
    levels = hierarchy.levels
    return pa.table(
        {
            "level": pa.array(range(len(levels)), pa.int32()),
            "tau_min": pa.array([level.tau_min for level in levels], pa.int64()),
            "tau_max": pa.array([level.tau_max for level in levels], pa.int64()),
            "n_cells": pa.array([len(level) for level in levels], pa.int64()),
            "coverage": pa.array([level.coverage for level in levels], pa.float64()),
        }
    )


def _cells_table(number: int, level: Level) -> pa.Table:
    tokens = s2.tokens(level.s2_ids)
    return pa.table(
        {
            "level": pa.array(np.full(len(level), number, np.int32)),
            "cell": pa.array(np.arange(len(level))),
            "key": tokens,
            "s2_id": pa.array(level.s2_ids),
            "token": tokens,
            "s2_level": pa.array(s2.levels(level.s2_ids).astype(np.int32)),
            "n_photos": pa.array(level.n_photos),
            "lat_deg": pa.array(level.lat_deg),
            "lng_deg": pa.array(level.lng_deg),
            "radius_km": pa.array(level.radius_km),
            "leaf_begin": pa.array(level.leaf_begin),
            "leaf_end": pa.array(level.leaf_end),
            "city": pa.array(level.city.tolist(), pa.string()),
            "country": pa.array(level.country.tolist(), pa.string()),
        }
    )


def _leaves_table(hierarchy: Hierarchy) -> pa.Table:
    level, ancestors = hierarchy.leaves, hierarchy.ancestors
    return pa.table(
        {
            "leaf": pa.array(np.arange(len(level))),
            "key": s2.tokens(level.s2_ids),
            "s2_id": pa.array(level.s2_ids),
            **{f"ancestor_{number}": pa.array(ancestors[:, number]) for number in range(ancestors.shape[1])},
            "lat_deg": pa.array(level.lat_deg),
            "lng_deg": pa.array(level.lng_deg),
            "n_photos": pa.array(level.n_photos),
        }
    )


def _level(row: Mapping[str, Any], cells: pa.Table) -> Level:
    numbers = {
        name: cells[name].to_numpy()
        for name in ("s2_id", "n_photos", "lat_deg", "lng_deg", "radius_km", "leaf_begin", "leaf_end")
    }
    if len(cells) != row["n_cells"]:
        raise ValueError(f"level {row['level']} has {len(cells)} cells, its table of levels says {row['n_cells']}")
    return Level(
        tau_min=row["tau_min"],
        tau_max=row["tau_max"],
        coverage=row["coverage"],
        s2_ids=numbers.pop("s2_id"),
        city=np.array(cells["city"].to_pylist(), np.str_),
        country=np.array(cells["country"].to_pylist(), np.str_),
        **numbers,
    )


def _check(path: Path, hierarchy: Hierarchy) -> None:
    sizes = np.array([len(level) for level in hierarchy.levels])
    sorted_ids = all((level.s2_ids[1:] > level.s2_ids[:-1]).all() for level in hierarchy.levels)
    ancestors = hierarchy.ancestors
    inside = ancestors.shape == (sizes[-1], len(sizes)) and ((ancestors >= 0) & (ancestors < sizes)).all()
    if not (sizes.all() and sorted_ids and inside):
        raise ArtifactError(
            f"{path}: its cells are out of order or its ancestors point nowhere. Rebuild the hierarchy."
        )
