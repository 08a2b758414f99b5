"""Photos that are no evidence: those of anybody's list, and those with near-duplicates among what answers come from.

The second are in the folder of an audit, in the tables `leaks.parquet`, `duplicates.parquet` and `unreadable.parquet`.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from indexer.disk.manifest import read_manifest
from indexer.errors import InputError
from indexer.photos.tables import names_of, open_table, read_columns

KIND = "audit"  # of the folder
SCHEMA_VERSION = 1
LEAKS, DUPLICATES, UNREADABLE = "leaks.parquet", "duplicates.parquet", "unreadable.parquet"
SCHEMAS = {
    LEAKS: pa.schema(
        [
            ("photo", pa.string()),
            ("where", pa.string()),
            ("text", pa.string()),
            ("lat", pa.float64()),  # that it spells out; null where it names a place
            ("lng", pa.float64()),
            ("error_km", pa.float64()),  # from the photo's known place, where it has one
        ]
    ),
    DUPLICATES: pa.schema(
        [
            ("photo", pa.string()),
            ("by", pa.string()),  # 'hash' or 'embedding'
            ("reference", pa.string()),  # the nearest one
            ("n_references", pa.int64()),  # within the limit
            ("bits", pa.int64()),  # that differ, of 64
            ("cosine", pa.float64()),
            ("distance_km", pa.float64()),  # between the two photos' known places
        ]
    ),
    UNREADABLE: pa.schema([("photo", pa.string()), ("status", pa.string()), ("reason", pa.string())]),
}


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """The photos of an audit that have a near-duplicate among its references."""

    photos: list[str]  # names, each once
    n_audited: int  # photos that were looked at
    digest: str | None  # of the table that named these, where there was one


def near_duplicates(audit: Path) -> NearDuplicates:
    """Read what an audit found.

    Raises:
        ArtifactError: no folder that `audit` wrote.
        InputError: it compared its photos with no references.
    """
    manifest = read_manifest(audit, kind=KIND, schema_version=SCHEMA_VERSION)
    if not manifest.facts.get("compared", True):
        raise InputError(
            f"{audit}: its photos were compared with nothing. Audit them again, with `references` or `features`."
        )
    return NearDuplicates(_names(audit / DUPLICATES), int(manifest.facts["photos"]), manifest.inputs.get("photos"))


def excluded_photos(source: Path) -> list[str]:
    """Photos that a table names in a column photo, each once. Raises as `read_columns`, and InputError for a folder."""
    if source.is_dir():
        raise InputError(
            f"{source}: `exclude` takes tables, such as {LEAKS} of an audit. Give an audit's folder as `audit`: "
            "figures are then told without its near-duplicates."
        )
    return _names(source)


def _names(table: Path) -> list[str]:
    if open_table(table).n_rows == 0:  # nothing was found, which is no fault of it
        return []
    return list(dict.fromkeys(name for name in names_of(read_columns(table, ["photo"]), table) if name))
