"""The tables of an audit, `leaks.parquet`, `duplicates.parquet` and `unreadable.parquet`, and the photos they name."""

from pathlib import Path

import pyarrow as pa

from indexer.errors import InputError
from indexer.photos.tables import names_of, open_table, read_columns

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


def excluded_photos(source: Path) -> list[str]:
    """Photos that are no evidence, each once: those of any table with a column photo, or of an audit's findings.

    Photos that could not be read are not among an audit's: nothing is known against them. Raises as `read_columns`, and
    InputError where a folder was written by no audit.
    """
    tables = [source]
    if source.is_dir():
        tables = [source / name for name in (LEAKS, DUPLICATES) if (source / name).is_file()]
        if not tables:
            raise InputError(f"{source}: no {LEAKS} or {DUPLICATES} in it. Give a folder of `audit`, or a table.")
    # No row in a table: nothing was found, which is no fault of it.
    found = [(read_columns(table, ["photo"]), table) for table in tables if open_table(table).n_rows != 0]
    return list(dict.fromkeys(name for rows, table in found for name in names_of(rows, table) if name))
